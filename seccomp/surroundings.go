package seccomp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Surroundings are what rules of Docker's dialect depend on.
type Surroundings struct {
	// Capabilities are those that the agent's root has, as "CAP_CHOWN".
	Capabilities []string
	// Kernel is the version of Linux that the agent is told.
	Kernel [2]int
}

// arch is the architecture of agents, in the ways it is written.
var archNames = []string{"amd64", "x86_64"}

// when is the condition of a rule in Docker's dialect.
type when struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// check refuses what cannot be understood.
func (w when) check(where string) error {
	for i, c := range w.Caps {
		if !strings.HasPrefix(c, "CAP_") {
			return refuse(fmt.Sprintf("%s.caps[%d]", where, i), "it is no capability", "write it as CAP_SYS_ADMIN")
		}
	}
	if w.MinKernel != "" {
		if _, ok := version(w.MinKernel); !ok {
			return refuse(where+".minKernel", strconv.Quote(w.MinKernel)+" is no version", "write it as 4.8")
		}
	}
	return nil
}

// included reports whether everything that a rule includes is there.
func (s Surroundings) included(w when) bool {
	if len(w.Arches) > 0 && !slices.ContainsFunc(w.Arches, isArch) {
		return false
	}
	for _, c := range w.Caps {
		if !slices.Contains(s.Capabilities, c) {
			return false
		}
	}
	return w.MinKernel == "" || s.reaches(w.MinKernel)
}

// excluded reports whether anything that a rule excludes is there.
func (s Surroundings) excluded(w when) bool {
	if slices.ContainsFunc(w.Arches, isArch) {
		return true
	}
	for _, c := range w.Caps {
		if slices.Contains(s.Capabilities, c) {
			return true
		}
	}
	return w.MinKernel != "" && s.reaches(w.MinKernel)
}

func isArch(name string) bool { return slices.Contains(archNames, name) }

func (s Surroundings) reaches(v string) bool {
	want, ok := version(v)
	return ok && slices.Compare(s.Kernel[:], want[:]) >= 0
}

// version reads "4.8".
func version(text string) (v [2]int, ok bool) {
	major, minor, ok := strings.Cut(text, ".")
	if !ok {
		return v, false
	}
	for i, part := range []string{major, minor} {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return v, false
		}
		v[i] = int(n)
	}
	return v, true
}
