package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/sentry/irq"
)

func (a *app) irqCmd() *cobra.Command {
	var req apiv1.IrqsRequest
	var output string
	list := func(cmd *cobra.Command, args []string) error {
		asJSON, err := a.wantsJSON(output)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			req.Domain = args[0]
		}
		return a.with(cmd, func(ctx context.Context, c *client.Client) error {
			resp, err := c.Irqs(ctx, &req)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(viewIrqs(resp))
			}
			return a.printIrqs(resp)
		})
	}
	flags := func(cmd *cobra.Command) *cobra.Command {
		cmd.Flags().StringVar(&req.Agent, "agent", "", "count only what `AGENT` caused, by ID or name")
		outputFlag(cmd, &output, "json")
		a.completeFlag(cmd, "agent", a.runningAgents)
		return cmd
	}
	cmd := flags(&cobra.Command{
		Use:   "irq [flags] [DOMAIN]",
		Short: "Show what interrupts a kernel, and choose what it does about it",
		Long: `Irq shows the lines of interrupts of a domain's kernel process, without DOMAIN of the default
domain: how often each was raised, on which CPU, how long after that its bottom half began, and
whether it is masked or in a storm. Programs in an agent read what they caused themselves in
/proc/interrupts.

What is changed holds until the kernel process ends.`,
		Example: `  aiosctl irq
  aiosctl irq --agent web -o json
  aiosctl irq mask net-rx
  aiosctl irq limit net-rx 50000`,
		Args:              atMost(1),
		RunE:              list,
		ValidArgsFunction: a.completeFirst(a.domainNames),
	})
	cmd.AddCommand(flags(&cobra.Command{
		Use:     "ls [flags] [DOMAIN]",
		Short:   "List the lines of interrupts",
		Example: "  aiosctl irq ls default\n  aiosctl irq ls --agent web",
		Args:    atMost(1), RunE: list, ValidArgsFunction: a.completeFirst(a.domainNames),
	}))
	cmd.AddCommand(a.irqSetCmd("mask", "", "Have bottom halves of a line wait",
		`Mask has bottom halves of a line wait until it is unmasked. What interrupts meanwhile is kept, as far
as there is room: packets up to 1000 or 4 MiB of one agent, output until its pipe is full, of each
signal of the host one. Not every line can be masked.`,
		"  aiosctl irq mask net-rx", func(req *apiv1.IrqSetRequest, _ string) error { req.Masked = new(true); return nil }))
	cmd.AddCommand(a.irqSetCmd("unmask", "", "Have bottom halves of a line run again",
		"Unmask has bottom halves of a line run again, first those that wait.",
		"  aiosctl irq unmask net-rx", func(req *apiv1.IrqSetRequest, _ string) error { req.Masked = new(false); return nil }))
	cmd.AddCommand(a.irqSetCmd("route", "CPUS", "Have bottom halves of a line run on certain CPUs",
		`Route has bottom halves of a line run on the workers of the CPUs that are given, such as 0-1,3; "all"
undoes that. Those of one agent run on one of them, in order.`,
		"  aiosctl irq route net-rx 1\n  aiosctl irq route net-rx all", func(req *apiv1.IrqSetRequest, text string) error {
			if _, err := irq.ParseCPUs(text); err != nil {
				return err
			}
			req.Cpus = &text
			return nil
		}))
	cmd.AddCommand(a.irqSetCmd("priority", "N", "Choose which bottom halves a CPU runs first",
		"Priority has bottom halves of a line run before those of a lower one on the same worker: 7 first, 0 last.",
		"  aiosctl irq priority net-rx 7", func(req *apiv1.IrqSetRequest, text string) error {
			n, err := strconv.ParseUint(text, 10, 8)
			if err != nil || n > irq.MaxPriority {
				return invalid("priority", text, "not a priority", fmt.Sprintf("write a number from 0, which is served last, to %d", irq.MaxPriority))
			}
			req.Priority = new(uint32(n))
			return nil
		}))
	cmd.AddCommand(a.irqSetCmd("limit", "RATE", "Choose how many interrupts are a storm",
		`Limit sets how many interrupts of one agent on a line in a second make a storm, in which they are
handled in batches; 0: no number does.`,
		"  aiosctl irq limit net-rx 50000", func(req *apiv1.IrqSetRequest, text string) error {
			n, err := strconv.ParseUint(text, 10, 63)
			if err != nil {
				return invalid("limit", text, "not a rate", "write how many a second, such as 50000, or 0 for no bound")
			}
			req.Limit = &n
			return nil
		}))
	return cmd
}

// irqSetCmd is a command that changes one thing about a line.
func (a *app) irqSetCmd(name, arg, short, long, example string, fill func(*apiv1.IrqSetRequest, string) error) *cobra.Command {
	req := &apiv1.IrqSetRequest{}
	use, what, n := name+" [flags] LINE", "the line", 1
	if arg != "" {
		use, what, n = use+" "+arg, "the line, or "+arg+",", 2
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: exactly(n, what),
		RunE: func(cmd *cobra.Command, args []string) error {
			line, err := irq.ParseLine(args[0])
			if err != nil {
				return err
			}
			req.Line = line.String()
			if err := fill(req, args[len(args)-1]); err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				_, err := c.IrqSet(ctx, req)
				return err
			})
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, i := range irq.Lines() {
				if len(args) == 0 {
					names = append(names, i.Name)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVar(&req.Domain, "domain", "", "of the domain `NAME` (default \"default\")")
	a.completeFlag(cmd, "domain", a.domainNames)
	return cmd
}

// irqsView is what -o json shows of a domain's interrupts.
type irqsView struct {
	Domain string        `json:"domain"`
	CPUs   uint32        `json:"cpus"`
	Lines  []irqLineView `json:"lines"`
}

type irqLineView struct {
	Line      uint32   `json:"line"`
	Name      string   `json:"name"`
	Doc       string   `json:"doc"`
	Count     uint64   `json:"count"`
	Counts    []uint64 `json:"counts"`
	Way       string   `json:"way"`
	Maskable  bool     `json:"maskable"`
	Routable  bool     `json:"routable"`
	Masked    bool     `json:"masked"`
	Pending   uint32   `json:"pending"`
	CPUs      string   `json:"cpus"`
	Priority  uint32   `json:"priority"`
	Limit     uint64   `json:"limit"`
	Throttle  string   `json:"throttle"`
	Deferred  uint64   `json:"deferred"`
	Dropped   uint64   `json:"dropped"`
	Overflows uint64   `json:"overflows"`
	Storms    uint64   `json:"storms"`
	Stormy    []string `json:"stormy"`
	Latency   irqLate  `json:"latency"`
}

// irqLate is how long bottom halves were put off, in nanoseconds.
type irqLate struct {
	Count uint64 `json:"count"`
	P50   int64  `json:"p50"`
	P99   int64  `json:"p99"`
	Max   int64  `json:"max"`
}

func viewIrqs(resp *apiv1.IrqsResponse) irqsView {
	return irqsView{resp.GetDomain(), resp.GetCpus(), views(resp.GetLines(), func(l *apiv1.IrqLine) irqLineView {
		return irqLineView{
			Line: l.GetLine(), Name: l.GetName(), Doc: l.GetDoc(), Count: sumOf(l.GetCounts()), Counts: l.GetCounts(), Way: l.GetWay(),
			Maskable: l.GetMaskable(), Routable: l.GetRoutable(), Masked: l.GetMasked(), Pending: l.GetPending(), CPUs: l.GetCpus(),
			Priority: l.GetPriority(), Limit: l.GetLimit(), Throttle: l.GetThrottle(), Deferred: l.GetDeferred(), Dropped: l.GetDropped(),
			Overflows: l.GetOverflows(), Storms: l.GetStorms(), Stormy: orEmpty(l.GetStormy()),
			Latency: irqLate{l.GetLate(), l.GetP50(), l.GetP99(), l.GetMax()},
		}
	})}
}

func sumOf(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// irqColumns is for how many CPUs there is a column each.
const irqColumns = 8

func (a *app) printIrqs(resp *apiv1.IrqsResponse) error {
	header := []string{"IRQ", "NAME", "COUNT"}
	cpus := int(resp.GetCpus())
	if cpus > irqColumns || cpus == 1 {
		cpus = 0
	}
	for i := range cpus {
		header = append(header, "CPU"+strconv.Itoa(i))
	}
	header = append(header, "P50", "P99", "MAX", "DROPPED", "LIMIT", "CPUS", "PRIO", "STATE")
	var rows [][]string
	for _, l := range resp.GetLines() {
		row := []string{strconv.Itoa(int(l.GetLine())), l.GetName(), strconv.FormatUint(sumOf(l.GetCounts()), 10)}
		for i := range cpus {
			n := uint64(0)
			if i < len(l.GetCounts()) {
				n = l.GetCounts()[i]
			}
			row = append(row, strconv.FormatUint(n, 10))
		}
		for _, d := range []int64{l.GetP50(), l.GetP99(), l.GetMax()} {
			text := "-"
			if l.GetLate() > 0 {
				text = roundedTime(d)
			}
			row = append(row, text)
		}
		limit, on, prio := "-", "-", "-"
		if l.GetLimit() > 0 {
			limit = strconv.FormatUint(l.GetLimit(), 10) + "/s"
		}
		if l.GetRoutable() {
			on, prio = l.GetCpus(), strconv.Itoa(int(l.GetPriority()))
		}
		rows = append(rows, append(row, strconv.FormatUint(l.GetDropped(), 10), limit, on, prio, irqState(l)))
	}
	return a.table(header, rows)
}

// irqState says what is the matter with a line.
func irqState(l *apiv1.IrqLine) string {
	var said []string
	if l.GetMasked() {
		said = append(said, fmt.Sprintf("masked, %d pending", l.GetPending()))
	}
	for _, s := range l.GetStormy() {
		text := "storm of " + orElse(s, "the domain")
		if l.GetThrottle() != "" {
			text += ", " + l.GetThrottle()
		}
		said = append(said, text)
	}
	return orElse(strings.Join(said, "; "), "on")
}

// roundedTime writes nanoseconds for people, to three digits.
func roundedTime(n int64) string {
	d := time.Duration(n)
	unit := time.Nanosecond
	for d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit).String()
}
