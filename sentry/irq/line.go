package irq

import (
	"strconv"
	"strings"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/smp"
)

// Line is a line of interrupts, by its number.
type Line uint8

// The lines.
const (
	Timer   Line = iota // a timer has expired
	Control             // the daemon wants something
	Console             // an agent's output, or its terminal's input
	NetRx               // a packet has come
	Signal              // the host has sent a signal
	Resched             // a task must let others run
	Call                // the kernel wants something of a task that runs
	NMI                 // the watchdog

	// LineCount is how many lines there are.
	LineCount
)

// Way says where the bottom half of a line runs.
type Way uint8

// The ways.
const (
	// Direct: where the top half ran, and nowhere else.
	Direct Way = iota
	// Threaded: on a goroutine of its own, for it may wait.
	Threaded
	// Queued: on the worker of a CPU, when it is put off.
	Queued
)

// String is the way's name.
func (w Way) String() string { return [...]string{"direct", "threaded", "queued"}[min(w, Queued)] }

// LineInfo is what is known of a line.
type LineInfo struct {
	Line Line
	Name string
	// Label is the first column of /proc/interrupts, as Linux has it.
	Label string
	Way   Way
	// Maskable lines can be masked.
	Maskable bool
	// Always is set of lines whose bottom half is always put off.
	Always bool
	// Throttle names what is done in a storm; "" for nothing but to say so.
	Throttle string
	// Limit is how many interrupts a second of one source make a storm, at
	// first; 0 for any number.
	Limit uint64
	// Priority is that of its bottom halves, at first.
	Priority uint8
	// Doc is a phrase for people; Linux is how Linux would call it.
	Doc, Linux string
}

// Priorities of bottom halves.
const (
	// MaxPriority is served first, 0 last.
	MaxPriority = 7
	priorities  = MaxPriority + 1
)

var lines = [LineCount]LineInfo{
	{Line: Timer, Name: "timer", Label: "0", Limit: 50_000, Throttle: "coalesced", Doc: "timers that expired: of the kernel, of TCP, and the sleeps and time-outs of programs"},
	{Line: Control, Name: "control", Label: "1", Limit: 5_000, Doc: "requests of the daemon"},
	{Line: Console, Name: "console", Label: "2", Way: Threaded, Maskable: true, Limit: 20_000, Throttle: "coalesced", Doc: "output of programs to their standard streams or terminal, and input for them"},
	{Line: NetRx, Name: "net-rx", Label: "3", Way: Queued, Maskable: true, Limit: 200_000, Throttle: "polled", Priority: 4, Doc: "packets that arrived at an interface of an agent"},
	{Line: Signal, Name: "signal", Label: "4", Way: Queued, Maskable: true, Always: true, Limit: 1_000, Priority: 6, Doc: "signals that the host sent to the kernel process"},
	{Line: Resched, Name: "resched", Label: "RES", Limit: 50_000, Doc: "tasks that had to make way: their slice was over, or the quota", Linux: "Rescheduling interrupts"},
	{Line: Call, Name: "call", Label: "CAL", Limit: 50_000, Doc: "tasks that ran and were called into the kernel: for a signal, a pause, a revocation", Linux: "Function call interrupts"},
	{Line: NMI, Name: "nmi", Label: "NMI", Doc: "the watchdog: something held the kernel up for too long", Linux: "Non-maskable interrupts"},
}

// Lines returns every line in order of number. The caller must not change it.
func Lines() []LineInfo { return lines[:] }

// Info returns what is known of l; of a number that is none, nothing.
func (l Line) Info() LineInfo {
	if l >= LineCount {
		return LineInfo{Line: l, Name: strconv.Itoa(int(l))}
	}
	return lines[l]
}

// String is the line's name.
func (l Line) String() string { return l.Info().Name }

// Routable reports whether the bottom halves of a line run on workers, so that
// CPUs and a priority can be chosen for them.
func (i LineInfo) Routable() bool { return i.Way == Queued }

// ParseLine reads the name or the number of a line.
func ParseLine(text string) (Line, error) {
	var names []string
	for _, i := range lines {
		if text == i.Name || text == strconv.Itoa(int(i.Line)) || strings.EqualFold(text, i.Label) {
			return i.Line, nil
		}
		names = append(names, i.Name)
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "there is no such line of interrupts", errdefs.Resource("%q", text),
		errdefs.Fix("the lines are: %s", strings.Join(names, ", ")))
}

// ParseCPUs reads a list of CPUs such as "0-1,3"; "all", or none at all, is nil,
// which stands for any CPU.
func ParseCPUs(text string) ([]int, error) {
	if text == "all" || text == "" {
		return nil, nil
	}
	set, err := smp.Parse(text)
	if err != nil {
		return nil, err
	}
	var cpus []int
	set.All(func(cpu int) bool {
		cpus = append(cpus, cpu)
		return true
	})
	return cpus, nil
}

// FormatCPUs writes a list of CPUs as ParseCPUs reads it.
func FormatCPUs(cpus []int) string {
	if cpus == nil {
		return "all"
	}
	return smp.Of(cpus...).String()
}
