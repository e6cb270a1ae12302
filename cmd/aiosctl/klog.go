package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
)

func (a *app) klogCmd() *cobra.Command {
	var req apiv1.KlogRequest
	var since, output string
	var set []string
	cmd := &cobra.Command{
		Use:   "klog [flags] [DOMAIN]",
		Short: "Show what a kernel process logs, and choose what it does",
		Long: `Klog prints the log of a domain's kernel process, the oldest record first; without DOMAIN
that of the daemon. The log is in shared memory that outlives the process: when it has crashed,
klog prints what came before, and with --crashed still does when the domain runs again.

With --follow it goes on, as on a serial console, until the kernel process ends. With --level it
changes from which level on subsystems log, and prints all of them; "*" is all of them. Levels
are debug, info, notice, warning, error and critical.

The environment and the arguments of programs are never logged; what looks like a token, a key
or a password is replaced.`,
		Example: `  aiosctl klog default
  aiosctl klog -f default --severity warning
  aiosctl klog default --level gvisor=info --level net=debug
  aiosctl klog default --crashed --since 1h -o json`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asJSON, err := a.wantsJSON(output)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				req.Domain = args[0]
			}
			if len(set) > 0 {
				return a.klogLevels(cmd, req.GetDomain(), set, asJSON)
			}
			if req.SinceUnixNano, err = a.moment("--since", since); err != nil {
				return err
			}
			if req.GetCrashed() && req.GetFollow() {
				return usage(cmd, "--crashed and --follow: a process that crashed logs no more")
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error { return a.klog(ctx, c, &req, asJSON) })
		},
		ValidArgsFunction: a.completeFirst(a.domainNames),
	}
	f := cmd.Flags()
	f.BoolVarP(&req.Follow, "follow", "f", false, "go on with what is logged")
	f.StringVar(&since, "since", "", "from `TIME` on: a duration ago such as 10m, or RFC 3339")
	f.StringVar(&req.Level, "severity", "", "at least `LEVEL`")
	f.StringVar(&req.Subsystem, "subsystem", "", "only of the subsystem `NAME`")
	f.StringVar(&req.Agent, "agent", "", "only about `AGENT`, by ID or name")
	f.BoolVar(&req.Crashed, "crashed", false, "what the kernel process that crashed last had logged")
	f.StringArrayVar(&set, "level", nil, "log from a level on, `SUBSYS=LEVEL`; may be given more than once")
	outputFlag(cmd, &output, "json")
	a.completeFlag(cmd, "agent", a.allAgents)
	return cmd
}

func (a *app) klog(ctx context.Context, c *client.Client, req *apiv1.KlogRequest, asJSON bool) error {
	stream, err := c.Klog(ctx, req)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.GetRemark() != "":
			fmt.Fprintf(a.stderr, "aiosctl: %s\n", printable(m.GetRemark()))
			continue
		}
		line := m.GetText()
		if asJSON {
			line = m.GetJson()
		}
		if _, err := fmt.Fprintln(a.stdout, line); err != nil {
			return err
		}
	}
}

// klogLevelView is a subsystem as -o json shows it.
type klogLevelView struct {
	Subsystem  string `json:"subsystem"`
	Level      string `json:"level"`
	Written    uint64 `json:"written"`
	Suppressed uint64 `json:"suppressed"`
}

// klogLevels changes levels and prints all.
func (a *app) klogLevels(cmd *cobra.Command, domain string, set []string, asJSON bool) error {
	req := &apiv1.KlogLevelsRequest{Domain: domain}
	for _, s := range set {
		name, level, ok := strings.Cut(s, "=")
		if !ok || name == "" || level == "" {
			return invalid("--level", s, "it is not SUBSYS=LEVEL", "write for example --level gvisor=info, or --level '*=debug'")
		}
		req.Set = append(req.Set, &apiv1.KlogLevel{Subsystem: name, Level: level})
	}
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.KlogLevels(ctx, req)
		if err != nil {
			return err
		}
		if asJSON {
			return a.printJSON(views(resp.GetLevels(), func(l *apiv1.KlogLevel) klogLevelView {
				return klogLevelView{l.GetSubsystem(), l.GetLevel(), l.GetWritten(), l.GetSuppressed()}
			}))
		}
		var rows [][]string
		for _, l := range resp.GetLevels() {
			rows = append(rows, []string{l.GetSubsystem(), l.GetLevel(), fmt.Sprint(l.GetWritten()), fmt.Sprint(l.GetSuppressed())})
		}
		return a.table([]string{"SUBSYSTEM", "LEVEL", "WRITTEN", "SUPPRESSED"}, rows)
	})
}
