package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

// regionDo is a command that does something with one region.
func (a *app) regionDo(use, short, long, example string, args cobra.PositionalArgs, do func(context.Context, *client.Client, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, func(ctx context.Context, c *client.Client) error { return do(ctx, c, args) })
		},
		ValidArgsFunction: a.completeFirst(a.regionNames),
	}
}

func (a *app) fabricShareCmd() *cobra.Command {
	var rights string
	var lease time.Duration
	cmd := a.regionDo("share [flags] REGION AGENT", "Give an agent of the same domain rights to a region",
		`Share gives an agent rights to a region: read, write, snapshot and share, joined by '+'. What an agent
owns is given out of its own right and ends with it. No right makes the memory executable.`,
		"  aiosctl fabric share table reader\n  aiosctl fabric share table peer --rights read+write --lease 30s", exactly(2, "the region or the agent"),
		func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.RegionShare(ctx, &apiv1.RegionShareRequest{Region: args[0], Agent: args[1], Rights: rights, LeaseNano: int64(lease)})
			if err != nil {
				return a.suggest(ctx, c, err, args[1])
			}
			return a.capTable([]*apiv1.Capability{resp.GetCapability()})
		})
	cmd.Flags().StringVar(&rights, "rights", "read", "`RIGHTS` to give, joined by '+'")
	cmd.Flags().DurationVar(&lease, "lease", 0, "`TIME` after which it ends, such as 30s")
	return cmd
}

func (a *app) fabricRevokeCmd() *cobra.Command {
	return a.regionDo("revoke REGION AGENT", "Take back all that an agent holds of a region",
		`Revoke takes back all that an agent holds of a region. When it returns, the pages are gone from that
agent's memory, and from that of agents that had them of it: who touches them gets SIGBUS.`,
		"  aiosctl fabric revoke table reader", exactly(2, "the region or the agent"),
		func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.RegionUnshare(ctx, &apiv1.RegionUnshareRequest{Region: args[0], Agent: args[1]})
			if err != nil {
				return a.suggest(ctx, c, err, args[1])
			}
			fmt.Fprintf(a.stdout, "revoked %d\n", resp.GetRevoked())
			return nil
		})
}

func (a *app) fabricRmCmd() *cobra.Command {
	var stored bool
	cmd := a.regionDo("rm [flags] REGION", "Remove a region, for all",
		`Rm ends a region: its pages are gone from every agent, and its owner is charged no more. What was committed
of a persistent one stays, to be opened again; with --stored it goes, too.`,
		"  aiosctl fabric rm table\n  aiosctl fabric rm --stored table", exactly(1, "the region"),
		func(ctx context.Context, c *client.Client, args []string) error {
			_, err := c.RegionRemove(ctx, &apiv1.RegionRemoveRequest{Region: args[0], Stored: stored})
			return err
		})
	cmd.Flags().BoolVar(&stored, "stored", false, "remove what was committed of a persistent one, too")
	return cmd
}

func (a *app) fabricSealCmd() *cobra.Command {
	return a.regionDo("seal REGION", "Make the contents of a region immutable, and print their digest",
		`Seal makes the contents of a region immutable, for ever, and prints their BLAKE3 digest. Who has it
mapped to write gets SIGBUS when it writes.`,
		"  aiosctl fabric seal table", exactly(1, "the region"),
		func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.RegionSeal(ctx, &apiv1.RegionSealRequest{Region: args[0]})
			if err == nil {
				fmt.Fprintln(a.stdout, resp.GetRegion().GetDigest())
			}
			return err
		})
}

func (a *app) fabricSnapshotCmd() *cobra.Command {
	var comment string
	cmd := a.regionDo("snapshot [flags] REGION", "Make a version of a region, and print its number",
		`Snapshot makes a version of what a region is at one moment, for all agents that have it mapped. It takes
as long for a large one as for a small one, copies what is written later only, and charges the owner
for as much as the region holds.`,
		"  aiosctl fabric snapshot table --comment 'before the merge'", exactly(1, "the region"),
		func(ctx context.Context, c *client.Client, args []string) error {
			resp, err := c.RegionSnapshot(ctx, &apiv1.RegionSnapshotRequest{Region: args[0], Comment: comment})
			if err == nil {
				fmt.Fprintln(a.stdout, resp.GetVersion().GetNumber())
			}
			return err
		})
	cmd.Flags().StringVar(&comment, "comment", "", "`TEXT` to find it again by")
	return cmd
}

// versionNumber reads the number of a version.
func versionNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == 0 {
		return 0, invalid("version", s, "not the number of a version", "`aiosctl fabric show REGION` lists them")
	}
	return uint32(n), nil
}

func (a *app) fabricRollbackCmd() *cobra.Command {
	return a.regionDo("rollback REGION VERSION", "Make a region again what it was",
		"Rollback makes a region again what it was in a version, for all agents that have it mapped. What they write meanwhile may be lost.",
		"  aiosctl fabric rollback table 3", exactly(2, "the region or the version"),
		func(ctx context.Context, c *client.Client, args []string) error {
			n, err := versionNumber(args[1])
			if err == nil {
				_, err = c.RegionRollback(ctx, &apiv1.RegionRollbackRequest{Region: args[0], Version: n})
			}
			return err
		})
}

func (a *app) fabricForkCmd() *cobra.Command {
	var f regionFlags
	cmd := a.regionDo("fork [flags] REGION VERSION NAME", "Make another region of a version",
		"Fork makes another region that holds what a version does. Nothing is copied before one of the two is touched. It has the labels of the first, and more if they are named.",
		"  aiosctl fabric fork table 3 trial --owner writer", exactly(3, "the region, the version or the name"),
		func(ctx context.Context, c *client.Client, args []string) error {
			n, err := versionNumber(args[1])
			if err != nil {
				return err
			}
			resp, err := c.RegionFork(ctx, &apiv1.RegionForkRequest{Region: args[0], Version: n, As: &apiv1.RegionCreateRequest{
				Name: args[2], Owner: f.owner, Labels: f.labels, Fixed: f.fixed, Keep: f.keep, Zeros: f.zeros,
			}})
			if err != nil {
				return a.suggest(ctx, c, err, f.owner)
			}
			return a.showRegion(resp.GetRegion(), false)
		})
	f.register(a, cmd)
	return cmd
}

func (a *app) fabricDiffCmd() *cobra.Command {
	return a.regionDo("diff REGION VERSION [VERSION]", "Say which pages differ between two versions, or from now",
		"Diff says which pages of a region differ between two versions, or between one and what the region is now.",
		"  aiosctl fabric diff table 3\n  aiosctl fabric diff table 3 5", func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(cmd, "the region or the version is missing")
			}
			return atMost(3)(cmd, args)
		},
		func(ctx context.Context, c *client.Client, args []string) error {
			n, err := versionNumber(args[1])
			var other uint32
			if err == nil && len(args) > 2 {
				other, err = versionNumber(args[2])
			}
			if err != nil {
				return err
			}
			resp, err := c.RegionDiff(ctx, &apiv1.RegionDiffRequest{Region: args[0], Version: n, Other: other})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range resp.GetSpans() {
				rows = append(rows, []string{fmt.Sprintf("%#x", s.GetStart()), fmt.Sprintf("%#x", s.GetEnd()), size(s.GetEnd() - s.GetStart())})
			}
			if err := a.table([]string{"FROM", "TO", "BYTES"}, rows); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s differ\n", size(resp.GetBytes()))
			return nil
		})
}

func (a *app) fabricDropCmd() *cobra.Command {
	return a.regionDo("drop REGION VERSION", "Forget a version of a region", "Drop forgets a version: what only it held is given back, and its owner is charged no more for it.",
		"  aiosctl fabric drop table 3", exactly(2, "the region or the version"),
		func(ctx context.Context, c *client.Client, args []string) error {
			n, err := versionNumber(args[1])
			if err == nil {
				_, err = c.RegionDrop(ctx, &apiv1.RegionDropRequest{Region: args[0], Version: n})
			}
			return err
		})
}
