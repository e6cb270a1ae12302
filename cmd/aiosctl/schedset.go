package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/sentry/sched"
)

func (a *app) schedSetCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "set [flags] AGENT KEY=VALUE[,KEY=VALUE]…",
		Short: "Change what a running agent may use of the CPUs",
		Long: `Set changes what a running agent may use of the CPUs, at once, and prints what it may use now. What is
not named stays. What cannot be kept is refused, and then nothing is changed.

  weight=200            its part among those that want a CPU; 100 is usual
  quota=0.5             the most it may use, in CPUs; none: no bound
  period=100ms          the time that the quota is for
  burst=20ms            what may be saved up of the quota; none
  deadline=20ms/100ms   20 ms in each 100 ms are promised; none
  cpus=0-1+3            where it may run; all
  priority=25           its threads may be as nice as 20 less this
  class=idle            it runs only while nobody else wants to; fair

It is the agent's own capability to CPU time that is changed, the one that it was started with, until
the agent ends. What others have given it counts besides: of several weights and priorities the
largest, of quotas and deadlines the sum.`,
		Example: `  aiosctl sched set web weight=300
  aiosctl sched set web quota=0.5,period=50ms cpus=0
  aiosctl sched set web quota=none cpus=all deadline=none`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if len(args) < 2 {
				return usage(cmd, "what to change is missing")
			}
			var pairs []string
			for _, arg := range args[1:] {
				pairs = append(pairs, strings.Split(arg, ",")...)
			}
			req, err := parseCPU("sched set", pairs, true)
			if err != nil {
				return err
			}
			req.Agent = args[0]
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.SchedSet(ctx, req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					return a.printJSON(viewSchedAgent(resp.GetDomain(), resp.GetAgent()))
				}
				return a.printSchedSet(resp)
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeFirst(a.runningAgents)(cmd, args, typed)
			}
			return completeCPU(typed), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// completeCPU completes the last of KEY=VALUE pairs.
func completeCPU(typed string) (out []string) {
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	key, _, valued := strings.Cut(typed[len(before):], "=")
	if !valued {
		for pair := range strings.SplitSeq(cpuKeys, ", ") {
			key, _, _ := strings.Cut(pair, "=")
			out = append(out, before+key+"=")
		}
		return out
	}
	for _, v := range map[string][]string{"class": {"fair", "idle"}, "quota": {"none"}, "burst": {"none"}, "deadline": {"none"}, "cpus": {"all"}}[key] {
		out = append(out, before+key+"="+v)
	}
	return out
}

func (a *app) printSchedSet(resp *apiv1.SchedSetResponse) error {
	g := resp.GetAgent()
	return a.table([]string{"WHAT", "VALUE"}, [][]string{
		{"agent", orElse(g.GetName(), g.GetAgent())}, {"class", g.GetClass()}, {"weight", strconv.FormatUint(g.GetWeight(), 10)},
		{"quota", quotaText(g)}, {"reserved", promiseText(g)}, {"cpus", orElse(g.GetCpus(), "all")},
		{"priority", strconv.FormatUint(g.GetPriority(), 10)}, {"hint", g.GetHint()}, {"grant", resp.GetGrant()},
	})
}

func (a *app) hintCmd() *cobra.Command {
	var long strings.Builder
	long.WriteString(`Hint says what an agent does, for the scheduler, or without HINT prints what it is taken to do. A hint
changes how soon and for how long at once the agent's threads run; it never gives them a larger share,
nor more than the agent's quota. Programs in the agent say it in /aios/self/hint.

`)
	for _, h := range sched.Hints() {
		fmt.Fprintf(&long, "  %-18s %s\n", h.Name, h.Meaning)
	}
	cmd := &cobra.Command{
		Use:     "hint [flags] AGENT [HINT]",
		Short:   "Say what an agent does, for the scheduler",
		Long:    strings.TrimSuffix(long.String(), "\n"),
		Example: "  aiosctl hint web interactive\n  aiosctl hint web\n  aiosctl hint web none",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "the agent is missing")
			}
			return atMost(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &apiv1.HintRequest{Agent: args[0]}
			if len(args) == 2 {
				if _, ok := sched.ParseHint(args[1]); !ok {
					return invalid("hint", args[1], "there is no such hint", "say one of "+strings.Join(hintNames(), ", "))
				}
				req.Hint = args[1]
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Hint(ctx, req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if req.GetHint() == "" {
					fmt.Fprintln(a.stdout, resp.GetHint())
				}
				return nil
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return hintNames(), cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeFirst(a.runningAgents)(cmd, args, typed)
		},
	}
	return cmd
}

func hintNames() (names []string) {
	for _, h := range sched.Hints() {
		names = append(names, h.Name)
	}
	return names
}
