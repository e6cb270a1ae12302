package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// v1 is the group at one path in every v1 hierarchy that AIOS uses.
type v1 struct {
	info  Info
	group string // the same below each hierarchy
}

func newV1(info Info, group string) *v1 { return &v1{info: info, group: group} }

func (b *v1) dir(controller string) string {
	return filepath.Join(b.info.Mount, controller, b.group)
}

func (b *v1) dirs() []string {
	out := make([]string, 0, len(b.info.Controllers))
	for _, c := range b.info.Controllers {
		out = append(out, b.dir(c))
	}
	return out
}

// hierarchy names the subsystems for the library; without it, a group would
// be made in every hierarchy of the host.
func (b *v1) hierarchy() ([]cgroup1.Subsystem, error) {
	var out []cgroup1.Subsystem
	for _, c := range b.info.Controllers {
		switch c {
		case Memory:
			out = append(out, cgroup1.NewMemory(b.info.Mount, cgroup1.OptionalSwap()))
		case Pids:
			out = append(out, cgroup1.NewPids(b.info.Mount))
		case CPU:
			out = append(out, cgroup1.NewCpu(b.info.Mount))
		case CPUAcct:
			out = append(out, cgroup1.NewCpuacct(b.info.Mount))
		case Freezer:
			out = append(out, cgroup1.NewFreezer(b.info.Mount))
		}
	}
	return out, nil
}

func (b *v1) resources(l Limits) *specs.LinuxResources {
	r := &specs.LinuxResources{}
	if l.MemoryBytes > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &l.MemoryBytes}
		// The v1 "swap" limit counts memory and swap together.
		if _, err := os.Stat(filepath.Join(b.info.Mount, Memory, "memory.memsw.limit_in_bytes")); err == nil {
			r.Memory.Swap = &l.MemoryBytes
		}
	}
	if l.PidsMax > 0 {
		r.Pids = &specs.LinuxPids{Limit: &l.PidsMax}
	}
	if l.CPUMilli > 0 || l.CPUWeight > 0 {
		r.CPU = &specs.LinuxCPU{}
		if l.CPUMilli > 0 {
			period, quota := uint64(quotaPeriodMicros), l.CPUMilli*quotaPeriodMicros/1000
			r.CPU.Period, r.CPU.Quota = &period, &quota
		}
		if l.CPUWeight > 0 {
			shares := max(2, l.CPUWeight*1024/100)
			r.CPU.Shares = &shares
		}
	}
	return r
}

func (b *v1) create(l Limits) error {
	_, err := cgroup1.New(cgroup1.StaticPath(b.group), b.resources(l), cgroup1.WithHierarchy(b.hierarchy))
	return err
}

func (b *v1) update(l Limits) error {
	cg, err := cgroup1.Load(cgroup1.StaticPath(b.group), cgroup1.WithHierarchy(b.hierarchy))
	if err != nil {
		return err
	}
	r := b.resources(l)
	r.Memory = nil
	if err := cg.Update(r); err != nil || l.MemoryBytes == 0 {
		return err
	}
	return b.setMemory(l.MemoryBytes)
}

// setMemory changes the limit of a live group. Memory and swap together may
// never be less than memory alone, so the order depends on the direction; the
// library gets it wrong for a raise.
func (b *v1) setMemory(bytes int64) error {
	d, value := b.dir(Memory), strconv.FormatInt(bytes, 10)
	files := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
	r := reader{}
	if bytes > r.number(d, files[0]) {
		slices.Reverse(files)
	}
	for _, f := range files {
		err := writeFile(filepath.Join(d, f), value)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return r.err
}

// start lends the group one thread of this process: cgroup v1 places threads
// one by one, and a child is born into the groups of the thread that forks
// it. The thread is locked to its goroutine and never unlocked, so it ends
// with the goroutine and nothing has to be moved back. start returns when the
// thread is gone: until then this process counts as a member of the group,
// and whoever froze or killed the group would freeze or kill it.
func (b *v1) start(cmd *exec.Cmd) error {
	type result struct {
		tid int
		err error
	}
	done := make(chan result)
	go onSpareThread(func() {
		tid := unix.Gettid()
		done <- result{tid, b.startHere(cmd, tid)}
	})
	r := <-done
	task := fmt.Sprintf("/proc/self/task/%d", r.tid)
	for delay := 20 * time.Microsecond; ; delay = min(2*delay, 5*time.Millisecond) {
		if _, err := os.Stat(task); err != nil {
			return r.err
		}
		pause(delay)
	}
}

// onSpareThread runs f on a thread that ends when f returns. The main thread
// of a Go program never ends, so a goroutine that finds itself there holds it
// while another goroutine, necessarily elsewhere, does the work.
func onSpareThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		runtime.LockOSThread()
		f()
	}()
	<-finished
}

// startHere enters the group with the calling thread and forks.
func (b *v1) startHere(cmd *exec.Cmd, tid int) error {
	for _, d := range b.dirs() {
		if err := writeFile(filepath.Join(d, "tasks"), strconv.Itoa(tid)); err != nil {
			return hostError(err, "enter cgroup", d)
		}
	}
	return cmd.Start()
}

func (b *v1) rename(to *Group, _ Limits) error {
	from, dirs := b.dirs(), to.backend.dirs()
	for i := range from {
		if err := os.Rename(from[i], dirs[i]); err != nil {
			for j := range i {
				os.Rename(dirs[j], from[j])
			}
			return err
		}
	}
	return nil
}

func (b *v1) freeze(on bool) {
	state := "THAWED"
	if on {
		state = "FROZEN"
	}
	// Without a freezer the kill loop has to outrun the group's forks, which
	// the pids limit bounds.
	_ = writeFile(filepath.Join(b.dir(Freezer), "freezer.state"), state)
}

func (b *v1) killAll() bool { return false }

func (b *v1) stats() (Stats, error) {
	var s Stats
	r := reader{}
	for _, c := range b.info.Controllers {
		d := b.dir(c)
		switch c {
		case Memory:
			s.MemoryBytes = r.number(d, "memory.usage_in_bytes")
			s.MemoryPeakBytes = r.number(d, "memory.max_usage_in_bytes")
			if n := r.number(d, "memory.limit_in_bytes"); n < math.MaxInt64&^0xffff {
				s.MemoryLimitBytes = n
			}
			s.OOMKills = r.key(d, "memory.oom_control", "oom_kill")
		case Pids:
			s.Pids = r.number(d, "pids.current")
			s.PidsLimit = r.number(d, "pids.max")
			s.PidsRefused = r.key(d, "pids.events", "max")
		case CPU:
			s.ThrottledPeriods = r.key(d, "cpu.stat", "nr_throttled")
		case CPUAcct:
			s.CPU = time.Duration(r.number(d, "cpuacct.usage"))
		}
	}
	return s, r.err
}

// reader reads small kernel files and keeps the first error. A file or key
// that this kernel does not have counts as zero, a group that is gone does
// not.
type reader struct{ err error }

func (r *reader) read(dir, file string) string {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err == nil {
		return strings.TrimSpace(string(b))
	}
	if _, derr := os.Stat(dir); derr != nil {
		err = derr
	} else if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if r.err == nil {
		r.err = err
	}
	return ""
}

// number reads a file that holds one number; "max" is zero.
func (r *reader) number(dir, file string) int64 {
	return r.parse(r.read(dir, file))
}

// key reads the value of a key in a file of "key value" lines.
func (r *reader) key(dir, file, key string) int64 {
	for _, line := range strings.Split(r.read(dir, file), "\n") {
		if v, ok := strings.CutPrefix(line, key+" "); ok {
			return r.parse(v)
		}
	}
	return 0
}

func (r *reader) parse(s string) int64 {
	if s == "" || s == "max" {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil && r.err == nil {
		r.err = err
	}
	return n
}

// writeFile writes to an existing kernel file; unlike os.WriteFile it never
// tries to make one.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
