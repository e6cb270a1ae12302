package command

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
)

// Watch is what a program writes to /aios/events: which events it wants, of
// those that its agent may see.
//
//	topics=agent.exit@worker,net.* severity=notice queue=100 filter=data.code != 0
type Watch struct {
	// Topics are objects of class event; without any they are all that are not
	// made on demand.
	Topics []capability.Object
	// Floor is the least severity, or 0.
	Floor  event.Severity
	Policy event.Policy
	// Queue is how many events may wait.
	Queue int
	// Filter is nil where there is none. It is said last, and may hold blanks.
	Filter *filter.Filter
}

// Bounds of a Watch.
const (
	maxTopics = 32
	// WatchQueue is how many events may wait unless the program says it, and
	// MaxWatchQueue the most that it may say.
	WatchQueue    = 1024
	MaxWatchQueue = 4096
)

// WatchUsage is what ParseWatch takes.
const WatchUsage = "[topics=TOPIC[@AGENT],...] [severity=LEVEL] [policy=POLICY] [queue=N] [filter=EXPRESSION]"

// ParseWatch reads a line; a newline at its end is dropped. An empty line asks
// for what every reader gets without one.
func ParseWatch(line string) (*Watch, error) {
	w := &Watch{Queue: WatchQueue}
	rest, err := oneLine(line)
	if err != nil {
		return nil, err
	}
	said := make(map[string]bool)
	for {
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			return w, nil
		}
		key, value, keyed := strings.Cut(rest, "=")
		if key != "filter" { // That is all of the rest.
			end := strings.IndexAny(rest, " \t")
			if end < 0 {
				end = len(rest)
			}
			key, value, keyed = strings.Cut(rest[:end], "=")
			rest = rest[end:]
		} else {
			rest = ""
		}
		switch {
		case !keyed:
			return nil, badWatch("%q is no KEY=VALUE", clip(key))
		case said[key]:
			return nil, badWatch("%s is said twice", clip(key))
		}
		said[key] = true
		if err := w.set(key, value); err != nil {
			return nil, err
		}
	}
}

func (w *Watch) set(key, value string) (err error) {
	switch key {
	case "topics":
		return w.setTopics(value)
	case "severity":
		w.Floor, err = event.ParseSeverity(value)
	case "policy":
		if value == "" {
			return badWatch("policy has no value")
		}
		w.Policy, err = event.ParsePolicy(value)
	case "queue":
		n, numErr := strconv.Atoi(value)
		if numErr != nil || n < 1 || n > MaxWatchQueue {
			return badWatch("queue=%s is no number of events", clip(value)).With(errdefs.Fix("give a number from 1 to %d", MaxWatchQueue))
		}
		w.Queue = n
	case "filter":
		w.Filter, err = filter.Compile(value)
	default:
		return badWatch("there is no key %q", clip(key))
	}
	return err
}

func (w *Watch) setTopics(list string) error {
	for text := range strings.SplitSeq(list, ",") {
		spec, err := capability.ParseSpec(abi.ClassEvent.String() + ":" + text)
		if err != nil || strings.ContainsAny(text, ":%") {
			return badWatch("%q is no TOPIC[@AGENT]", clip(text)).With(errdefs.Fix("write a topic such as agent.exit, agent.* or *, and @self, or @ and the name or ID of an agent, behind it for those of one"))
		}
		topic, _ := spec.Object.Topic()
		if _, err := event.Select([]string{topic}); err != nil {
			return err
		}
		if len(w.Topics) == maxTopics {
			return badWatch("there are more than %d topics", maxTopics).With(errdefs.Fix("write patterns, such as agent.*"))
		}
		w.Topics = append(w.Topics, spec.Object)
	}
	return nil
}

// Names returns the topics as they were written.
func (w *Watch) Names() []string {
	out := make([]string, len(w.Topics))
	for i, o := range w.Topics {
		out[i] = o.Name
	}
	return out
}

// String writes w so that ParseWatch reads the same.
func (w *Watch) String() string {
	out := []string{"queue=" + strconv.Itoa(w.Queue), "policy=" + w.Policy.String()}
	if len(w.Topics) > 0 {
		out = append(out, "topics="+strings.Join(w.Names(), ","))
	}
	if w.Floor != 0 {
		out = append(out, "severity="+w.Floor.String())
	}
	if w.Filter != nil {
		out = append(out, "filter="+w.Filter.String())
	}
	return strings.Join(out, " ")
}

// oneLine returns the line that a program wrote without its end; an error if
// it is more, or not text.
func oneLine(line string) (string, error) {
	line = strings.TrimSuffix(line, "\n")
	switch {
	case len(line) > MaxLen:
		return "", bad("the command is longer than %d bytes", MaxLen)
	case !utf8.ValidString(line):
		return "", bad("the command is not UTF-8")
	case strings.ContainsRune(line, '\n'):
		return "", bad("the text holds more than one line").With(errdefs.Fix("write one command at a time"))
	case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return "", bad("the command holds control characters")
	}
	return line, nil
}

func badWatch(format string, args ...any) *errdefs.Error {
	return bad(format, args...).With(errdefs.Op("subscribe"), errdefs.Fix("write %s", WatchUsage))
}
