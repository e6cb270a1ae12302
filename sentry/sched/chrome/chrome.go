// Package chrome writes traces of the scheduler in the Trace Event Format, which
// Perfetto (ui.perfetto.dev) and chrome://tracing open.
//
// What they call processes are the domain's CPUs, together, and each agent; what
// they call threads are the single CPU, and each task of an agent. On the track
// of a CPU there is a slice for each time that a task had it, on that of a task
// one for each time that it ran and that it waited. Slices of one track do not
// overlap; whatever the trace says, each that begins ends. Counters say how many
// tasks wait, and whether an agent is throttled.
//
// Names of tasks are chosen by agents: they are written as JSON strings, whatever
// is in them.
package chrome

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

// Options are what a trace does not say itself.
type Options struct {
	Domain string
	// Names are what groups are called, in the order of Trace.Groups; an empty one
	// is called as the trace calls it.
	Names []string
}

// others is who had a CPU when the trace does not say.
const others = "others"

// cpusPID is the process of the CPUs; those of groups follow.
const cpusPID = 1

// writer is a trace that is being written.
type writer struct {
	*bufio.Writer
	t    *sched.Trace
	opts Options
	some bool
	last int64
	// waiting is how many tasks were said to wait.
	waiting uint32
	// onCPU is who has each CPU, or -1; tasks what each task does.
	onCPU []int
	tasks []doing
}

type doing struct {
	waits, runs bool
	cpu         int16
}

// event is one of the format.
type event struct {
	Name  string `json:"name,omitempty"`
	Phase string `json:"ph"`
	Time  number `json:"ts"`
	PID   int    `json:"pid"`
	TID   int    `json:"tid"`
	Args  any    `json:"args,omitempty"`
}

// number is nanoseconds, written as microseconds.
type number int64

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%d.%03d", n/1000, n%1000), nil
}

type named struct {
	Name string `json:"name"`
}

type index struct {
	Index int `json:"sort_index"`
}

type running struct {
	Agent  string `json:"agent"`
	PID    int32  `json:"pid"`
	TID    int32  `json:"tid"`
	Thread string `json:"thread"`
	Waited number `json:"waited_us"`
	Before bool   `json:"began_before,omitempty"`
}

type left struct {
	Told number `json:"told_us_ago"`
}

// Write writes a trace.
func Write(out io.Writer, t *sched.Trace, opts Options) error {
	w := &writer{Writer: bufio.NewWriterSize(out, 1<<16), t: t, opts: opts, last: t.Begin, onCPU: make([]int, t.CPUs), tasks: make([]doing, len(t.Tasks))}
	if t.Begin < 0 || t.End < t.Begin {
		return errdefs.New(errdefs.InvalidArgument, "it ends before it begins", errdefs.Op("write trace"))
	}
	for i := range w.onCPU {
		w.onCPU[i] = -1
	}
	for _, task := range t.Tasks {
		if int(task.Group) >= len(t.Groups) {
			return errdefs.New(errdefs.InvalidArgument, "a task is of no group", errdefs.Op("write trace"))
		}
	}
	w.WriteString(`{"displayTimeUnit":"ns","otherData":`)
	w.json(struct {
		Domain   string `json:"domain"`
		From     number `json:"begin_us"`
		To       number `json:"end_us"`
		Switches uint64 `json:"switches"`
		Dropped  uint64 `json:"dropped"`
	}{opts.Domain, number(t.Begin), number(t.End), t.Switches, t.Dropped})
	w.WriteString(",\n\"traceEvents\":[")
	w.names()
	for _, e := range t.Entries {
		if err := t.Check(e, w.last); err != nil {
			return err
		}
		w.last = e.At
		w.entry(e)
	}
	w.end()
	w.WriteString("\n]}\n")
	return errdefs.Wrap(w.Flush(), errdefs.HostIO, "write trace")
}

// group is what a group is called.
func (w *writer) group(g uint32) string {
	if int(g) < len(w.opts.Names) && w.opts.Names[g] != "" {
		return w.opts.Names[g]
	}
	if id := w.t.Groups[g]; id != "" {
		return id
	}
	return others
}

func pidOf(group uint32) int { return cpusPID + 1 + int(group) }

// names says what the tracks are called.
func (w *writer) names() {
	meta := func(pid, tid int, what string, args any) {
		w.event(event{Name: what, Phase: "M", PID: pid, TID: tid, Args: args})
	}
	title := "CPUs"
	if w.opts.Domain != "" {
		title += " of " + w.opts.Domain
	}
	meta(cpusPID, 0, "process_name", named{title})
	meta(cpusPID, 0, "process_sort_index", index{0})
	for cpu := range w.t.CPUs {
		meta(cpusPID, cpu+1, "thread_name", named{"CPU " + strconv.Itoa(cpu)})
		meta(cpusPID, cpu+1, "thread_sort_index", index{cpu})
	}
	for g, id := range w.t.Groups {
		if id == "" {
			continue // They have no tracks.
		}
		title := "agent " + w.group(uint32(g))
		if title != "agent "+id {
			title += " (" + id + ")"
		}
		meta(pidOf(uint32(g)), 0, "process_name", named{title})
		meta(pidOf(uint32(g)), 0, "process_sort_index", index{g + 1})
	}
	for i, task := range w.t.Tasks {
		if w.t.Groups[task.Group] == "" {
			continue
		}
		meta(pidOf(task.Group), i+1, "thread_name", named{fmt.Sprintf("%s %d/%d", task.Name, task.PID, task.TID)})
		meta(pidOf(task.Group), i+1, "thread_sort_index", index{int(task.PID)*100000 + int(task.TID)})
	}
}

// entry writes what comes of an entry.
func (w *writer) entry(e sched.TraceEntry) {
	switch e.Kind {
	case sched.TraceWait:
		w.stop(e.Who, e)
		w.tasks[e.Who].waits = true
		w.onTrack(e, "B", "waits")
	case sched.TraceRun:
		if was := w.onCPU[e.CPU]; was >= 0 {
			w.stop(uint32(was), e)
		}
		w.stop(e.Who, e)
		w.tasks[e.Who].runs, w.tasks[e.Who].cpu = true, e.CPU
		w.onCPU[e.CPU] = int(e.Who)
		task := w.t.Tasks[e.Who]
		name := w.group(task.Group)
		args := running{name, task.PID, task.TID, task.Name, number(e.Took), e.Before}
		if w.t.Groups[task.Group] != "" {
			name = fmt.Sprintf("%s: %s %d", name, task.Name, task.TID)
		}
		w.event(event{Name: name, Phase: "B", Time: number(e.At), PID: cpusPID, TID: int(e.CPU) + 1, Args: args})
		w.onTrack(e, "B", "runs on CPU "+strconv.Itoa(int(e.CPU)))
	case sched.TraceLeave, sched.TraceGone:
		w.stop(e.Who, e)
	case sched.TraceThrottled, sched.TraceResumed:
		is := 0
		if e.Kind == sched.TraceThrottled {
			is = 1
		}
		if w.t.Groups[e.Who] != "" {
			w.event(event{Name: "throttled", Phase: "C", Time: number(e.At), PID: pidOf(e.Who), Args: map[string]int{"throttled": is}})
		}
	}
	if e.Waiting == w.waiting {
		return
	}
	w.waiting = e.Waiting
	w.event(event{Name: "waiting tasks", Phase: "C", Time: number(e.At), PID: cpusPID, Args: map[string]uint32{"tasks": e.Waiting}})
}

// stop ends what a task does.
func (w *writer) stop(who uint32, e sched.TraceEntry) {
	d := &w.tasks[who]
	if !d.waits && !d.runs {
		return
	}
	track := event{Phase: "E", Time: number(e.At), PID: cpusPID, TID: int(d.cpu) + 1}
	if d.runs {
		if e.Kind == sched.TraceLeave && e.Took > 0 {
			track.Args = left{number(e.Took)}
		}
		w.event(track)
		w.onCPU[d.cpu] = -1
	}
	d.waits, d.runs = false, false
	e.Who = who
	w.onTrack(e, "E", "")
}

// onTrack writes an event on the track of a task.
func (w *writer) onTrack(e sched.TraceEntry, phase, name string) {
	if g := w.t.Tasks[e.Who].Group; w.t.Groups[g] != "" {
		w.event(event{Name: name, Phase: phase, Time: number(e.At), PID: pidOf(g), TID: int(e.Who) + 1})
	}
}

// end ends all that goes on. What comes after an entry that found no room is not
// known.
func (w *writer) end() {
	at := w.t.End
	if w.t.Dropped > 0 {
		at = w.last
	}
	for i := range w.tasks {
		w.stop(uint32(i), sched.TraceEntry{At: at})
	}
}

func (w *writer) event(e event) {
	if w.some {
		w.WriteByte(',')
	}
	w.some = true
	w.WriteByte('\n')
	w.json(e)
}

// json writes a value of this package's.
func (w *writer) json(v any) {
	if b, err := json.Marshal(v); err == nil {
		w.Write(b)
	}
}
