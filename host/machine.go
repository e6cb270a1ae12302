package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What AIOS counts on for a thousand agents: each has files open in the
// kernel process and two host processes or threads.
const (
	wantOpenFiles = 16384
	wantProcesses = 4096
	wantMemory    = 1 << 30
	wantDisk      = 1 << 30
	leastDisk     = 64 << 20
)

func (e *examiner) kernel() []Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return one(unknown("kernel", err.Error()))
	}
	text := func(b []byte) string { b, _, _ = bytes.Cut(b, []byte{0}); return string(b) }
	return one(describeKernel(text(u.Sysname[:]), text(u.Release[:]), text(u.Machine[:])))
}

func describeKernel(system, release, machine string) Finding {
	f := Finding{Name: "kernel", Status: OK, What: system + " " + release + " " + machine}
	switch v := kernelVersion(release); {
	case v < 4_014:
		f.Status, f.Effect, f.Fix = Missing, "no platform runs", "use Linux 4.14 or later, best 5.12 or later"
	case v < 5_012:
		f.Status = Degraded
		f.Effect = "domains are not born inside cgroup v2 groups (before 5.7), host directories get no mounts of their own (before 5.12)"
		f.Fix = "use Linux 5.12 or later"
	}
	return f
}

// kernelVersion turns "5.15.0-1-amd64" into 5015; what it cannot read counts
// as new.
func kernelVersion(release string) int {
	major, rest, ok := strings.Cut(release, ".")
	minor := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if minor < 0 {
		minor = len(rest)
	}
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(rest[:minor])
	if !ok || err1 != nil || err2 != nil {
		return math.MaxInt
	}
	return a*1000 + b
}

func (e *examiner) kvm() []Finding {
	f := Finding{Name: "/dev/kvm", Status: OK, What: "there"}
	switch err := unix.Access(filepath.Join(e.root, "dev/kvm"), unix.R_OK|unix.W_OK); {
	case errors.Is(err, fs.ErrNotExist):
		f.What = "not there"
		f.Effect = "the kvm platform does not run; systrap does"
		f.Fix = "where the machine has virtualisation, load kvm_intel or kvm_amd, or pass the device to the container"
	case err != nil:
		f.What = "there, but not accessible: " + err.Error()
		f.Effect = "the kvm platform does not run; systrap does"
		f.Fix = "put the daemon's user into the group of /dev/kvm"
	}
	return one(f)
}

func (e *examiner) openFiles() []Finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return one(unknown("open files", err.Error()))
	}
	return one(e.describeOpenFiles(l.Cur, l.Max))
}

func (e *examiner) describeOpenFiles(soft, hard uint64) Finding {
	f := Finding{Name: "open files", Status: OK, What: fmt.Sprintf("limit %s, raisable to %s", limit(soft), limit(hard))}
	if e.has(unix.CAP_SYS_RESOURCE) {
		f.What = fmt.Sprintf("limit %s, raisable to %d", limit(soft), e.number("/proc/sys/fs/nr_open", 1<<20))
		return f
	}
	if hard < wantOpenFiles {
		f.Status = Degraded
		f.Effect = "a domain holds fewer agents: each needs open files in the kernel process"
		f.Fix = fmt.Sprintf("raise the hard limit of open files to %d (ulimit -Hn, LimitNOFILE=)", wantOpenFiles)
	}
	return f
}

func (e *examiner) processes() []Finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &l); err != nil {
		return one(unknown("processes", err.Error()))
	}
	return one(e.describeProcesses(l.Max))
}

func (e *examiner) describeProcesses(hard uint64) Finding {
	pidMax := e.number("/proc/sys/kernel/pid_max", 32768)
	threads := e.number("/proc/sys/kernel/threads-max", math.MaxInt64)
	f := Finding{Name: "processes", Status: OK,
		What: fmt.Sprintf("limit %s for this user, pid_max %d", limit(hard), pidMax)}
	most := uint64(min(pidMax, threads))
	if e.uid != 0 {
		most = min(most, hard)
	}
	if most < wantProcesses {
		f.Status = Degraded
		f.Effect = fmt.Sprintf("about %d agents fit on this host: each takes two processes", most/2)
		f.Fix = "raise the limit of processes (ulimit -Hu, TasksMax=) or sysctl kernel.pid_max"
	}
	return f
}

func (e *examiner) memory() []Finding {
	total, available := int64(-1), int64(-1)
	for _, line := range strings.Split(e.read("/proc/meminfo"), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			available = n << 10
		}
	}
	if total < 0 || available < 0 {
		return one(unknown("memory", "/proc/meminfo tells nothing"))
	}
	f := Finding{Name: "memory", Status: OK, What: fmt.Sprintf("%s, %s available", size(total), size(available))}
	switch {
	case available < wantMemory:
		f.Status, f.Effect, f.Fix = Degraded, "few agents fit: a domain takes about 25 MiB, an agent half a MiB besides its own memory", "free memory or add some"
	case e.number("/proc/sys/vm/overcommit_memory", 0) == 2:
		f.Status, f.What = Degraded, f.What+", no overcommit"
		f.Effect = "large address spaces of agents may be refused although memory is free"
		f.Fix = "sysctl vm.overcommit_memory=0"
	}
	return one(f)
}

func (e *examiner) memfd() []Finding {
	f := Finding{Name: "memfd", Status: OK, What: "there"}
	fd, err := unix.MemfdCreate("aios-doctor", unix.MFD_CLOEXEC)
	if err == nil {
		_ = unix.Close(fd)
	}
	noexec := e.number("/proc/sys/vm/memfd_noexec", 0)
	switch {
	case noexec >= 2:
		f.Status, f.What = Missing, "executable memory files are refused (vm.memfd_noexec=2)"
	case err != nil:
		f.Status, f.What = Missing, "memfd_create: "+err.Error()
	default:
		return one(f)
	}
	f.Effect = "no domain starts: the memory of agents is such a file"
	f.Fix = "sysctl vm.memfd_noexec=0, or in a container a seccomp profile that allows memfd_create"
	return one(f)
}

func (e *examiner) hugePages() []Finding {
	const dir = "/sys/kernel/mm/transparent_hugepage/"
	f := Finding{Name: "huge pages", Status: OK, What: "none"}
	if enabled := chosen(e.read(dir + "enabled")); enabled != "" {
		f.What = "anonymous memory: " + enabled + ", shared memory: " + chosen(e.read(dir+"shmem_enabled"))
	}
	return one(f)
}

// chosen returns the word in brackets of "always [madvise] never".
func chosen(s string) string {
	_, s, _ = strings.Cut(s, "[")
	s, _, _ = strings.Cut(s, "]")
	return s
}

func (e *examiner) disk() []Finding {
	f := Finding{Name: "state directory", Status: OK}
	var st unix.Statfs_t
	dir := filepath.Clean(e.stateDir)
	err := unix.Statfs(dir, &st)
	for errors.Is(err, fs.ErrNotExist) && dir != "/" && dir != "." {
		dir = filepath.Dir(dir)
		err = unix.Statfs(dir, &st)
	}
	if err != nil {
		f.Status, f.What = Missing, e.stateDir+": "+err.Error()
		f.Effect, f.Fix = "the daemon does not start", "choose another state directory"
		return one(f)
	}
	free := int64(min(st.Bavail, math.MaxInt64/uint64(st.Bsize))) * st.Bsize
	return one(describeDisk(e.stateDir, free, st.Flags&unix.ST_RDONLY != 0))
}

func describeDisk(dir string, free int64, readOnly bool) Finding {
	f := Finding{Name: "state directory", Status: OK, What: fmt.Sprintf("%s, %s free", dir, size(free))}
	switch {
	case readOnly:
		f.Status, f.What = Missing, dir+" is on a read-only file system"
		f.Effect, f.Fix = "the daemon does not start", "choose another state directory"
	case free < leastDisk:
		f.Status, f.Effect, f.Fix = Missing, "images, logs and the registry cannot be written", "free space, or choose another state directory"
	case free < wantDisk:
		f.Status, f.Effect, f.Fix = Degraded, "few images fit", "free space, or choose another state directory"
	}
	return f
}

// unknown is a finding about what could not be found out.
func unknown(name, why string) Finding {
	return Finding{Name: name, Status: Degraded, What: "unknown: " + why,
		Effect: "AIOS goes on as if it were enough", Fix: "mount /proc and let the daemon read it"}
}

// limit writes a resource limit.
func limit(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// size writes a number of bytes for people.
func size(n int64) string {
	v, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for i, u := range units {
		if v < 1024 || i == len(units)-1 {
			return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + " " + u
		}
		v /= 1024
	}
	return ""
}
