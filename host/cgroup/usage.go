package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/errdefs"
)

// OpenUsage opens what tells how much CPU time the group has used, for a process in
// it to read that sees no files of the host. On v2, which has no renaming, it tells
// nothing any more once the group is renamed.
func (g *Group) OpenUsage() (*os.File, error) {
	f, err := os.Open(g.backend.usage())
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostFeature, "read cgroup", errdefs.Resource("%s", g))
	}
	return f, nil
}

// ReadUsage reads what OpenUsage opened. It takes one system call.
func ReadUsage(f *os.File) (time.Duration, error) {
	var buf [512]byte // The line that counts is the first.
	n, err := f.ReadAt(buf[:], 0)
	if n == 0 {
		return 0, errdefs.Wrap(err, errdefs.HostIO, "read cgroup", errdefs.Resource("%s", f.Name()))
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	unit := time.Nanosecond
	if usec, ok := strings.CutPrefix(line, "usage_usec "); ok {
		line, unit = usec, time.Microsecond
	}
	used, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		return 0, errdefs.Wrap(err, errdefs.HostFeature, "read cgroup", errdefs.Resource("%s", f.Name()))
	}
	return time.Duration(used) * unit, nil
}

func (b *v1) usage() string {
	if !slices.Contains(b.info.Controllers, CPUAcct) {
		return ""
	}
	return filepath.Join(b.dir(CPUAcct), "cpuacct.usage")
}

// usage is there with any controller, since Linux 4.15.
func (b *v2) usage() string { return filepath.Join(b.dir(), "cpu.stat") }
