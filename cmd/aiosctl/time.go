package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// timeView is what is known of the time, as -o json shows it.
type timeView struct {
	Now       *time.Time       `json:"now"`
	State     string           `json:"state"`
	Since     *time.Time       `json:"since,omitempty"`
	Offset    int64            `json:"offset_ns"`
	Target    int64            `json:"target_ns"`
	Jitter    int64            `json:"jitter_ns,omitempty"`
	Stratum   uint32           `json:"stratum,omitempty"`
	Reference string           `json:"reference,omitempty"`
	LastSync  *time.Time       `json:"last_sync,omitempty"`
	Steps     uint64           `json:"steps"`
	Interval  int64            `json:"interval_ns,omitempty"`
	Step      int64            `json:"step_ns,omitempty"`
	Limit     int64            `json:"limit_ns,omitempty"`
	Reason    string           `json:"reason,omitempty"`
	Fix       string           `json:"fix,omitempty"`
	Servers   []timeServerView `json:"servers"`
}

type timeServerView struct {
	Name        string     `json:"name"`
	State       string     `json:"state"`
	Breaker     string     `json:"breaker"`
	RetryIn     int64      `json:"retry_in_ns,omitempty"`
	Offset      int64      `json:"offset_ns"`
	Delay       int64      `json:"delay_ns,omitempty"`
	Uncertainty int64      `json:"uncertainty_ns,omitempty"`
	Jitter      int64      `json:"jitter_ns,omitempty"`
	Stratum     uint32     `json:"stratum,omitempty"`
	Reference   string     `json:"reference,omitempty"`
	LastAnswer  *time.Time `json:"last_answer,omitempty"`
	Asked       uint64     `json:"asked"`
	Answered    uint64     `json:"answered"`
	Failed      uint64     `json:"failed"`
	Error       string     `json:"error,omitempty"`
	Fix         string     `json:"fix,omitempty"`
	ErrorAt     *time.Time `json:"error_at,omitempty"`
}

func viewTimeServer(s *apiv1.TimeServer) timeServerView {
	return timeServerView{
		s.GetName(), s.GetState(), s.GetBreaker(), s.GetRetryInNano(), s.GetOffsetNano(), s.GetDelayNano(), s.GetUncertaintyNano(),
		s.GetJitterNano(), s.GetStratum(), s.GetReference(), viewTime(s.GetLastAnswerUnixNano()), s.GetAsked(), s.GetAnswered(),
		s.GetFailed(), s.GetError(), s.GetFix(), viewTime(s.GetErrorUnixNano()),
	}
}

func viewTimeStatus(s *apiv1.TimeStatusResponse) timeView {
	return timeView{
		viewTime(s.GetNowUnixNano()), s.GetState(), viewTime(s.GetSinceUnixNano()), s.GetOffsetNano(), s.GetTargetNano(), s.GetJitterNano(),
		s.GetStratum(), s.GetReference(), viewTime(s.GetLastSyncUnixNano()), s.GetSteps(), s.GetIntervalNano(), s.GetStepNano(),
		s.GetLimitNano(), s.GetReason(), s.GetFix(), views(s.GetServers(), viewTimeServer),
	}
}

func (a *app) timeCmd() *cobra.Command {
	var output string
	show := func(ask func(context.Context, *client.Client) (*apiv1.TimeStatusResponse, error)) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := ask(ctx, c)
				if err != nil {
					return err
				}
				if asJSON {
					return a.printJSON(viewTimeStatus(resp))
				}
				return a.printTime(resp)
			})
		}
	}
	cmd := &cobra.Command{
		Use:   "time [flags]",
		Short: "Show AIOS's clock, and the time servers that it follows",
		Long: `Time shows the clock by which AIOS stamps events, audit records, logs and agents: how far it is ahead
of the host's, and what the time servers say that the configuration file names. Without any it is the
host's clock. The host's clock is never set, and programs in agents see the host's,
or a clock of their own; see docs/time.md.

OFFSET is what is to be added to the host's clock, DELAY how long the answer was under way, ERROR how
wrong it may be, JITTER how far the latest answers differ.`,
		Example: "  aiosctl time\n  aiosctl time -o json | jq .offset_ns\n  aiosctl time sync",
		Args:    exactly(0, ""),
		RunE: show(func(ctx context.Context, c *client.Client) (*apiv1.TimeStatusResponse, error) {
			return c.TimeStatus(ctx, &apiv1.TimeStatusRequest{})
		}),
	}
	outputFlag(cmd, &output, "json")
	sync := &cobra.Command{
		Use:     "sync [flags]",
		Short:   "Ask the time servers now",
		Long:    "Sync asks the time servers now instead of when it is time, and shows how the clock stands then.",
		Example: "  aiosctl time sync",
		Args:    exactly(0, ""),
		RunE: show(func(ctx context.Context, c *client.Client) (*apiv1.TimeStatusResponse, error) {
			return c.TimeSync(ctx, &apiv1.TimeSyncRequest{})
		}),
	}
	outputFlag(sync, &output, "json")
	cmd.AddCommand(sync)
	return cmd
}

// span is a difference of clocks, exact enough for people.
func span(nano int64) string {
	d := time.Duration(nano)
	unit := time.Microsecond
	if max(d, -d) >= time.Second {
		unit = time.Millisecond
	}
	return d.Round(unit).String()
}

func (a *app) printTime(s *apiv1.TimeStatusResponse) error {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(a.stdout, "%-10s "+format+"\n", append([]any{what}, args...)...)
	}
	line("time", "%s", time.Unix(0, s.GetNowUnixNano()).In(a.zone).Format("2006-01-02 15:04:05.000 MST"))
	if s.GetState() == "host" {
		line("state", "the host's clock; no time servers are configured")
		return nil
	}
	// By the clock that is shown, not by that of this host.
	since := func(nano int64) string { return shortDuration(time.Duration(max(0, s.GetNowUnixNano()-nano))) }
	line("state", "%s for %s", s.GetState(), since(s.GetSinceUnixNano()))
	offset := span(s.GetOffsetNano()) + " to the host's clock"
	if s.GetTargetNano() != s.GetOffsetNano() {
		offset += ", slewed to " + span(s.GetTargetNano())
	}
	line("offset", "%s", offset)
	if s.GetLastSyncUnixNano() != 0 {
		line("jitter", "%s", span(s.GetJitterNano()))
		line("stratum", "%d, by %s", s.GetStratum(), printable(s.GetReference()))
	}
	line("steps", "%d", s.GetSteps())
	if s.GetReason() != "" {
		line("why", "%s", printable(s.GetReason()))
		line("fix", "%s", printable(s.GetFix()))
	}
	fmt.Fprintln(a.stdout)
	var rows [][]string
	for _, v := range s.GetServers() {
		row := []string{v.GetName(), v.GetState(), "-", "-", "-", "-", "-", "-", strconv.FormatUint(v.GetAnswered(), 10), strconv.FormatUint(v.GetFailed(), 10)}
		if v.GetLastAnswerUnixNano() != 0 {
			copy(row[2:], []string{
				span(v.GetOffsetNano()), span(v.GetDelayNano()), span(v.GetUncertaintyNano()), span(v.GetJitterNano()),
				strconv.Itoa(int(v.GetStratum())), since(v.GetLastAnswerUnixNano()),
			})
		}
		rows = append(rows, row)
	}
	if err := a.table([]string{"SERVER", "STATE", "OFFSET", "DELAY", "ERROR", "JITTER", "STRATUM", "LAST", "ANSWERS", "FAILURES"}, rows); err != nil {
		return err
	}
	for _, v := range s.GetServers() {
		if v.GetError() == "" || v.GetState() == "agrees" {
			continue
		}
		fmt.Fprintf(a.stdout, "\n%s, %s ago: %s\n", v.GetName(), since(v.GetErrorUnixNano()), printable(v.GetError()))
		if v.GetFix() != "" {
			fmt.Fprintf(a.stdout, "fix: %s\n", printable(v.GetFix()))
		}
	}
	return nil
}
