package main

import (
	"context"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) execCmd() *cobra.Command {
	var (
		f      processFlags
		detach bool
	)
	cmd := &cobra.Command{
		Use:   "exec [flags] AGENT [--] PROGRAM [ARG…]",
		Short: "Run a further program inside a running agent",
		Long: `Exec starts a program inside a running agent, with the agent's namespaces, files
and limits, and joins it as run does. The program ends with the agent.`,
		Example: `  aiosctl exec web -- ps aux
  aiosctl exec -t web -- bash
  aiosctl exec -u nobody -w /tmp web -- sh -c 'pwd; id'`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			agent, argv := args[0], args[1:]
			if len(argv) > 0 && argv[0] == "--" {
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return usage(cmd, "the program to run is missing")
			}
			if detach && !cmd.Flags().Changed("interactive") {
				f.interactive = false
			}
			p, err := f.message(a, argv)
			if err != nil {
				return err
			}
			req := &apiv1.ExecRequest{Agent: agent, Process: p}
			if detach {
				return a.with(cmd, func(ctx context.Context, c *client.Client) error {
					_, err := c.Exec(ctx, req)
					return a.suggest(ctx, c, err, agent)
				})
			}
			return a.join(cmd, &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Exec{Exec: req}},
				joinOptions{typed: agent, stdin: f.interactive, signals: true, own: true})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&f.interactive, "interactive", "i", true, "pass standard input on")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not join the program")
	return cmd
}

func (a *app) attachCmd() *cobra.Command {
	var noStdin, noSignals bool
	cmd := &cobra.Command{
		Use:   "attach [flags] AGENT",
		Short: "Join the streams of a running agent",
		Long: `Attach joins the streams of an agent's first process: output from now on, input if
the agent was started with -i, and signals. It ends with the agent's exit status.
When the agent has a terminal, ctrl-p ctrl-q leaves it running.`,
		Example: `  aiosctl attach shell
  aiosctl attach --no-stdin --no-signals web`,
		Args: exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := &apiv1.AttachTarget{Agent: args[0], Stdin: !noStdin}
			return a.join(cmd, &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Target{Target: target}},
				joinOptions{typed: args[0], stdin: !noStdin, signals: !noSignals})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "only watch: do not pass input on")
	cmd.Flags().BoolVar(&noSignals, "no-signals", false, "do not pass signals on: Ctrl-C leaves the agent running")
	return cmd
}
