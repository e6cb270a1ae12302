package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) splitCmd() *cobra.Command {
	var (
		req    apiv1.SplitRequest
		keep   []string
		output string
	)
	cmd := &cobra.Command{
		Use:   "split [flags] AGENT --pid PID[,PID…]",
		Short: "Have some processes of an agent become an agent of their own",
		Long: `Split has processes of an agent, with what they have started, become an agent of their own
while they run. They go on where they are, under the same numbers, with a part of the agent's
budget, a copy of its files and an ID, host name and log of their own. In the agent they have
ended, as if by exit(0). The new agent ends when the last of its processes does, with the
status of the one that was named first. docs/clone.md says what becomes of connections.`,
		Example: `  aiosctl split server --pid 7 --name worker
  aiosctl split server --pid 7,8 --share 30 --keep fs:/data:read
  aiosctl split server --pid 7 --keep none`,
		Args: exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(req.Pids) == 0 {
				return usage(cmd, "the processes are missing: --pid")
			}
			req.Agent = args[0]
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			req.Narrow = len(keep) > 0
			req.Keep = slices.DeleteFunc(slices.Clone(keep), func(k string) bool { return k == "none" })
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Split(ctx, &req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					return a.printJSON(cloneView{
						Copies: []agentView{viewAgent(resp.GetAgent())}, Pause: resp.GetPauseNanos(), Ready: resp.GetReadyNanos(),
					})
				}
				_, err = fmt.Fprintln(a.stdout, resp.GetAgent().GetId())
				return err
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
	f := cmd.Flags()
	f.Int32SliceVar(&req.Pids, "pid", nil, "`PID` of a process that leaves, as `aiosctl inspect` shows it; several with commas")
	f.StringVar(&req.Name, "name", "", "`NAME` of the new agent")
	f.Uint32Var(&req.Share, "share", 0, "`PERCENT` of the budget that it gets, 1 to 99 (default half)")
	f.StringArrayVar(&keep, "keep", nil, "`GRANT` within one that the agent has, which the new one is to have and no other; can be given again; none: nothing (default its part of all)")
	f.BoolVar(&req.Alone, "alone", false, "leave in the agent what the processes have started")
	f.BoolVar(&req.Pause, "pause", false, "leave the new agent stopped, until aiosctl resume")
	outputFlag(cmd, &output, "json")
	return cmd
}
