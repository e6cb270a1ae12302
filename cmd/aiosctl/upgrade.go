package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

type upgradeView struct {
	Agent agentView `json:"agent"`
	Pause int64     `json:"pause_ns"`
	Took  int64     `json:"took_ns"`
}

func (a *app) upgradeCmd() *cobra.Command {
	var (
		req     apiv1.UpgradeRequest
		health  string
		timeout time.Duration
		output  string
	)
	cmd := &cobra.Command{
		Use:   "upgrade [flags] AGENT --image IMAGE [-- PROGRAM [ARGUMENT...]]",
		Short: "Run an agent's program anew, from another image",
		Long: `Upgrade has an agent's program run anew from another image. The agent's ID and name, what
it may do and has used, its files, hooks and restart policy stay. Its processes stand still
until the new program is known to be well: when the command of --health-cmd, run in the
agent, ends with status 0, or without one when the program has run for --timeout. If it ends
before, or the check does not succeed in time, the agent goes on as it was, where it was.`,
		Example: `  aiosctl upgrade web --image web-2
  aiosctl upgrade web --image web-2 --health-cmd 'test -e /tmp/ready' --timeout 20s
  aiosctl upgrade web --image web-2 -- /bin/server --port 8000`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Image == "" {
				return usage(cmd, "the image is missing: --image")
			}
			req.Agent, req.Argv = args[0], args[1:]
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if health != "" {
				req.Health = []string{"sh", "-c", health}
			}
			req.TimeoutNanos = int64(timeout)
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Upgrade(ctx, &req)
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					return a.printJSON(upgradeView{viewAgent(resp.GetAgent()), resp.GetPauseNanos(), resp.GetTookNanos()})
				}
				_, err = fmt.Fprintf(a.stdout, "%s runs %s; it stood still for %v\n", args[0], resp.GetAgent().GetImage(), time.Duration(resp.GetPauseNanos()).Round(10*time.Microsecond))
				return err
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
	f := cmd.Flags()
	f.StringVar(&req.Image, "image", "", "`IMAGE` from which the program runs")
	f.StringVar(&health, "health-cmd", "", "`COMMAND` of the agent's shell that ends with status 0 when the program is well; it is tried until then")
	f.DurationVar(&timeout, "timeout", 0, "`TIME` that this may take, and that the program has to run without it (default 30s, and 5s)")
	outputFlag(cmd, &output, "json")
	return cmd
}
