package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/sched/chrome"
)

func (a *app) schedTraceCmd() *cobra.Command {
	var length, limit, path string
	var force bool
	cmd := &cobra.Command{
		Use:   "trace [flags] [AGENT|DOMAIN]",
		Short: "Record all that a scheduler does, to be seen in Perfetto",
		Long: `Trace records all that the scheduler of a domain does, for a time: each switch of a CPU from one task
to another, who waited how long, who was throttled. It writes a file that Perfetto (ui.perfetto.dev)
and chrome://tracing open: a track for each CPU, and one for each thread of each agent.

Without AGENT or DOMAIN it is the default domain. Of an AGENT, the file has when others had a CPU, and
not who. An agent whose name a domain has too is named by its ID. A scheduler is traced once at a time.

Ctrl-C ends the trace early: what there is is written. A second one gives it up.

What finds no room any more is counted, and left out; the trace ends before it.`,
		Example: "  aiosctl sched trace --for 5s -o trace.json\n  aiosctl sched trace web --for 500ms | gzip > web.json.gz",
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := new(apiv1.SchedTraceRequest)
			if len(args) > 0 {
				req.Agent = args[0]
			}
			d, err := time.ParseDuration(length)
			if err != nil || d <= 0 || d > control.SchedTraceMostFor {
				return invalid("--for", length, "not a time up to 10m", "write a number with a unit, such as 2s")
			}
			req.ForNano = int64(d)
			if limit != "" {
				n, err := strconv.ParseUint(limit, 10, 32)
				if err != nil || n < 1 || n > control.SchedTraceMost {
					return invalid("--limit", limit, "not a number of entries", fmt.Sprintf("write one from 1 to %d", control.SchedTraceMost))
				}
				req.Limit = uint32(n)
			}
			if path == "" && isTerminal(a.stdout) {
				return usage(cmd, "the trace is for a program to read, and would go to the terminal; name a file with -o")
			}
			if _, err := os.Lstat(path); path != "" && path != "-" && err == nil && !force { // Before somebody waits for it.
				return fileExists(path)
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				t, opts, err := schedTrace(ctx, c, req)
				if err != nil {
					return a.suggest(ctx, c, err, req.GetAgent())
				}
				if err := a.writeTrace(t, opts, path, force); err != nil {
					return err
				}
				fmt.Fprintf(a.stderr, "aiosctl: %s of %s: %d switches, %d tasks, %d entries\n",
					roundedTime(t.End-t.Begin), opts.Domain, t.Switches, len(t.Tasks), len(t.Entries))
				if t.Dropped > 0 {
					fmt.Fprintf(a.stderr, "aiosctl: %d more entries found no room: the trace ends after %s; record for less time, or keep more with --limit\n",
						t.Dropped, roundedTime(t.Entries[len(t.Entries)-1].At-t.Begin))
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeFirst(a.agentsAndDomains),
	}
	cmd.Flags().StringVar(&length, "for", "1s", "record for `TIME`")
	cmd.Flags().StringVar(&limit, "limit", "", "keep at most `N` entries, of which a switch has about three (1048576)")
	cmd.Flags().StringVarP(&path, "output", "o", "", "write to `FILE`, not to standard output")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace FILE")
	return cmd
}

// schedTrace gets a trace.
func schedTrace(ctx context.Context, c *client.Client, req *apiv1.SchedTraceRequest) (*sched.Trace, chrome.Options, error) {
	t, opts := new(sched.Trace), chrome.Options{}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	stream, err := c.SchedTrace(ctx)
	if err != nil {
		return nil, opts, err
	}
	if err := stream.Send(req); err != nil && err != io.EOF { // Then the reason is to be received.
		return nil, opts, err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case <-signals:
			// Fails if it has ended.
			_ = stream.Send(&apiv1.SchedTraceRequest{Agent: req.GetAgent(), Stop: true})
		case <-ctx.Done():
			return
		}
		select {
		case <-signals:
			giveUp()
		case <-ctx.Done():
		}
	}()
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return t, opts, nil
		}
		if err != nil {
			return nil, opts, err
		}
		if h := m.GetHead(); h != nil {
			t.Begin, t.End, t.CPUs, t.Switches, t.Dropped = h.GetBeginNano(), h.GetEndNano(), int(h.GetCpus()), h.GetSwitches(), h.GetDropped()
			opts.Domain = h.GetDomain()
		}
		for _, g := range m.GetGroups() {
			t.Groups, opts.Names = append(t.Groups, g.GetAgent()), append(opts.Names, g.GetName())
		}
		for _, k := range m.GetTasks() {
			t.Tasks = append(t.Tasks, sched.TracedTask{Group: k.GetGroup(), TaskName: sched.TaskName{PID: k.GetPid(), TID: k.GetTid(), Name: k.GetName()}})
		}
		for _, e := range m.GetEntries() {
			t.Entries = append(t.Entries, sched.TraceEntry{
				At: e.GetAtNano(), Took: e.GetTookNano(), Who: e.GetWho(), Waiting: e.GetWaiting(), CPU: int16(e.GetCpu()),
				Kind: sched.TraceKind(e.GetKind()), Before: e.GetBefore(),
			})
		}
	}
}

// writeTrace writes a trace to a file, or to standard output.
func (a *app) writeTrace(t *sched.Trace, opts chrome.Options, path string, force bool) error {
	if path == "" || path == "-" {
		return chrome.Write(a.stdout, t, opts)
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_EXCL
	if force {
		flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return fileExists(path)
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "write trace")
	}
	err = chrome.Write(f, t, opts)
	if cerr := f.Close(); err == nil {
		err = errdefs.Wrap(cerr, errdefs.HostIO, "write trace")
	}
	return err
}

func fileExists(path string) error {
	return errdefs.New(errdefs.AlreadyExists, "the file exists", errdefs.Resource("%q", path), errdefs.Fix("name another, or replace it with -f"))
}
