package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"aios.dev/aios/account"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

func (a *app) statsCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "stats [flags] AGENT…",
		Short: "Show what agents use, and what they may use",
		Example: `  aiosctl stats web
  aiosctl stats -o json web | jq .memory`,
		Args: atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.each(cmd, args, func(ctx context.Context, c *client.Client, agent string) error {
				resp, err := c.Account(ctx, &apiv1.AccountRequest{Agent: agent})
				if err != nil {
					return err
				}
				if asJSON {
					_, err := fmt.Fprintf(a.stdout, "%s\n", resp.GetSnapshot())
					return err
				}
				var s account.Snapshot
				if err := json.Unmarshal(resp.GetSnapshot(), &s); err != nil {
					return errdefs.Wrap(err, errdefs.Protocol, "read the account")
				}
				return a.printStats(agent, s)
			})
		},
		ValidArgsFunction: a.complete(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

func (a *app) printStats(agent string, s account.Snapshot) error {
	quota := "-"
	if q := s.CPU.QuotaMilli; q != nil {
		quota = strconv.FormatFloat(float64(*q)/1000, 'g', -1, 64) + " CPU"
	}
	used := time.Duration(min(s.CPU.UserNS+s.CPU.SystemNS, math.MaxInt64)).Round(time.Millisecond).String()
	limit := func(n uint64, show func(uint64) string) string {
		if n == 0 {
			return "-"
		}
		return show(n)
	}
	count := func(n uint64) string { return strconv.FormatUint(n, 10) }
	perSec := func(n uint64) string { return size(n) + "/s" }
	rows := [][]string{
		{"cpu", used, "-", quota},
		{"memory", size(s.Memory.Now), size(s.Memory.Peak), limit(s.Memory.Limit, size)},
		{"page faults", count(s.Memory.Faults), "-", "-"},
		{"  minor", count(s.Memory.Kinds.Minor), "-", "-"},
		{"  major", count(s.Memory.Kinds.Major), "-", "-"},
		{"  copied", count(s.Memory.Kinds.COW), "-", "-"},
		{"  protection", count(s.Memory.Kinds.Protection), "-", "-"},
		{"cpu pressure", percent(s.Pressure.CPU.Some[0]), "-", "-"},
		{"memory pressure", percent(s.Pressure.Memory.Some[0]), "-", "-"},
		{"i/o pressure", percent(s.Pressure.IO.Some[0]), "-", "-"},
		{"tasks", count(s.Tasks.Now), count(s.Tasks.Peak), limit(s.Tasks.Limit, count)},
		{"files", count(s.Files.Now), count(s.Files.Peak), limit(s.Files.Limit, count)},
		{"regions", size(s.Regions.Now), size(s.Regions.Peak), "-"},
		{"semantic items", count(s.SemanticItems.Now), count(s.SemanticItems.Peak), "-"},
		{"semantic bytes", size(s.SemanticBytes.Now), size(s.SemanticBytes.Peak), "-"},
		{"disk", size(s.Disk.Now), size(s.Disk.Peak), limit(s.Disk.Limit, size)},
		{"read", size(s.IO.ReadBytes), "-", limit(s.IO.BytesPerSec, perSec)},
		{"written", size(s.IO.WriteBytes), "-", limit(s.IO.BytesPerSec, perSec)},
		{"operations", count(s.IO.ReadOps + s.IO.WriteOps), "-", limit(s.IO.OpsPerSec, func(n uint64) string { return count(n) + "/s" })},
	}
	return a.table([]string{printable(agent), "NOW", "PEAK", "LIMIT"}, rows)
}
