package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// hibernateView is what -o json shows, in bytes and nanoseconds.
type hibernateView struct {
	Before     uint64 `json:"before"`
	After      uint64 `json:"after"`
	Taken      uint64 `json:"taken"`
	Compressed uint64 `json:"compressed"`
	File       uint64 `json:"file"`
	Pause      int64  `json:"pause_ns"`
	Took       int64  `json:"took_ns"`
}

func (a *app) hibernateCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "hibernate [flags] AGENT",
		Short: "Swap the memory of an idle agent out",
		Long: `Hibernate takes the memory of an agent that waits for something, compresses it, and moves it to the
agent's swap file if it has one. The agent waits on: input, a timer or a signal wakes it as ever, and
what it touches then comes back. An agent that is not idle is refused.`,
		Example: "  aiosctl hibernate bot",
		Args:    exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.VMHibernate(ctx, &apiv1.VMHibernateRequest{Agent: args[0]})
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					return a.printJSON(hibernateView{
						r.GetBefore(), r.GetAfter(), r.GetTaken(), r.GetCompressed(), r.GetFile(), r.GetPauseNanos(), r.GetTookNanos(),
					})
				}
				_, err = fmt.Fprintf(a.stdout, "%s, was %s; it stood still for %v\n", size(r.GetAfter()), size(r.GetBefore()),
					time.Duration(r.GetPauseNanos()).Round(10*time.Microsecond))
				return err
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}
