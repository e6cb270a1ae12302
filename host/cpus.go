package host

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aios.dev/aios/sentry/smp"
)

// CPUs returns the CPUs of this host, and which of them the host lets this process
// and those that it starts use.
func CPUs() (*smp.Topology, smp.Set, error) {
	allowed, err := smp.Allowed()
	if err != nil {
		return nil, allowed, err
	}
	return smp.Read(os.DirFS("/sys"), allowed), allowed, nil
}

func (e *examiner) cpus() []Finding {
	allowed, err := smp.Allowed()
	if err != nil {
		return one(unknown("CPUs", err.Error()))
	}
	return one(describeCPUs(smp.Read(e.sys(), allowed), allowed))
}

func (e *examiner) sys() fs.FS { return os.DirFS(filepath.Join(e.root, "sys")) }

func describeCPUs(t *smp.Topology, allowed smp.Set) Finding {
	online := t.Online()
	parts := []string{fmt.Sprintf("%s: %s", count(online.Len(), "CPU"), count(len(t.Cores()), "core")),
		count(len(t.Packages()), "package"), count(len(t.Nodes()), "NUMA node")}
	llcs := t.LLCs()
	if last, known := t.LastLevel(llcs[0].ID); known {
		parts = append(parts, fmt.Sprintf("%d x L%d of %s", len(llcs), last.Level, size(int64(last.Bytes))))
	}
	fastest, slowest := 0, smp.FullCapacity
	for i, c := range t.CPUs {
		if online.Has(i) {
			fastest, slowest = max(fastest, c.Capacity), min(slowest, c.Capacity)
		}
	}
	if slowest < fastest {
		parts = append(parts, "some faster than others")
	}
	what := strings.Join(parts, ", ")
	if usable := t.FromHost(allowed); usable != online {
		what += "; domains may use " + allowed.String()
	}
	if len(t.Assumed) > 0 {
		what += "; what is not told is assumed, see `aiosctl cpus`"
	}
	return Finding{Name: "CPUs", Status: OK, What: what}
}

// count writes a number of things.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
