package command

import (
	"errors"
	"strings"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
)

func TestParseWatch(t *testing.T) {
	for line, want := range map[string]struct {
		topics, filter string
		floor          event.Severity
		policy         event.Policy
		queue          int
	}{
		"":                         {queue: WatchQueue},
		"\n":                       {queue: WatchQueue},
		"topics=*":                 {topics: "*", queue: WatchQueue},
		"topics=*@self":            {topics: "*@self", queue: WatchQueue},
		"  topics=a0.b\t queue=9 ": {}, // There is no such topic.
		"topics=agent.exit@worker,net.*@a0123456789ab\n": {topics: "agent.exit@worker,net.*@a0123456789ab", queue: WatchQueue},
		"queue=1 severity=Notice policy=disconnect":      {floor: event.Notice, policy: event.Disconnect, queue: 1},
		`filter=data.code != 0 && topic == "agent.exit"`: {filter: `data.code != 0 && topic == "agent.exit"`, queue: WatchQueue},
		`queue=5 filter=severity >= "warning" `:          {filter: `severity >= "warning" `, queue: 5},
	} {
		got, err := ParseWatch(line)
		if want.queue == 0 {
			if err == nil {
				t.Errorf("%q is accepted", line)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		filter := ""
		if got.Filter != nil {
			filter = got.Filter.String()
		}
		if strings.Join(got.Names(), ",") != want.topics || filter != want.filter || got.Floor != want.floor || got.Policy != want.policy || got.Queue != want.queue {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

func TestParseWatchRefuses(t *testing.T) {
	for line, says := range map[string]string{
		"agent.exit":                         "KEY=VALUE",
		"topics":                             "KEY=VALUE",
		"topics=":                            "TOPIC[@AGENT]",
		"topics=agent.exit,":                 "TOPIC[@AGENT]",
		"topics=agnt.exit":                   "no event has this topic",
		"topics=agent.exit@":                 "TOPIC[@AGENT]",
		"topics=agent.exit@*":                "TOPIC[@AGENT]",
		"topics=agent.exit@self@self":        "TOPIC[@AGENT]",
		"topics=agent.exit:subscribe":        "TOPIC[@AGENT]",
		"topics=agent%2eexit":                "TOPIC[@AGENT]",
		"topics=*.exit":                      "TOPIC[@AGENT]",
		"topics=agent.e*":                    "TOPIC[@AGENT]",
		"topics=../../x":                     "TOPIC[@AGENT]",
		"topics=agent.exit topics=net.*":     "said twice",
		"severity=":                          "no severity",
		"severity=loud":                      "no severity",
		"policy=":                            "no value",
		"policy=wait":                        "no policy",
		"queue=0":                            "number of events",
		"queue=4097":                         "number of events",
		"queue=-1":                           "number of events",
		"queue=1e3":                          "number of events",
		"queue=99999999999999999999":         "number of events",
		"colour=red":                         "no key",
		"filter=":                            "column",
		"filter=nothing == 1":                "undeclared",
		"filter=1 + 1":                       "type int",
		"topics=*\ntopics=*":                 "more than one line",
		"topics=*\x00":                       "control characters",
		"topics=\xff":                        "not UTF-8",
		"topics=" + strings.Repeat("*,", 40): "more than 32",
		strings.Repeat("x", MaxLen+1):        "longer than",
	} {
		w, err := ParseWatch(line)
		if err == nil {
			t.Errorf("%.60q is accepted: %+v", line, w)
			continue
		}
		if errdefs.CodeOf(err) != errdefs.InvalidArgument || !strings.Contains(err.Error(), says) || len(err.Error()) > 400 {
			t.Errorf("%.60q: %v (%s), want something about %q", line, err, errdefs.CodeOf(err), says)
		}
	}
}

// FuzzParseWatch: whatever is accepted is within bounds, and is written in a
// form that reads the same.
func FuzzParseWatch(f *testing.F) {
	for _, s := range []string{
		"", "topics=agent.exit@worker,net.* severity=notice policy=drop-newest queue=100 filter=data.code != 0", "topics=*@self",
		"filter=topic == \"x\"", "queue=1", "topics=agent.*@a0123456789ab\n", "topics=event:x", "severity=\tnotice",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		w, err := ParseWatch(line)
		if err != nil {
			var e *errdefs.Error
			if !errors.As(err, &e) || e.Code != errdefs.InvalidArgument {
				t.Errorf("an error without the right code: %v", err)
			}
			return
		}
		if w.Queue < 1 || w.Queue > MaxWatchQueue || len(w.Topics) > maxTopics || w.Floor > event.Critical {
			t.Errorf("out of bounds: %+v", w)
		}
		for _, o := range w.Topics {
			topic, whose := o.Topic()
			if _, err := event.Select([]string{topic}); err != nil || whose != "" && whose != "self" && !abi.ValidName(whose) && !abi.IsAgentID(whose) {
				t.Errorf("topic %q of %q: %v", topic, whose, err)
			}
		}
		again, err := ParseWatch(w.String())
		if err != nil || again.String() != w.String() {
			t.Errorf("%q is written %q, which is %+v, %v", line, w, again, err)
		}
	})
}
