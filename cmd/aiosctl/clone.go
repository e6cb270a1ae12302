package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

type cloneView struct {
	Copies []agentView `json:"copies"`
	Pause  int64       `json:"pause_ns"`
	Ready  int64       `json:"ready_ns"`
}

func (a *app) cloneCmd() *cobra.Command {
	var (
		req    apiv1.CloneRequest
		output string
	)
	cmd := &cobra.Command{
		Use:   "clone [flags] AGENT",
		Short: "Copy an agent while it runs, and print the ID of the copy",
		Long: `Clone copies an agent while it runs: every process and thread, memory, files that it
has made, and what it has open. Original and copy go on from the same moment and share
nothing that either can change. The copy has an ID, a host name and a log of its own; its
capabilities are derived from the original's, and amounts are divided between the two.
docs/clone.md says what becomes of connections, and what cannot be copied.`,
		Example: `  aiosctl clone worker
  aiosctl clone --name trial -n 3 worker
  id=$(aiosctl clone --pause worker); aiosctl inspect $id; aiosctl resume $id`,
		Args: exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Agent = args[0]
			if req.GetCount() == 0 {
				return invalid("--count", "0", "that makes no copy", "write a number from 1 to 64")
			}
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Clone(ctx, &req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					v := cloneView{Pause: resp.GetPauseNanos(), Ready: resp.GetReadyNanos()}
					for _, x := range resp.GetCopies() {
						v.Copies = append(v.Copies, viewAgent(x))
					}
					return a.printJSON(v)
				}
				for _, x := range resp.GetCopies() {
					if _, err := fmt.Fprintln(a.stdout, x.GetId()); err != nil {
						return err
					}
				}
				return nil
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
	cmd.Flags().StringVar(&req.Name, "name", "", "`NAME` of the copy; of several, NAME-1, NAME-2 and so on")
	cmd.Flags().Uint32VarP(&req.Count, "count", "n", 1, "make `N` copies, at most 64, all of the same moment")
	cmd.Flags().BoolVar(&req.Pause, "pause", false, "leave the copies stopped, until aiosctl resume lets them go on")
	outputFlag(cmd, &output, "json")
	return cmd
}
