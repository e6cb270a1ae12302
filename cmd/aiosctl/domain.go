package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) domainCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "domain COMMAND",
		RunE:  group,
		Short: "List, stop, save and restore domains",
		Long: `A domain is one kernel process and the agents in it: the boundary of trust and of
faults. Domains start with their first agent.`,
		Example: "  aiosctl domain ls\n  aiosctl domain stop team-a",
	}
	cmd.AddCommand(a.domainListCmd(), a.domainStopCmd(), a.domainCheckpointCmd(), a.domainHibernateCmd(), a.domainRestoreCmd())
	return cmd
}

func (a *app) domainListCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List the domains that run",
		Example: "  aiosctl domain ls\n  aiosctl domain ls -o json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			json, err := a.wantsJSON(output, "wide")
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.DomainList(ctx, &apiv1.DomainListRequest{})
				switch {
				case err != nil:
					return err
				case json:
					return a.printJSON(views(resp.GetDomains(), viewDomain))
				}
				return a.domainTable(resp.GetDomains(), output == "wide")
			})
		},
	}
	outputFlag(cmd, &output, "json", "wide")
	return cmd
}

func (a *app) domainTable(domains []*apiv1.Domain, wide bool) error {
	header := []string{"NAME", "STATE", "AGENTS", "PLATFORM", "PID", "AGE", "MEMORY", "BOXED"}
	if wide {
		header = append(header, "AGENT-MEMORY", "ISOLATED")
	}
	rows := make([][]string, 0, len(domains))
	for _, d := range domains {
		row := []string{
			d.GetName(), d.GetState(), strconv.Itoa(int(d.GetAgents())), d.GetPlatform(), strconv.Itoa(int(d.GetPid())),
			a.age(d.GetStartedUnixNano()), size(d.GetMemoryBytes()), boxed(d.GetBoxes()),
		}
		if wide {
			row = append(row, size(d.GetAgentMemoryBytes()), dash(yes(d.GetIsolated())))
		}
		rows = append(rows, row)
	}
	return a.table(header, rows)
}

// boxed counts the confinements that hold.
func boxed(boxes []*apiv1.BoxReport) string {
	ok := 0
	for _, b := range boxes {
		if b.GetOk() {
			ok++
		}
	}
	return fmt.Sprintf("%d of %d", ok, len(boxes))
}

func (a *app) domainStopCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "stop [flags] DOMAIN…",
		Short:   "End every agent of domains, and their kernel processes",
		Long:    "Stop ends domains. A domain with running agents is stopped only with -f; the agents\nthat were ended are printed.",
		Example: "  aiosctl domain stop team-a\n  aiosctl domain stop -f default",
		Args:    atLeast(1, "the domain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, name string) error {
				resp, err := c.DomainStop(ctx, &apiv1.DomainStopRequest{Name: name, Force: force})
				if err != nil {
					return err
				}
				for _, g := range resp.GetAgents() {
					fmt.Fprintln(a.stdout, g)
				}
				return nil
			})
		},
		ValidArgsFunction: a.complete(a.domainNames),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end the agents that still run")
	return cmd
}
