package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"aios.dev/aios/client"
)

// listed is something of the configuration that does its work alone, and may
// fail.
type listed interface {
	GetName() string
	GetError() string
	GetErrorUnixNano() int64
	GetFix() string
	GetBreaker() string
	GetRetryInNano() int64
}

// listCmd completes a command that lists all there is of one kind.
func listCmd[T listed, V any](a *app, cmd *cobra.Command, all func(context.Context, *client.Client) ([]T, error), view func(T) V, print func([]T) error) *cobra.Command {
	var output string
	cmd.Args = exactly(0, "")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asJSON, err := a.wantsJSON(output)
		if err != nil {
			return err
		}
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			got, err := all(ctx, c)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(views(got, view))
			}
			return print(got)
		})
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// breakerOf says how its circuit breaker is, and when it does something again.
func breakerOf(of listed, does string) string {
	text := of.GetBreaker()
	if d := time.Duration(of.GetRetryInNano()); d > 0 {
		text += ", " + does + " in " + d.Round(100*time.Millisecond).String()
	}
	return text
}

// printFailures prints the latest failure of each.
func printFailures[T listed](a *app, all []T) {
	for _, l := range all {
		if l.GetError() == "" {
			continue
		}
		fmt.Fprintf(a.stdout, "\n%s, %s ago: %s\n", l.GetName(), a.age(l.GetErrorUnixNano()), printable(l.GetError()))
		if l.GetFix() != "" {
			fmt.Fprintf(a.stdout, "fix: %s\n", printable(l.GetFix()))
		}
	}
}
