package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) psCmd() *cobra.Command {
	var (
		all, quiet, noTrunc bool
		domain, output      string
	)
	cmd := &cobra.Command{
		Use:     "ps [flags]",
		Aliases: []string{"ls"},
		Short:   "List agents",
		Example: `  aiosctl ps
  aiosctl ps -a -o wide
  aiosctl ps -o json | jq -r '.[].name'`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			json, err := a.wantsJSON(output, "wide")
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				resp, err := c.List(ctx, &apiv1.ListRequest{All: all, Domain: domain})
				switch {
				case err != nil:
					return a.suggest(ctx, c, err, domain)
				case json:
					return a.printJSON(views(resp.GetAgents(), viewAgent))
				case quiet:
					for _, g := range resp.GetAgents() {
						fmt.Fprintln(a.stdout, g.GetId())
					}
					return nil
				}
				return a.agentTable(resp.GetAgents(), output == "wide", noTrunc)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "include agents that have ended")
	f.BoolVarP(&quiet, "quiet", "q", false, "print IDs only")
	f.BoolVar(&noTrunc, "no-trunc", false, "print commands in full")
	f.StringVar(&domain, "domain", "", "only agents of the domain `NAME`")
	outputFlag(cmd, &output, "json", "wide")
	a.completeFlag(cmd, "domain", a.domainNames)
	return cmd
}

func (a *app) agentTable(agents []*apiv1.Agent, wide, noTrunc bool) error {
	header := []string{"ID", "NAME", "STATE", "AGE", "PROCS", "MEMORY", "IMAGE"}
	if wide {
		header = append(header, "DOMAIN", "ENDED", "LABELS")
	}
	header = append(header, "COMMAND")
	rows := make([][]string, 0, len(agents))
	for _, g := range agents {
		procs, memory := strconv.Itoa(int(g.GetProcesses())), size(g.GetMemoryBytes())
		if abi.State(g.GetState()).Final() {
			procs, memory = "-", "-"
		}
		row := []string{
			g.GetId(), dash(g.GetName()), a.stateOf(g), a.age(g.GetCreatedUnixNano()), procs, memory, g.GetImage(),
		}
		if wide {
			row = append(row, g.GetDomain(), a.age(g.GetEndedUnixNano()), dash(pairs(g.GetLabels())))
		}
		rows = append(rows, append(row, commandLine(g.GetArgv(), !noTrunc)))
	}
	return a.table(header, rows)
}

func (a *app) inspectCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "inspect [flags] AGENT…",
		Short:   "Show everything about agents",
		Example: "  aiosctl inspect web\n  aiosctl inspect -o json web | jq '.[0].process_list'",
		Args:    atLeast(1, "the agent"),
		RunE: func(cmd *cobra.Command, args []string) error {
			json, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			all, shown := []inspectView{}, 0
			err = a.each(cmd, args, func(ctx context.Context, c *client.Client, agent string) error {
				resp, err := c.Inspect(ctx, &apiv1.InspectRequest{Agent: agent})
				if err != nil {
					return err
				}
				if json {
					all = append(all, viewInspect(resp))
					return nil
				}
				if shown++; shown > 1 {
					fmt.Fprintln(a.stdout)
				}
				return a.printInspect(resp)
			})
			if json {
				if jerr := a.printJSON(all); err == nil {
					err = jerr
				}
			}
			return err
		},
		ValidArgsFunction: a.complete(a.allAgents),
	}
	outputFlag(cmd, &output, "json")
	return cmd
}

// facts prints names and values, leaving out what is empty.
type facts struct{ w *tabwriter.Writer }

func (f facts) add(name, value string) {
	if value != "" {
		fmt.Fprintf(f.w, "%s:\t%s\n", name, printable(value))
	}
}

func (a *app) facts() facts { return facts{tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)} }

func (a *app) when(nano int64) string {
	if nano == 0 {
		return ""
	}
	return time.Unix(0, nano).In(a.zone).Format(time.RFC3339) + " (" + a.age(nano) + " ago)"
}

func (a *app) printInspect(r *apiv1.InspectResponse) error {
	g, s, p, d := r.GetAgent(), r.GetSpec(), r.GetSpec().GetProcess(), r.GetDomain()
	f := a.facts()
	f.add("ID", g.GetId())
	f.add("Name", g.GetName())
	f.add("State", a.stateOf(g))
	f.add("Template", g.GetTemplate())
	f.add("Reason", g.GetExit().GetReason())
	f.add("Command", commandLine(g.GetArgv(), false))
	f.add("Created", a.when(g.GetCreatedUnixNano()))
	f.add("Ended", a.when(g.GetEndedUnixNano()))
	f.add("Image", strings.TrimSpace(g.GetImage()+" "+r.GetImageDigest()))
	f.add("Hostname", s.GetHostname())
	f.add("Time zone", s.GetTimeZone())
	f.add("Clock", clockText(r.GetClock()))
	f.add("User", p.GetUser())
	f.add("Directory", p.GetCwd())
	f.add("Terminal", yes(p.GetTty()))
	f.add("Labels", pairs(g.GetLabels()))
	for _, m := range s.GetMounts() {
		mode := "ro"
		if m.GetWritable() {
			mode = "rw"
		}
		f.add("Mount", m.GetSource()+":"+m.GetTarget()+":"+mode)
	}
	l, final := s.GetLimits(), abi.State(g.GetState()).Final()
	f.add("Memory", used(final, size(g.GetMemoryBytes()), l.GetMemoryBytes(), size))
	if n := l.GetSwapBytes(); n > 0 {
		f.add("Swap", "at most "+size(n))
	}
	f.add("Processes", used(final, strconv.Itoa(int(g.GetProcesses())), uint64(l.GetProcesses()), decimal))
	f.add("Domain", g.GetDomain())
	if d != nil {
		f.add("Kernel", fmt.Sprintf("pid %d, %s", d.GetPid(), d.GetPlatform()))
	}
	f.add("Log", r.GetLogPath())
	if err := f.w.Flush(); err != nil || len(r.GetProcesses()) == 0 {
		return err
	}
	fmt.Fprintln(a.stdout)
	return a.processTable(r.GetProcesses())
}

func (a *app) processTable(processes []*apiv1.AgentProcess) error {
	rows := make([][]string, 0, len(processes))
	for _, p := range processes {
		command := commandLine(p.GetArgv(), true)
		if command == "" {
			command = "[" + p.GetName() + "]"
		}
		rows = append(rows, []string{
			strconv.Itoa(int(p.GetPid())), strconv.Itoa(int(p.GetPpid())), p.GetState(), strconv.Itoa(int(p.GetThreads())), command,
		})
	}
	return a.table([]string{"PID", "PPID", "STATE", "THREADS", "COMMAND"}, rows)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// used is an amount and its limit; what has ended uses nothing.
func used(final bool, amount string, limit uint64, format func(uint64) string) string {
	switch {
	case limit == 0 && final:
		return ""
	case limit == 0:
		return amount
	case final:
		return "at most " + format(limit)
	}
	return amount + " of at most " + format(limit)
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
