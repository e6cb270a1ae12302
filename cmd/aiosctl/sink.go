package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// sinkView is a sink as -o json shows it.
type sinkView struct {
	Name      string     `json:"name"`
	Kind      string     `json:"kind"`
	Target    string     `json:"target"`
	State     string     `json:"state"`
	Since     *time.Time `json:"since,omitempty"`
	Breaker   string     `json:"breaker"`
	RetryIn   int64      `json:"retry_in_ns,omitempty"`
	Delivered uint64     `json:"delivered"`
	Failures  uint64     `json:"failures"`
	Skipped   uint64     `json:"skipped"`
	Lost      uint64     `json:"lost"`
	Behind    uint64     `json:"behind"`
	LastSent  *time.Time `json:"last_sent,omitempty"`
	Error     string     `json:"error,omitempty"`
	Fix       string     `json:"fix,omitempty"`
	ErrorAt   *time.Time `json:"error_at,omitempty"`
}

func viewSink(s *apiv1.SinkStatus) sinkView {
	return sinkView{
		s.GetName(), s.GetKind(), s.GetTarget(), s.GetState(), viewTime(s.GetSinceUnixNano()), s.GetBreaker(), s.GetRetryInNano(),
		s.GetDelivered(), s.GetFailures(), s.GetSkipped(), s.GetLost(), s.GetBehind(), viewTime(s.GetLastSentUnixNano()),
		s.GetError(), s.GetFix(), viewTime(s.GetErrorUnixNano()),
	}
}

func (a *app) sinkCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sink COMMAND",
		RunE:  group,
		Short: "Show the receivers outside that events are sent to",
		Long: `A sink sends events to a web server or to NATS. The daemon's configuration file says which sinks
there are; see docs/events.md.`,
		Example: "  aiosctl sink ls",
	}
	cmd.AddCommand(a.sinkListCmd())
	return cmd
}

func (a *app) sinkListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List sinks: how they are, what they sent, and the latest failure",
		Long: `Ls lists the sinks. Counts are of the time since the daemon started: SENT are events that the receiver
took, FAILED attempts, SKIPPED events that it refused and that were passed over, LOST events that the
journal had deleted before they could be sent, BEHIND records of the journal that the sink has yet to
come to. BREAKER is the circuit breaker: while it is open the receiver is not asked.`,
		Example: "  aiosctl sink ls\n  aiosctl sink ls -o json | jq '.[] | select(.state != \"ok\")'",
	}
	return listCmd(a, cmd, func(ctx context.Context, c *client.Client) ([]*apiv1.SinkStatus, error) {
		resp, err := c.SinkList(ctx, &apiv1.SinkListRequest{})
		return resp.GetSinks(), err
	}, viewSink, a.printSinks)
}

func (a *app) printSinks(sinks []*apiv1.SinkStatus) error {
	count := func(n uint64) string { return strconv.FormatUint(n, 10) }
	var rows [][]string
	for _, s := range sinks {
		rows = append(rows, []string{
			s.GetName(), s.GetState(), printable(s.GetTarget()), count(s.GetDelivered()), count(s.GetFailures()), count(s.GetSkipped()),
			count(s.GetLost()), count(s.GetBehind()), breakerOf(s, "asks"),
		})
	}
	if err := a.table([]string{"NAME", "STATE", "TARGET", "SENT", "FAILED", "SKIPPED", "LOST", "BEHIND", "BREAKER"}, rows); err != nil {
		return err
	}
	printFailures(a, sinks)
	return nil
}
