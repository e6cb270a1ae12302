package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// What `aiosctl health` exits with.
const (
	healthDegraded = 1
	healthFailed   = 2
)

type healthView struct {
	Worst      string                `json:"worst"`
	Components []healthComponentView `json:"components"`
}

type healthComponentView struct {
	Name   string    `json:"name"`
	Level  string    `json:"level"`
	Reason string    `json:"reason,omitempty"`
	Fix    string    `json:"fix,omitempty"`
	Since  time.Time `json:"since"`
}

func (a *app) healthCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "health [flags]",
		Short: "Show how the daemon, its domains and what they need are",
		Long: `Health asks every part, now. The exit status is 0 when all are well, 1 when one works less
well than it should, 2 when one does not work, and 125 when there is no daemon to ask.`,
		Example: "  aiosctl health\n  aiosctl health -o json | jq -r .worst",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.Health(ctx, &apiv1.HealthRequest{})
				if err != nil {
					return err
				}
				if asJSON {
					err = a.printJSON(viewHealth(resp))
				} else {
					err = a.printHealth(resp)
				}
				switch {
				case err != nil:
					return err
				case resp.GetWorst() == "failed":
					return status(healthFailed)
				case resp.GetWorst() != "ok":
					return status(healthDegraded)
				}
				return nil
			})
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func viewHealth(resp *apiv1.HealthResponse) healthView {
	return healthView{resp.GetWorst(), views(resp.GetComponents(), func(c *apiv1.HealthComponent) healthComponentView {
		return healthComponentView{c.GetName(), c.GetLevel(), c.GetReason(), c.GetFix(), time.Unix(0, c.GetSinceUnixNano()).UTC()}
	})}
}

func (a *app) printHealth(resp *apiv1.HealthResponse) error {
	var rows [][]string
	for _, c := range resp.GetComponents() {
		rows = append(rows, []string{c.GetName(), c.GetLevel(), a.age(c.GetSinceUnixNano()), dash(c.GetReason())})
	}
	if err := a.table([]string{"COMPONENT", "STATE", "SINCE", "WHY"}, rows); err != nil {
		return err
	}
	for _, c := range resp.GetComponents() {
		if c.GetFix() != "" && c.GetLevel() != "ok" {
			fmt.Fprintf(a.stderr, "aiosctl: %s: fix: %s\n", printable(c.GetName()), printable(c.GetFix()))
		}
	}
	return nil
}
