package alert

import "strings"

// Counter is something of an agent that is sampled.
type Counter uint8

// Counters.
const (
	Memory Counter = iota
	CPU
	Tasks
	Files
	Disk
	Faults
	MajorFaults
	Read
	Written
	Operations
	Throttled
	CPUPressure
	MemoryPressure
	IOPressure

	// Counters is how many there are.
	Counters
)

// counters has one row for each counter.
var counters = [Counters]struct {
	name, doc string
	bytes     bool
}{
	Memory:         {"memory", "bytes resident", true},
	CPU:            {"cpu", "CPUs in use, as in 0.5", false},
	Tasks:          {"tasks", "processes and threads", false},
	Files:          {"files", "open descriptors of all processes", false},
	Disk:           {"disk", "bytes in the writable layer", true},
	Faults:         {"faults", "page faults a second", false},
	MajorFaults:    {"major-faults", "page faults a second for which a task had to wait", false},
	Read:           {"read", "bytes read a second, whatever from", true},
	Written:        {"written", "bytes written a second, whatever to", true},
	Operations:     {"operations", "calls a second that read or write", false},
	Throttled:      {"throttled", "share of the time that it was stopped for having used up its quota, from 0 to 1", false},
	CPUPressure:    {"cpu-pressure", "share of the time that some task waited for a CPU, from 0 to 1", false},
	MemoryPressure: {"memory-pressure", "share of the time that some task waited for memory, from 0 to 1", false},
	IOPressure:     {"io-pressure", "share of the time that some task was held back by the rate of its I/O, from 0 to 1", false},
}

// String returns the name of the counter.
func (c Counter) String() string {
	if c < Counters {
		return counters[c].name
	}
	return "unknown"
}

// Doc is one line on what the counter counts.
func (c Counter) Doc() string { return counters[c].doc }

// Bytes reports whether the counter is of bytes, in all or a second.
func (c Counter) Bytes() bool { return counters[c].bytes }

// parseCounter returns the counter of a name.
func parseCounter(name string) (Counter, error) {
	var names []string
	for c := range Counters {
		if c.String() == name {
			return c, nil
		}
		names = append(names, c.String())
	}
	return 0, bad("there is no counter "+quoted(name), "write one of "+strings.Join(names, ", "))
}

// Sample is what the counters of one agent are.
type Sample struct {
	Agent, Name, Domain string
	// Known has a bit for each counter that could be sampled.
	Known  uint32
	Values [Counters]float64
}

// Set notes what a counter is.
func (s *Sample) Set(c Counter, v float64) {
	s.Known |= 1 << c
	s.Values[c] = v
}

// Get returns what a counter is, if that is known.
func (s *Sample) Get(c Counter) (float64, bool) { return s.Values[c], s.Known&(1<<c) != 0 }
