package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// eventLine is an event on one line: when, how bad, what, of whom, and the
// fields of its payload.
func (a *app) eventLine(e *event.Event, name string) string {
	who := e.Agent
	switch {
	case name != "":
		who = name
	case who == "" && e.Domain != "":
		who = e.Domain
	case who == "":
		who = "-"
	}
	line := fmt.Sprintf("%s %s %-18s %-12s", time.Unix(0, e.Wall).In(a.zone).Format("15:04:05.000"), a.severity(e.Severity), e.Topic(), printable(who))
	if e.Payload != nil {
		for _, word := range payloadWords(e.Payload.ProtoReflect()) {
			line += " " + printable(word)
		}
	}
	return strings.TrimRight(line, " ")
}

// severity is the name of a severity in a column, in colour on a terminal.
func (a *app) severity(s event.Severity) string {
	text := fmt.Sprintf("%-8s", s)
	switch {
	case s >= event.Error:
		return a.color(text, "31")
	case s == event.Warning:
		return a.color(text, "33")
	}
	return text
}

// payloadWords writes the fields of a payload as name=value.
func payloadWords(m protoreflect.Message) []string {
	var words []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		name, v := string(f.Name()), m.Get(f)
		switch {
		case f.IsMap(): // Losses by severity, which the count sums up.
			continue
		case f.IsList():
			var items []string
			for i := range v.List().Len() {
				if f.Message() != nil {
					items = append(items, payloadWords(v.List().Get(i).Message())...)
				} else {
					items = append(items, v.List().Get(i).String())
				}
			}
			words = append(words, name+"="+quoted(strings.Join(items, " ")))
		case f.Kind() == protoreflect.MessageKind:
			if p, ok := v.Message().Interface().(*eventv1.Process); ok {
				words = append(words, fmt.Sprintf("%s=%d(%s)", name, p.GetPid(), p.GetName()))
			}
		case f.Kind() == protoreflect.StringKind:
			words = append(words, name+"="+quoted(v.String()))
		case slices.Contains(durations, name):
			words = append(words, name+"="+roughly(time.Duration(v.Int())))
		default:
			words = append(words, name+"="+v.String())
		}
	}
	return words
}

// durations are fields of nanoseconds.
var durations = []string{"took", "lifetime", "delay", "interval", "lasted", "held", "late", "timeout", "retry_in", "paused_for", "cpu_time", "offset", "was_offset", "monotonic", "step", "jitter"}

// roughly rounds a duration to three digits or so.
func roughly(d time.Duration) string {
	for unit := time.Second; unit >= time.Microsecond; unit /= 1000 {
		if d.Abs() >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// quoted puts text into quotes that holds blanks, or nothing.
func quoted(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\n\"=") {
		return strconv.Quote(s)
	}
	return s
}

func (a *app) printEventStats(st *apiv1.EventStatsResponse) error {
	j := st.GetJournal()
	fmt.Fprintf(a.stdout, "journal: cursors %d to %d, %s in %d files, %d lost\n",
		j.GetFirstCursor(), j.GetLastCursor(), size(uint64(j.GetBytes())), j.GetSegments(), j.GetLost())
	if j.GetFailure() != "" {
		fmt.Fprintf(a.stdout, "the journal is not written: %s\n", printable(j.GetFailure()))
	}
	var topics []string
	for t := range st.GetTopics() {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	var rows [][]string
	for _, t := range topics {
		rows = append(rows, []string{t, strconv.FormatUint(st.GetTopics()[t], 10)})
	}
	fmt.Fprintln(a.stdout)
	if err := a.table([]string{"TOPIC", "EVENTS"}, rows); err != nil {
		return err
	}
	rows = nil
	for _, s := range st.GetSubscribers() {
		what := strings.Join(s.GetTopics(), " ")
		rows = append(rows, []string{
			dash(s.GetName()), dash(what), s.GetPolicy(), strconv.FormatUint(s.GetWaiting(), 10),
			strconv.FormatUint(s.GetDelivered(), 10), strconv.FormatUint(s.GetLost(), 10),
		})
	}
	if len(rows) > 0 {
		fmt.Fprintln(a.stdout)
		if err := a.table([]string{"SUBSCRIBER", "TOPICS", "POLICY", "WAITING", "DELIVERED", "LOST"}, rows); err != nil {
			return err
		}
	}
	rows = nil
	for _, s := range st.GetDurable() {
		rows = append(rows, []string{
			s.GetName(), strconv.FormatUint(s.GetNextCursor(), 10), strconv.FormatUint(s.GetBehind(), 10),
			strconv.FormatUint(s.GetLost(), 10), a.age(s.GetAcknowledgedUnixNano()),
		})
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	return a.table([]string{"DURABLE", "NEXT", "BEHIND", "LOST", "ACKNOWLEDGED"}, rows)
}
