package kdb

import (
	"fmt"
	"slices"
	"strings"
)

// DefaultLimit is how much memory of one process goes into a core when nobody
// says otherwise.
const DefaultLimit = 1 << 30

// LeftOut is memory that a core does not hold, and why.
type LeftOut struct {
	Start, End uint64
	Name       string
	Why        string
}

// String is one line for people.
func (l LeftOut) String() string {
	name := l.Name
	if name == "" {
		name = "anonymous"
	}
	return fmt.Sprintf("%x-%x %s: %s", l.Start, l.End, name, l.Why)
}

// stackWindow is how much of a stack, from the stack pointer on, is kept before
// anything else.
const stackWindow = 256 << 10

// Plan decides how much of each mapping goes into a core of at most limit bytes
// of memory, as Linux does by default: what the process has written, and the
// first page of each program and library, by which debuggers tell them. With
// full, also what files hold that the process has mapped. stacks are the stack
// pointers, whose surroundings come first; then mappings by size, so that a
// limit costs the largest. Mappings must be sorted by address.
func Plan(mappings []Mapping, stacks []uint64, limit uint64, full bool) []LeftOut {
	var out []LeftOut
	wants := make([]uint64, len(mappings))
	for i := range mappings {
		m := &mappings[i]
		m.Keep = 0
		want, why := m.want(full)
		wants[i] = want
		if why != "" {
			out = append(out, LeftOut{m.Start + want, m.End, m.Name(), why})
		}
	}
	left := limit &^ (pageSize - 1)
	keep := func(i int, upTo uint64) {
		m := &mappings[i]
		upTo = min(upTo, wants[i])
		if upTo <= m.Keep {
			return
		}
		n := min(upTo-m.Keep, left)
		m.Keep += n
		left -= n
	}
	for _, sp := range stacks {
		i, ok := slices.BinarySearchFunc(mappings, sp, func(m Mapping, sp uint64) int {
			switch {
			case m.End <= sp:
				return -1
			case m.Start > sp:
				return 1
			}
			return 0
		})
		if ok {
			end := sp + stackWindow
			keep(i, (end-mappings[i].Start+pageSize-1)&^(pageSize-1))
		}
	}
	order := make([]int, len(mappings))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case wants[a] < wants[b]:
			return -1
		case wants[a] > wants[b]:
			return 1
		}
		return 0
	})
	for _, i := range order {
		keep(i, wants[i])
		if m := &mappings[i]; m.Keep < wants[i] {
			out = append(out, LeftOut{m.Start + m.Keep, m.Start + wants[i], m.Name(), "beyond the limit of the core"})
		}
	}
	return out
}

// Name is what messages call the mapping.
func (m *Mapping) Name() string { return m.File }

// onDisk reports whether what is mapped is a file, and not memory that has the
// name of one.
func (m *Mapping) onDisk() bool {
	if !strings.HasPrefix(m.File, "/") {
		return false
	}
	for _, memory := range []string{"/dev/zero", "/memfd:", "/SYSV", "/dev/shm/"} {
		if strings.HasPrefix(m.File, memory) {
			return false
		}
	}
	return true
}

// maxVDSO is more than the code has that a kernel maps for programs.
const maxVDSO = 64 << 10

// want says how many bytes from its start on a core should hold of a mapping,
// and why not all, unless that goes without saying.
func (m *Mapping) want(full bool) (uint64, string) {
	switch {
	case m.File == "[vsyscall]" || m.File == "[vvar]":
		return 0, ""
	case m.File == "" && m.Exec && !m.Write && m.Size() <= maxVDSO:
		return m.Size(), "" // The vDSO, whose symbols debuggers read there.
	case !m.onDisk():
		if m.Resident == 0 {
			return 0, "" // Never touched.
		}
		return m.Size(), ""
	case strings.HasPrefix(m.File, "/dev/"):
		return 0, "memory of a device"
	// What is resident of a file does not count: in the copy of an address
	// space, pages that are as in the file are not there before they are read.
	case full || m.Anonymous > 0:
		return m.Size(), ""
	case m.Offset == 0 && m.Read:
		return min(pageSize, m.Size()), ""
	}
	return 0, ""
}
