package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// each calls f for every name, goes on after failures, and reports them all:
// the last one as its own error.
func (a *app) each(cmd *cobra.Command, names []string, f func(context.Context, *client.Client, string) error) error {
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		var last error
		for _, name := range names {
			if err := f(ctx, c, name); err != nil {
				if last != nil {
					a.report(last)
				}
				last = a.suggest(ctx, c, err, name)
			}
		}
		return last
	})
}

func (a *app) killCmd() *cobra.Command {
	var (
		name  string
		all   bool
		force bool
	)
	cmd := &cobra.Command{
		Use:   "kill [flags] AGENT…",
		Short: "Send a signal to agents, KILL by default",
		Long: `Kill sends a signal to the first process of each agent. KILL, the default, ends
everything in the agent. Hooks of the daemon's configuration may refuse KILL and
TERM; --force tells them, and does not ask.`,
		Example: `  aiosctl kill web
  aiosctl kill -s TERM web worker
  aiosctl kill -s USR1 --all worker`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sig, err := parseSignal(name)
			if err != nil {
				return err
			}
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, agent string) error {
				_, err := c.Signal(ctx, &apiv1.SignalRequest{Agent: agent, Signal: int32(sig), All: all, Force: force})
				return err
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "`NAME` or number of the signal")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "whatever hooks say")
	cmd.Flags().BoolVar(&all, "all", false, "send it to every process of the agent")
	return cmd
}

func (a *app) pauseCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "pause AGENT…",
		Short:   "Stop every process of agents until resume",
		Example: "  aiosctl pause worker\n  aiosctl ps\n  aiosctl resume worker",
		Args:    atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, agent string) error {
				_, err := c.Pause(ctx, &apiv1.PauseRequest{Agent: agent})
				return err
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
}

func (a *app) resumeCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "resume AGENT…",
		Short:   "Let paused agents go on",
		Example: "  aiosctl resume worker",
		Args:    atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, agent string) error {
				_, err := c.Resume(ctx, &apiv1.ResumeRequest{Agent: agent})
				return err
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
}

func (a *app) rmCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] AGENT…",
		Short: "Forget agents that have ended, and their logs",
		Example: `  aiosctl rm web
  aiosctl rm -f web worker
  aiosctl rm $(aiosctl ps -a -q)`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, agent string) error {
				_, err := c.Remove(ctx, &apiv1.RemoveRequest{Agent: agent, Force: force})
				if errdefs.CodeOf(err) == errdefs.AgentRunning && errdefs.FixOf(err) == "" {
					return errdefs.Wrap(err, errdefs.AgentRunning, "", errdefs.Fix("`aiosctl rm -f %s` ends it first", agent))
				}
				return err
			})
		},
		ValidArgsFunction: a.complete(a.allAgents),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end running agents first")
	return cmd
}

func (a *app) waitCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "wait [flags] AGENT…",
		Short: "Wait until agents have ended",
		Long: `Wait returns when every named agent has ended. It prints one line for each, the
agent as it was named and its exit status, and ends with the status of the last
one, as the shell's wait does.`,
		Example: `  aiosctl wait web
  aiosctl wait worker-1 worker-2
  id=$(aiosctl spawn -- make); aiosctl wait $id && echo built`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			var ended []exitView
			err = a.each(cmd, args, func(ctx context.Context, c *client.Client, agent string) error {
				resp, err := c.Wait(ctx, &apiv1.WaitRequest{Agent: agent})
				if err != nil {
					return err
				}
				v := viewExit(resp.GetExit())
				v.Agent = agent
				ended = append(ended, *v)
				if !json {
					_, err = fmt.Fprintf(a.stdout, "%s %d\n", agent, v.Status)
				}
				return err
			})
			if json {
				if jerr := a.printJSON(ended); err == nil {
					err = jerr
				}
			}
			if err == nil && ended[len(ended)-1].Status != 0 {
				err = status(ended[len(ended)-1].Status)
			}
			return err
		},
		ValidArgsFunction: a.complete(a.allAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}
