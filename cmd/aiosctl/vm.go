package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/sentry/trap"
)

func (a *app) vmCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "vm [flags] AGENT",
		Short: "Show what memory an agent has, and who would end first if it ran out",
		Long: `Vm shows what an agent has, what it may have, what the kernel needs for it, and what is done when
it runs out; and its processes, those first that would end first: the score is the share of the limit
that is resident, in thousandths, and what the process has written to /proc/self/oom_score_adj.`,
		Example: "  aiosctl vm web\n  aiosctl vm -o json web | jq '.processes[0]'\n  aiosctl vm set web on-oom=kill-process",
		Args:    exactly(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.VMShow(ctx, &apiv1.VMShowRequest{Agent: args[0]})
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				if asJSON {
					return a.printJSON(viewVM(resp))
				}
				return a.printVM(resp)
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
	outputFlag(cmd, &output, "json")
	cmd.AddCommand(a.vmSetCmd())
	return cmd
}

// vmView is what -o json shows of an agent's memory, in bytes.
type vmView struct {
	Used      uint64          `json:"used"`
	Peak      uint64          `json:"peak"`
	Limit     uint64          `json:"limit"` // 0: none
	Kernel    uint64          `json:"kernel"`
	OnOOM     string          `json:"on_oom"`
	OOMs      uint64          `json:"ooms"`
	OOMKills  uint64          `json:"oom_kills"`
	Swap      vmSwapView      `json:"swap"`
	Processes []vmProcessView `json:"processes"`
}

// vmSwapView is what is swapped out: bytes, but for pages.
type vmSwapView struct {
	Cached          uint64 `json:"cached"`
	CompressedPages uint64 `json:"compressed_pages"`
	FilePages       uint64 `json:"file_pages"`
	ZeroPages       uint64 `json:"zero_pages"`
	Memory          uint64 `json:"memory"`
	File            uint64 `json:"file"`
	FileLimit       uint64 `json:"file_limit"`
	InPages         uint64 `json:"in_pages"`
	OutPages        uint64 `json:"out_pages"`
	WorkingSet      uint64 `json:"working_set"`
	Never           string `json:"never,omitempty"`
}

func viewSwap(w *apiv1.VMSwap) vmSwapView {
	return vmSwapView{
		w.GetCached(), w.GetCompressed(), w.GetInFile(), w.GetZero(), w.GetMemory(), w.GetFile(), w.GetFileLimit(), w.GetIns(), w.GetOuts(), w.GetWorkingSet(), w.GetNever(),
	}
}

type vmProcessView struct {
	PID        int32  `json:"pid"`
	Name       string `json:"name"`
	Resident   uint64 `json:"resident"`
	Adjustment int32  `json:"adjustment"`
	Score      int32  `json:"score"`
}

func viewVM(m *apiv1.VMShowResponse) vmView {
	v := vmView{
		Used: m.GetUsed(), Peak: m.GetPeak(), Limit: m.GetLimit(), Kernel: m.GetKernel(), OnOOM: m.GetOnOom(), OOMs: m.GetOoms(),
		OOMKills: m.GetOomKills(), Swap: viewSwap(m.GetSwap()), Processes: []vmProcessView{},
	}
	for _, p := range m.GetProcesses() {
		v.Processes = append(v.Processes, vmProcessView{p.GetPid(), p.GetName(), p.GetResident(), p.GetAdjustment(), p.GetScore()})
	}
	return v
}

func (a *app) printVM(m *apiv1.VMShowResponse) error {
	limit := "none"
	if m.GetLimit() != 0 {
		limit = size(m.GetLimit())
	}
	if _, err := fmt.Fprintf(a.stdout, "used     %s, at most %s; limit %s\nkernel   %s of it\non oom   %s; %d times out of memory, %d processes ended\n%s\n",
		size(m.GetUsed()), size(m.GetPeak()), limit, size(m.GetKernel()), m.GetOnOom(), m.GetOoms(), m.GetOomKills(), swapLines(m.GetSwap())); err != nil {
		return err
	}
	var rows [][]string
	for _, p := range m.GetProcesses() {
		rows = append(rows, []string{
			strconv.Itoa(int(p.GetPid())), printable(p.GetName()), size(p.GetResident()), strconv.Itoa(int(p.GetAdjustment())), strconv.Itoa(int(p.GetScore())),
		})
	}
	return a.table([]string{"PID", "NAME", "RESIDENT", "ADJUSTMENT", "SCORE"}, rows)
}

// swapLines says what is swapped out, if anything is or was.
func swapLines(w *apiv1.VMSwap) string {
	const page = 4096
	switch {
	case w.GetNever() != "":
		return "swap     never: " + printable(w.GetNever()) + "\n"
	case w.GetOuts() == 0 && w.GetCached() == 0 && w.GetFileLimit() == 0:
		return ""
	}
	s := fmt.Sprintf("swap     %s out, in %s of memory", size((w.GetCompressed()+w.GetZero()+w.GetInFile())*page), size(w.GetMemory()))
	if w.GetFileLimit() > 0 {
		s += fmt.Sprintf(" and %s of a file of %s", size(w.GetFile()), size(w.GetFileLimit()))
	}
	return s + fmt.Sprintf("; %s more can go; so far %d pages out, %d in\n", size(w.GetCached()), w.GetOuts(), w.GetIns())
}

func (a *app) vmSetCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "set AGENT on-oom=ACTION[,COUNT/TIME:ACTION] | swap=SIZE",
		Short: "Change what is done when an agent runs out of memory, or nearly",
		Long: `Set changes what is done when a running agent has more memory than its limit, at once and until the
agent ends: ` + actionNames(trap.OnOOM) + `; kill-process ends the process with the highest score.
With a count, another action is taken once it has happened more often than that in the time.

With swap=SIZE an agent that comes near its memory limit has what it does not use put into a swap file
of that size at most; with swap=0 it has so no longer.`,
		Example: "  aiosctl vm set web on-oom=freeze\n  aiosctl vm set web swap=512M\n  aiosctl vm set web on-oom=kill-process,3/1m:kill-agent",
		Args:    exactly(2, "the agent, or what to change,"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if text, ok := strings.CutPrefix(args[1], "swap="); ok {
				return a.setSwap(cmd, args[0], text)
			}
			rule, ok := strings.CutPrefix(args[1], "on-oom=")
			if !ok || rule == "" {
				return invalid("vm set", args[1], "nothing that can be set", "write on-oom=ACTION or swap=SIZE")
			}
			if _, err := trap.ParseOOM(rule); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.VMSet(ctx, &apiv1.VMSetRequest{Agent: args[0], OnOom: rule})
				if err != nil {
					return a.suggest(ctx, c, err, args[0])
				}
				_, err = fmt.Fprintf(a.stdout, "%s, was %s\n", resp.GetOnOom(), resp.GetWas())
				return err
			})
		},
		ValidArgsFunction: a.completeFirst(a.runningAgents),
	}
}

// setSwap has an agent swap by itself.
func (a *app) setSwap(cmd *cobra.Command, agent, text string) error {
	n, err := parseSize("vm set", text)
	if err != nil && text != "0" {
		return invalid("vm set", "swap="+text, "not a size", "write swap=512M, or swap=0 for none")
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.VMSetSwap(ctx, &apiv1.VMSetSwapRequest{Agent: agent, Bytes: n})
		if err != nil {
			return a.suggest(ctx, c, err, agent)
		}
		_, err = fmt.Fprintf(a.stdout, "%s, was %s\n", size(resp.GetNow()), size(resp.GetWas()))
		return err
	})
}
