package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/client"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// usualViews are what debug shows when it is not told what.
var usualViews = []string{control.ViewTasks, control.ViewQueues, control.ViewLocks}

// checkViews completes the views that a command line names.
func checkViews(views []string) ([]string, error) {
	switch {
	case len(views) == 0:
		return usualViews, nil
	case slices.Equal(views, []string{"all"}):
		return control.Views(), nil
	}
	for _, v := range views {
		if !slices.Contains(control.Views(), v) {
			return nil, errdefs.Newf(errdefs.InvalidArgument, "there is no view %.40q", v).
				With(errdefs.Op("debug"), errdefs.Fix("name some of %s; or all", strings.Join(control.Views(), ", ")))
		}
	}
	return views, nil
}

// look shows views of an agent or a domain.
func (a *app) look(cmd *cobra.Command, target string, pid int32, views []string, asJSON bool) error {
	return a.with(cmd, func(ctx context.Context, c *client.Client) error {
		resp, err := c.Look(ctx, &apiv1.LookRequest{Agent: target, Pid: pid, Views: views})
		if err != nil {
			return a.suggest(ctx, c, err, target)
		}
		var l control.Look
		if err := json.Unmarshal([]byte(resp.GetLook()), &l); err != nil {
			return errdefs.Wrap(err, errdefs.Protocol, "debug")
		}
		if asJSON {
			return a.printJSON(l)
		}
		return a.printLook(l, views)
	})
}

// printLook shows each view under its name, unless there is one alone.
func (a *app) printLook(l control.Look, views []string) error {
	show := map[string]func(control.Look) error{
		control.ViewTasks: a.lookTasks, control.ViewStacks: a.lookStacks, control.ViewQueues: a.lookQueues, control.ViewLocks: a.lookLocks,
		control.ViewCaps: a.lookCaps, control.ViewMaps: a.lookMaps, control.ViewFiles: a.lookFiles, control.ViewSockets: a.lookSockets,
	}
	first := true
	for _, v := range control.Views() {
		if !slices.Contains(views, v) {
			continue
		}
		if len(views) > 1 {
			if !first {
				fmt.Fprintln(a.stdout)
			}
			fmt.Fprintln(a.stdout, v)
		}
		first = false
		if err := show[v](l); err != nil {
			return err
		}
		if n := l.Left[v]; n > 0 {
			fmt.Fprintf(a.stderr, "aiosctl: %d rows of %s found no room: ask for one view, of one agent or with --pid\n", n, v)
		}
	}
	return nil
}

// nameOf is what an agent is called.
func nameOf(l control.Look, id string) string { return orElse(l.Names[id], id) }

func number(n int32) string { return strconv.Itoa(int(n)) }

func (a *app) lookTasks(l control.Look) error {
	rows := make([][]string, 0, len(l.Tasks))
	for _, t := range l.Tasks {
		rows = append(rows, []string{
			nameOf(l, t.Agent), number(t.PID), number(t.TID), t.Name, t.State, short(t.For), dash(t.Call), dash(t.Registers["rip"]), dash(t.Registers["rsp"]),
			strconv.FormatInt(t.Goroutine, 10),
		})
	}
	return a.table([]string{"AGENT", "PID", "TID", "NAME", "STATE", "FOR", "CALL", "RIP", "RSP", "GOROUTINE"}, rows)
}

// short writes a duration for people; none is "-".
func short(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return roundedTime(int64(d))
}

// registerRows is the order in which registers are shown.
var registerRows = [][]string{
	{"rip", "rsp", "rbp", "eflags"}, {"rax", "rbx", "rcx", "rdx"}, {"rsi", "rdi", "r8", "r9"}, {"r10", "r11", "r12", "r13"},
	{"r14", "r15", "orig_rax", "fs_base"},
}

func (a *app) lookStacks(l control.Look) error {
	for i, t := range l.Tasks {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		does := t.State
		if t.Call != "" {
			does += " in " + t.Call
		}
		fmt.Fprintf(a.stdout, "%s, process %d, thread %d (%s): %s, goroutine %d\n", printable(nameOf(l, t.Agent)), t.PID, t.TID, printable(t.Name), does, t.Goroutine)
		for _, row := range registerRows {
			if len(t.Registers) == 0 {
				break
			}
			var line strings.Builder
			for _, name := range row {
				fmt.Fprintf(&line, "  %-8s %-18s", name, t.Registers[name])
			}
			fmt.Fprintln(a.stdout, strings.TrimRight(line.String(), " "))
		}
		for _, frame := range t.Stack {
			fmt.Fprintf(a.stdout, "  %s\n", printable(frame))
		}
	}
	return nil
}

func (a *app) lookQueues(l control.Look) error {
	list := func(tids []int32) string {
		var out []string
		for _, t := range tids {
			out = append(out, number(t))
		}
		return dash(strings.Join(out, " "))
	}
	rows := make([][]string, 0, len(l.Queues))
	for _, q := range l.Queues {
		quota := "-"
		if q.Period > 0 {
			quota = fmt.Sprintf("%s left of %s", max(q.Left, 0).Round(10*time.Microsecond), time.Duration(q.Quota)*q.Period/1000)
			if q.Stopped {
				quota += ", used up"
			}
		}
		rows = append(rows, []string{nameOf(l, q.Agent), strconv.FormatUint(q.Weight, 10), q.Lag.Round(10 * time.Microsecond).String(), q.Slice.Round(10 * time.Microsecond).String(), quota, list(q.Running), list(q.Waiting)})
	}
	return a.table([]string{"AGENT", "WEIGHT", "LAG", "REQUEST", "QUOTA", "RUNNING", "WAITING"}, rows)
}

func (a *app) lookLocks(l control.Look) error {
	if l.Locks == nil {
		return nil
	}
	var rows [][]string
	for _, k := range l.Locks.Kernel {
		state := "free"
		if k.Held {
			state = "held"
		}
		rows = append(rows, []string{k.Name, state, roundedTime(int64(k.Took))})
	}
	if err := a.table([]string{"LOCK OF THE KERNEL", "STATE", "TOOK"}, rows); err != nil {
		return err
	}
	for _, w := range l.Locks.Waiting {
		who := ""
		if w.Agent != "" {
			who = fmt.Sprintf(" of %s, thread %d,", nameOf(l, w.Agent), w.TID)
		}
		fmt.Fprintf(a.stdout, "goroutine %d%s waits for a lock:\n", w.Goroutine, printable(who))
		for _, frame := range w.Stack {
			fmt.Fprintf(a.stdout, "  %s\n", printable(frame))
		}
	}
	if len(l.Locks.Futexes) == 0 {
		return nil
	}
	rows = nil
	for _, f := range l.Locks.Futexes {
		value, owner := "-", "-"
		if f.Value != nil {
			value = fmt.Sprintf("%#x", *f.Value)
		}
		if f.Owner != 0 {
			owner = number(f.Owner)
		}
		var waiting []string
		for _, t := range f.Waiting {
			waiting = append(waiting, number(t))
		}
		rows = append(rows, []string{fmt.Sprintf("%#x", f.Address), nameOf(l, f.Agent), number(f.PID), value, owner, strings.Join(waiting, " ")})
	}
	fmt.Fprintln(a.stdout)
	return a.table([]string{"FUTEX", "AGENT", "PID", "VALUE", "OWNER", "WAITING"}, rows)
}

func (a *app) lookCaps(l control.Look) error {
	rows := make([][]string, 0, len(l.Caps))
	for _, c := range l.Caps {
		lease := "-"
		if c.Lease > 0 {
			lease = short(c.Lease)
		}
		rows = append(rows, []string{nameOf(l, c.Agent), fmt.Sprintf("%#x", uint64(c.Handle)), string(c.ID), c.Spec, dash(string(c.Parent)), lease, dash(c.Rest)})
	}
	return a.table([]string{"AGENT", "HANDLE", "ID", "GRANT", "PARENT", "LEASE", "LEFT"}, rows)
}

func (a *app) lookMaps(l control.Look) error {
	rows := make([][]string, 0, len(l.Maps))
	for _, m := range l.Maps {
		rows = append(rows, []string{
			nameOf(l, m.Agent), number(m.PID), fmt.Sprintf("%#x-%#x", m.Start, m.End), m.Perms, size(m.End - m.Start), fmt.Sprintf("%#x", m.Offset), dash(m.What),
		})
	}
	return a.table([]string{"AGENT", "PID", "ADDRESSES", "PERMS", "SIZE", "OFFSET", "WHAT"}, rows)
}

// threadOf names the process of a table, and the thread if that has its own.
func threadOf(pid, tid int32) string {
	if tid == 0 {
		return number(pid)
	}
	return number(pid) + "/" + number(tid)
}

func (a *app) lookFiles(l control.Look) error {
	rows := make([][]string, 0, len(l.Files))
	for _, f := range l.Files {
		var flags []string
		for name, on := range map[string]bool{"append": f.Append, "cloexec": f.CloseOnExec, "nonblock": f.NonBlocking} {
			if on {
				flags = append(flags, name)
			}
		}
		slices.Sort(flags)
		rows = append(rows, []string{
			nameOf(l, f.Agent), threadOf(f.PID, f.TID), number(f.FD), dash(f.Mode), dash(strings.Join(flags, ",")), f.FileSystem, dash(f.Path),
		})
	}
	return a.table([]string{"AGENT", "PID", "FD", "MODE", "FLAGS", "FS", "PATH"}, rows)
}

func (a *app) lookSockets(l control.Look) error {
	rows := make([][]string, 0, len(l.Sockets))
	for _, s := range l.Sockets {
		rows = append(rows, []string{
			nameOf(l, s.Agent), threadOf(s.PID, s.TID), number(s.FD), s.Family, s.Type, dash(s.State), dash(s.Local), dash(s.Remote),
		})
	}
	return a.table([]string{"AGENT", "PID", "FD", "FAMILY", "TYPE", "STATE", "LOCAL", "REMOTE"}, rows)
}
