package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// hookView is a hook as -o json shows it.
type hookView struct {
	Name       string     `json:"name"`
	Order      int64      `json:"order"`
	Operations []string   `json:"operations"`
	Agents     []string   `json:"agents,omitempty"`
	Before     bool       `json:"before"`
	After      bool       `json:"after"`
	Command    []string   `json:"command"`
	Timeout    int64      `json:"timeout_ns"`
	OnFailure  string     `json:"on_failure"`
	Breaker    string     `json:"breaker"`
	RetryIn    int64      `json:"retry_in_ns,omitempty"`
	Calls      uint64     `json:"calls"`
	Vetoes     uint64     `json:"vetoes"`
	Failures   uint64     `json:"failures"`
	P50        int64      `json:"p50_ns"`
	P99        int64      `json:"p99_ns"`
	Max        int64      `json:"max_ns"`
	Error      string     `json:"error,omitempty"`
	Fix        string     `json:"fix,omitempty"`
	ErrorAt    *time.Time `json:"error_at,omitempty"`
}

func viewHook(h *apiv1.HookStatus) hookView {
	return hookView{
		h.GetName(), h.GetOrder(), h.GetOperations(), h.GetAgents(), h.GetBefore(), h.GetAfter(), h.GetCommand(), h.GetTimeoutNano(),
		h.GetOnFailure(), h.GetBreaker(), h.GetRetryInNano(), h.GetCalls(), h.GetVetoes(), h.GetFailures(),
		h.GetP50Nano(), h.GetP99Nano(), h.GetMaxNano(), h.GetError(), h.GetFix(), viewTime(h.GetErrorUnixNano()),
	}
}

func (a *app) hookCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "hook COMMAND",
		Aliases: []string{"hooks"},
		RunE:    group,
		Short:   "Show the programs that are asked before something is done to agents",
		Long: `A hook is a program that is asked before something is done to an agent, and may refuse, or told
after. The daemon's configuration file says which hooks there are; see docs/hooks.md.`,
		Example: "  aiosctl hook ls",
	}
	cmd.AddCommand(a.hookListCmd())
	return cmd
}

func (a *app) hookListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List hooks: what they hear of, what they did, and the latest failure",
		Long: `Ls lists the hooks in the order in which they are called. Counts are of the time since the daemon
started: CALLS are how often the program was to be run, VETOES how often it refused, FAILED how often
it did not end well or in time. BREAKER is the circuit breaker: while it is open the program is not run.`,
		Example: "  aiosctl hook ls\n  aiosctl hook ls -o json | jq '.[] | select(.failures > 0)'",
	}
	return listCmd(a, cmd, func(ctx context.Context, c *client.Client) ([]*apiv1.HookStatus, error) {
		resp, err := c.HookList(ctx, &apiv1.HookListRequest{})
		return resp.GetHooks(), err
	}, viewHook, a.printHooks)
}

func (a *app) printHooks(hooks []*apiv1.HookStatus) error {
	count := func(n uint64) string { return strconv.FormatUint(n, 10) }
	took := func(ns int64) string { return short(time.Duration(ns)) }
	var rows [][]string
	for _, h := range hooks {
		var when []string
		if h.GetBefore() {
			when = append(when, "before")
		}
		if h.GetAfter() {
			when = append(when, "after")
		}
		agents := strings.Join(h.GetAgents(), ",")
		if agents == "" {
			agents = "*"
		}
		rows = append(rows, []string{
			h.GetName(), strconv.FormatInt(h.GetOrder(), 10), strings.Join(when, ","), strings.Join(h.GetOperations(), ","), agents,
			count(h.GetCalls()), count(h.GetVetoes()), count(h.GetFailures()), took(h.GetP50Nano()), took(h.GetMaxNano()), breakerOf(h, "runs"),
		})
	}
	if err := a.table([]string{"NAME", "ORDER", "WHEN", "OPERATIONS", "AGENTS", "CALLS", "VETOES", "FAILED", "P50", "MAX", "BREAKER"}, rows); err != nil {
		return err
	}
	printFailures(a, hooks)
	return nil
}
