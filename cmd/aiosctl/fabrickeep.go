package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) fabricOpenCmd() *cobra.Command {
	var owner, domain, output string
	var version uint64
	cmd := &cobra.Command{
		Use:   "open [flags] REGION",
		Short: "Have a persistent region in a domain",
		Long: `Open has a persistent region in a domain again, as it was when it was committed last: after its domain has
ended, in whatever way, or the daemon or the host was started again. One domain at a time has it open.
With --version it is as it was in that version; what is committed then is the last.`,
		Example: "  aiosctl fabric open table\n  aiosctl fabric open --owner writer --version 3 table",
		Args:    exactly(1, "the region"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.RegionOpen(ctx, &apiv1.RegionOpenRequest{Name: args[0], Owner: owner, Domain: domain, Version: version})
				if err != nil {
					return a.suggest(ctx, c, err, owner)
				}
				return a.showRegion(resp.GetRegion(), asJSON)
			})
		},
		ValidArgsFunction: a.completeFirst(a.regionNames),
	}
	fs := cmd.Flags()
	fs.StringVar(&owner, "owner", "", "charge it to `AGENT`, which gets every right and with whose end it is closed; without, it is the domain's")
	fs.StringVar(&domain, "domain", "", "`DOMAIN` that it is in, if no agent owns it (default \"default\")")
	fs.Uint64Var(&version, "version", 0, "`N`, a committed version other than the last")
	a.completeFlag(cmd, "owner", a.runningAgents)
	a.completeFlag(cmd, "domain", a.domainNames)
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) fabricCommitCmd() *cobra.Command {
	var comment string
	cmd := a.regionDo("commit [flags] REGION", "Keep what a persistent region is now, and print the number of the version",
		`Commit writes what has changed in a persistent region since the last commit to its file, as it is at one
moment. When it returns, that is there again whatever happens; before, what was committed last is.
Agents that use the region go on meanwhile.`,
		"  aiosctl fabric commit table --comment 'after the merge'", exactly(1, "the region"),
		func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.RegionCommit(ctx, &apiv1.RegionCommitRequest{Region: args[0], Comment: comment})
			if err == nil {
				fmt.Fprintln(a.stdout, resp.GetVersion().GetNumber())
			}
			return err
		})
	cmd.Flags().StringVar(&comment, "comment", "", "`TEXT` to find it again by")
	return cmd
}
