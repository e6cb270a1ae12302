package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/event"
)

func (a *app) eventsCmd() *cobra.Command {
	var req apiv1.WatchRequest
	var follow, cursors bool
	var since, output string
	var lines uint32
	cmd := &cobra.Command{
		Use:   "events [flags]",
		Short: "Show what happens, and what has happened",
		Long: `Events prints what the daemon's journal holds, or with --follow what happens from now on;
with --since and --follow both, one after the other.

A topic is a name such as agent.exit, a pattern such as agent.*, or * for everything. Without
one you get every event but those that are only made while somebody asks for them by topic,
because there may be very many: opened and written files, threads, exceptions and the like.
` + "`aiosctl events topics`" + ` lists all.

A filter is an expression of CEL over topic, severity, agent, agent_name, domain, source,
correlation, time and data, the fields of the event as -o json shows them.

A durable subscription has a name and is remembered. It begins where it was left, and what
was printed is acknowledged.`,
		Example: `  aiosctl events -f
  aiosctl events -f --agent web --topic 'file.*'
  aiosctl events --since 10m --severity warning
  aiosctl events -f --filter 'topic == "agent.exit" && data.code != 0' -o json
  aiosctl events -f --durable billing --topic agent.exit -o json`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if lines > 0 && (follow || req.GetDurable() != "") {
				return invalid("--lines", strconv.Itoa(int(lines)), "the end of what is followed is not known", "leave out --follow")
			}
			req.Past = !follow && req.GetDurable() == ""
			if req.FromCursor, err = strconv.ParseUint(since, 10, 64); err != nil {
				if req.FromUnixNano, err = a.moment("--since", since); err != nil {
					return err
				}
			}
			req.Name = "aiosctl"
			p := eventPrinter{a: a, json: asJSON, cursors: cursors, keep: int(lines)}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error { return p.watch(ctx, c, &req) })
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with what happens")
	f.StringSliceVar(&req.Topics, "topic", nil, "`TOPIC` or pattern; may be given more than once")
	f.StringVar(&req.Filter, "filter", "", "`EXPRESSION` that an event has to match")
	f.StringVar(&since, "since", "", "from `TIME` on: a duration ago such as 10m, RFC 3339, or a cursor")
	f.StringVar(&req.Severity, "severity", "", "at least `LEVEL`: debug, info, notice, warning, error, critical")
	f.StringSliceVar(&req.Agents, "agent", nil, "of `AGENT`, by ID or name")
	f.StringVar(&req.Domain, "domain", "", "of the domain `NAME`")
	f.Float64Var(&req.Share, "sample", 0, "this `SHARE` of the events, such as 0.01")
	f.Float64Var(&req.PerSecond, "rate", 0, "at most `N` a second")
	f.Uint32VarP(&lines, "lines", "n", 0, "only the last `N`")
	f.BoolVar(&cursors, "cursor", false, "print the cursor of each event, for --since")
	f.StringVar(&req.Durable, "durable", "", "`NAME` of a durable subscription")
	f.StringVar(&req.Policy, "policy", "", "what is done when this reader is too slow; `POLICY` is drop-oldest, drop-newest or disconnect")
	outputFlag(cmd, &output, "json")
	a.completeFlag(cmd, "agent", a.allAgents)
	cmd.AddCommand(a.eventTopicsCmd(), a.eventStatsCmd(), a.eventForgetCmd())
	return cmd
}

// eventPrinter prints events as they come.
type eventPrinter struct {
	a       *app
	json    bool
	cursors bool
	// Only the last so many; 0: all.
	keep int
	last []string
}

func (p *eventPrinter) watch(ctx context.Context, c *client.Client, req *apiv1.WatchRequest) error {
	stream, err := c.Watch(ctx, req)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			for _, line := range p.last {
				if _, err := io.WriteString(p.a.stdout, line); err != nil {
					return err
				}
			}
			return nil
		case err != nil:
			return err
		case m.GetReady():
			continue
		case m.GetMissed() > 0:
			fmt.Fprintf(p.a.stderr, "aiosctl: %d events are missing here: %s\n", m.GetMissed(), printable(m.GetWhy()))
			continue
		}
		if err := p.print(m); err != nil {
			return err
		}
		if req.GetDurable() != "" {
			if _, err := c.Acknowledge(ctx, &apiv1.AcknowledgeRequest{Durable: req.GetDurable(), Cursor: m.GetCursor()}); err != nil {
				return err
			}
		}
	}
}

func (p *eventPrinter) print(m *apiv1.WatchResponse) error {
	e, err := event.FromProto(m.GetEvent())
	if err != nil {
		return err
	}
	line := ""
	if p.json {
		line = string(e.AppendJSON(nil)) + "\n"
	} else {
		line = p.a.eventLine(&e, m.GetAgentName()) + "\n"
	}
	if p.cursors {
		line = strconv.FormatUint(m.GetCursor(), 10) + " " + line
	}
	if p.keep > 0 {
		if len(p.last) == p.keep {
			p.last = p.last[1:]
		}
		p.last = append(p.last, line)
		return nil
	}
	_, err = io.WriteString(p.a.stdout, line)
	return err
}

func (a *app) eventTopicsCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "topics [TOPIC…]",
		Short:   "List every topic there is, or the fields of what is published under one",
		Example: "  aiosctl events topics\n  aiosctl events topics agent.exit",
		RunE: func(_ *cobra.Command, topics []string) error {
			if len(topics) > 0 {
				return a.printTopics(topics)
			}
			var rows [][]string
			for _, info := range event.Types() {
				when := "always"
				if info.OnDemand {
					when = "on demand"
				}
				rows = append(rows, []string{info.Topic, info.Severity.String(), when, info.Doc})
			}
			return a.table([]string{"TOPIC", "SEVERITY", "MADE", "WHAT HAPPENED"}, rows)
		},
	}
}

// printTopics prints the fields that events of some topics carry.
func (a *app) printTopics(topics []string) error {
	var rows [][]string
	for _, topic := range topics {
		set, err := event.Select([]string{topic})
		if err != nil {
			return err
		}
		for _, info := range event.Types() {
			if !set.Has(info.Type) {
				continue
			}
			fields := info.Payload.ProtoReflect().Descriptor().Fields()
			for i := range fields.Len() {
				f := fields.Get(i)
				kind := f.Kind().String()
				if f.Message() != nil {
					kind = string(f.Message().Name())
				}
				if f.IsList() {
					kind = "list of " + kind
				}
				rows = append(rows, []string{info.Topic, string(f.Name()), kind})
			}
		}
	}
	return a.table([]string{"TOPIC", "FIELD", "TYPE"}, rows)
}

func (a *app) eventStatsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "stats [flags]",
		Short:   "Count events by topic, and what subscribers got and lost",
		Example: "  aiosctl events stats",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				st, err := c.EventStats(ctx, &apiv1.EventStatsRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(viewEventStats(st))
				}
				return a.printEventStats(st)
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) eventForgetCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "forget NAME…",
		Short:   "Forget durable subscriptions",
		Example: "  aiosctl events forget billing",
		Args:    atLeast(1, "the name of a durable subscription"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				_, err := c.Unsubscribe(ctx, &apiv1.UnsubscribeRequest{Durable: name})
				return err
			})
		},
	}
}

// eventStatsView is what -o json prints.
type eventStatsView struct {
	Topics      map[string]uint64 `json:"topics"`
	Subscribers []subscriberView  `json:"subscribers"`
	Durable     []durableView     `json:"durable"`
	Journal     journalView       `json:"journal"`
	Twice       uint64            `json:"twice"`
	Unknown     uint64            `json:"unknown"`
}

type subscriberView struct {
	Name      string   `json:"name"`
	Topics    []string `json:"topics"`
	Severity  string   `json:"severity,omitempty"`
	Policy    string   `json:"policy"`
	Waiting   uint64   `json:"waiting"`
	Delivered uint64   `json:"delivered"`
	Lost      uint64   `json:"lost"`
}

type durableView struct {
	Name   string    `json:"name"`
	Next   uint64    `json:"next_cursor"`
	Behind uint64    `json:"behind"`
	Lost   uint64    `json:"lost"`
	Acked  time.Time `json:"acknowledged,omitzero"`
}

type journalView struct {
	First    uint64 `json:"first_cursor"`
	Last     uint64 `json:"last_cursor"`
	Bytes    int64  `json:"bytes"`
	Segments uint32 `json:"segments"`
	Lost     uint64 `json:"lost"`
	Failure  string `json:"failure,omitempty"`
}

func viewEventStats(st *apiv1.EventStatsResponse) eventStatsView {
	j := st.GetJournal()
	v := eventStatsView{
		Topics: st.GetTopics(), Subscribers: []subscriberView{}, Durable: []durableView{}, Twice: st.GetTwice(), Unknown: st.GetUnknown(),
		Journal: journalView{j.GetFirstCursor(), j.GetLastCursor(), j.GetBytes(), j.GetSegments(), j.GetLost(), j.GetFailure()},
	}
	for _, s := range st.GetSubscribers() {
		v.Subscribers = append(v.Subscribers, subscriberView{
			s.GetName(), s.GetTopics(), s.GetSeverity(), s.GetPolicy(), s.GetWaiting(), s.GetDelivered(), s.GetLost(),
		})
	}
	for _, s := range st.GetDurable() {
		d := durableView{Name: s.GetName(), Next: s.GetNextCursor(), Behind: s.GetBehind(), Lost: s.GetLost()}
		if n := s.GetAcknowledgedUnixNano(); n != 0 {
			d.Acked = time.Unix(0, n).UTC()
		}
		v.Durable = append(v.Durable, d)
	}
	return v
}
