package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/sentry/clocks"
)

// clockView is what an agent's clocks show, as -o json shows it.
type clockView struct {
	Agent     string    `json:"agent"`
	Name      string    `json:"name,omitempty"`
	Domain    string    `json:"domain"`
	Time      time.Time `json:"time"`
	Uptime    int64     `json:"uptime_ns"`
	Offset    int64     `json:"offset_ns"`
	Rate      float64   `json:"rate"`
	Monotonic int64     `json:"monotonic_ns"`
}

// parseOwnClock reads what --clock says.
func parseOwnClock(flag, text string) (*apiv1.OwnClock, error) {
	if text == "" {
		return nil, nil
	}
	c := new(apiv1.OwnClock)
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(pair, "=")
		if seen[key] {
			return nil, invalid(flag, pair, "said twice", "say it once")
		}
		seen[key] = true
		var err error
		switch key {
		case "offset":
			c.OffsetNano, err = parseOffset(flag, pair, value)
		case "monotonic":
			c.MonotonicNano, err = parseOffset(flag, pair, value)
		case "rate":
			var why string
			var rate clocks.Rate
			if rate, why = clocks.ParseRate(value); why != "" {
				err = invalid(flag, pair, why, "write one from 0.001 to 1000, such as rate=1.0005")
			}
			c.RatePpb = int64(rate)
		case "wall":
			var at time.Time
			if at, err = time.Parse(time.RFC3339, value); err != nil || at.Year() < 1970 || at.Year() > 2241 {
				err = invalid(flag, pair, "not a time from 1970 to 2241", "write wall=2030-01-01T00:00:00Z")
			}
			c.WallUnixNano = max(at.UnixNano(), 1) // 0 is none.
		default:
			err = invalid(flag, pair, "nothing that can be set", "set some of offset=36h, wall=2030-01-01T00:00:00Z, rate=60, monotonic=10m")
		}
		if err != nil {
			return nil, err
		}
	}
	if seen["offset"] && seen["wall"] {
		return nil, invalid(flag, text, "the clock is set twice", "give either offset or wall")
	}
	return c, nil
}

// day is a unit that package time does not read.
const day = 24 * time.Hour

// parseOffset reads a duration with a sign, of which the first unit may be days.
func parseOffset(flag, pair, value string) (int64, error) {
	rest, sign := value, time.Duration(1)
	if r, ok := strings.CutPrefix(value, "-"); ok {
		rest, sign = r, -1
	} else {
		rest = strings.TrimPrefix(value, "+")
	}
	var d time.Duration
	var err error
	days, after, hasDays := strings.Cut(rest, "d")
	if hasDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 17)
		d, rest = time.Duration(n)*day, after
	}
	if err == nil && (rest != "" || !hasDays) && rest != "0" {
		var more time.Duration
		if more, err = time.ParseDuration(rest); err == nil && (more < 0 || strings.HasPrefix(rest, "+")) {
			err = strconv.ErrSyntax
		}
		d += more
	}
	if err != nil || d < 0 {
		return 0, invalid(flag, pair, "not a length of time", "write one such as 36h, -30d or 1d12h30m")
	}
	return int64(sign * d), nil
}

// offsetText is what parseOffset reads.
func offsetText(nano int64) string {
	d, sign := time.Duration(nano), "+"
	switch {
	case d == 0:
		return "0"
	case d < 0:
		d, sign = -d, "-"
	}
	text := ""
	if d >= day {
		text = strconv.FormatInt(int64(d/day), 10) + "d"
		d %= day
	}
	if d == 0 {
		return sign + text
	}
	short := d.String()
	if strings.HasSuffix(short, "m0s") {
		short = strings.TrimSuffix(short, "0s")
	}
	if strings.HasSuffix(short, "h0m") {
		short = strings.TrimSuffix(short, "0m")
	}
	return sign + text + short
}

// rateOf is how fast an agent's CLOCK_REALTIME goes.
func rateOf(c *apiv1.OwnClock) clocks.Rate {
	if r := c.GetRatePpb(); r != 0 {
		return clocks.Rate(r)
	}
	return clocks.Normal
}

// clockText is what an agent has of its own.
func clockText(c *apiv1.OwnClock) string {
	if c == nil {
		return ""
	}
	text := "offset=" + offsetText(c.GetOffsetNano())
	if r := rateOf(c); r != clocks.Normal {
		text += ", rate=" + r.String()
	}
	if m := c.GetMonotonicNano(); m != 0 {
		text += ", monotonic=" + offsetText(m)
	}
	return text
}

func (a *app) clockCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "clock [flags] AGENT",
		Short: "Show an agent's clock, and set it",
		Long: `Clock shows what the clocks of an agent's programs show, how far ahead of the host's they are now,
and how many times as fast CLOCK_REALTIME goes. An agent that is called as the command below is shown by its ID.`,
		Example: "  aiosctl clock web\n  aiosctl clock web -o json | jq .offset_ns\n  aiosctl clock set web offset=-30d",
		Args:    exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askClock(cmd, output, &apiv1.AgentClockRequest{Agent: args[0]})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	cmd.AddCommand(a.clockSetCmd())
	return cmd
}

func (a *app) clockSetCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "set [flags] AGENT KEYS",
		Short: "Set the clock of an agent",
		Long: `Set has CLOCK_REALTIME of an agent's programs be so much ahead of the host's, or go so many times as
fast, from now on, and prints what it shows. No other agent sees it, and durations are what they were.
KEYS are, with commas between them:

  offset=36h                   ahead of the host's clock; -30d: behind it; 0: the host's time
  wall=2030-01-01T00:00:00Z    it is that time now
  rate=60                      a minute by it is a second; 0.001 to 1000. Without another key it goes on
                               from what it shows; without this one it goes as fast as it did

Calls that wait until a moment wait for the same moment by the new time; timers that are set keep
theirs. CLOCK_MONOTONIC is what it was.`,
		Example: `  aiosctl clock set web offset=-30d
  aiosctl clock set web wall=2030-01-01T00:00:00Z,rate=60
  aiosctl clock set web rate=1.0005
  aiosctl clock set web offset=0,rate=1`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage(cmd, "say what to set, offset=TIME, wall=TIME or rate=RATE")
			}
			c, err := parseOwnClock("clock set", args[1])
			if err != nil {
				return err
			}
			req := &apiv1.AgentClockRequest{Agent: args[0]}
			for pair := range strings.SplitSeq(args[1], ",") {
				switch key, _, _ := strings.Cut(pair, "="); key {
				case "offset":
					req.OffsetNano = &c.OffsetNano
				case "wall":
					req.WallUnixNano = &c.WallUnixNano
				case "rate":
					req.RatePpb = &c.RatePpb
				default:
					return invalid("clock set", pair, "not what can be set of an agent that runs", "set offset=TIME, wall=TIME or rate=RATE")
				}
			}
			return a.askClock(cmd, output, req)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeFirst(a.runningAgents)(cmd, args, typed)
			}
			return []string{"offset=", "wall=", "rate="}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// askClock asks for an agent's clock, or sets it, and prints it.
func (a *app) askClock(cmd *cobra.Command, output string, req *apiv1.AgentClockRequest) error {
	asJSON, err := a.wantsJSON(output)
	if err != nil {
		return err
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		r, err := c.AgentClock(ctx, req)
		if err != nil {
			return a.suggest(ctx, c, err, req.GetAgent())
		}
		at := time.Unix(0, r.GetRealtimeUnixNano())
		if asJSON {
			return a.printJSON(clockView{
				r.GetAgent(), r.GetName(), r.GetDomain(), at.UTC(), r.GetUptimeNano(), r.GetClock().GetOffsetNano(), rateOf(r.GetClock()).Float(),
				r.GetClock().GetMonotonicNano(),
			})
		}
		return a.table([]string{"WHAT", "VALUE"}, [][]string{
			{"agent", orElse(r.GetName(), r.GetAgent())}, {"time", at.In(a.zone).Format("2006-01-02 15:04:05.000 MST")},
			{"offset", offsetText(r.GetClock().GetOffsetNano())}, {"rate", rateOf(r.GetClock()).String()}, {"uptime", span(r.GetUptimeNano())},
			{"monotonic", offsetText(r.GetClock().GetMonotonicNano())},
		})
	})
}
