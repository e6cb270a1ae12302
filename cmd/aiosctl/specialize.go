package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) specializeCmd() *cobra.Command {
	var (
		req    apiv1.SpecializeRequest
		cpu    []string
		output string
	)
	cmd := &cobra.Command{
		Use:   "specialize [flags] AGENT",
		Short: "Copy an agent while it runs, with less authority for good",
		Long: `Specialize copies an agent as clone does. The copy has only what --keep names of what the
agent may do, beside memory, processes, I/O and CPU time, and --cpu can narrow that. It can
never have more: nobody can grant or delegate it anything, renew a lease or change its CPU
time, and the same holds for copies of it.`,
		Example: `  aiosctl specialize --name reader --keep fs:/data:read worker
  aiosctl specialize --name sweeper --cpu class=idle --keep fs:/data worker
  aiosctl specialize worker`,
		Args: exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Agent = args[0]
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if len(cpu) > 0 {
				if req.Cpu, err = cpuGrant("--cpu", cpu); err != nil {
					return err
				}
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Specialize(ctx, &req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					return a.printJSON(cloneView{
						Copies: []agentView{viewAgent(resp.GetCopy())}, Pause: resp.GetPauseNanos(), Ready: resp.GetReadyNanos(),
					})
				}
				_, err = fmt.Fprintln(a.stdout, resp.GetCopy().GetId())
				return err
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
	f := cmd.Flags()
	f.StringVar(&req.Name, "name", "", "`NAME` of the copy")
	f.StringArrayVar(&req.Keep, "keep", nil, "`GRANT` within one that the agent has, which the copy is to have; can be given again")
	f.StringSliceVar(&cpu, "cpu", nil, "CPU time of the copy, no more than the agent's: `KEY=VALUE,…` of "+cpuKeys)
	f.BoolVar(&req.Pause, "pause", false, "leave the copy stopped, until aiosctl resume lets it go on")
	outputFlag(cmd, &output, "json")
	return cmd
}
