package cgroup

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// Version is a cgroup interface of the kernel.
type Version uint8

// The versions.
const (
	None Version = iota
	V1
	V2
)

// String returns "none", "v1" or "v2".
func (v Version) String() string { return [...]string{"none", "v1", "v2"}[v] }

// The controllers that AIOS uses. CPUAcct and Freezer exist on v1 only, where
// v2 has their work in its core.
const (
	Memory  = "memory"
	Pids    = "pids"
	CPU     = "cpu"
	CPUAcct = "cpuacct"
	Freezer = "freezer"
)

// Info is what the host offers.
type Info struct {
	// Version is the interface in use; None when no hierarchy has any of the
	// memory, pids and cpu controllers.
	Version Version
	// Hybrid is true where v1 and v2 are both mounted.
	Hybrid bool
	// Controllers are the ones that can be used, of those AIOS knows.
	Controllers []string
	// Missing are those of memory, pids and cpu that cannot.
	Missing []string
	// Mount is the mount point of v2, or the directory that holds the v1
	// mounts.
	Mount string
	// Base is the group below which groups are made, relative to Mount.
	Base string
	// Writable says that groups can be made below Base.
	Writable bool
	// Delegated says that Base is not the root but was handed to this user.
	Delegated bool
	// Reason says in words why Writable is false or what is Missing.
	Reason string
}

// Require returns nil when groups can be made, else a HOST_FEATURE_MISSING
// error that names what is missing.
func (i Info) Require() error {
	if i.Version != None && i.Writable {
		return nil
	}
	return errdefs.New(errdefs.HostFeature, i.Reason, errdefs.Op("use host cgroups"),
		errdefs.Fix("run the daemon as root, or delegate a cgroup v2 group to its user (systemd: Delegate=yes)"))
}

// RequireControllers returns nil when each controller is there to use.
func (i Info) RequireControllers(names ...string) error {
	for _, n := range names {
		if !slices.Contains(i.Controllers, n) {
			return errdefs.New(errdefs.HostFeature, "the host offers no "+n+" controller on cgroup "+i.Version.String(),
				errdefs.Op("use host cgroups"), errdefs.Fix("leave that limit at 0, or enable the controller (kernel parameter cgroup_enable=%s)", n))
		}
	}
	return nil
}

// Detect looks at the mounts of this process; it changes nothing.
func Detect() Info {
	mounts, err := cgroupMounts("/proc/self/mountinfo")
	if err != nil {
		return Info{Reason: "the mounts cannot be read: " + err.Error()}
	}
	return detect(mounts, os.Geteuid() == 0)
}

// mounts is where each hierarchy is mounted.
type mounts struct {
	v1 map[string]string // controller → mount point
	v2 string
}

// cgroupMounts reads the cgroup mounts of a mountinfo file.
func cgroupMounts(path string) (mounts, error) {
	m := mounts{v1: map[string]string{}}
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		head, tail, ok := strings.Cut(sc.Text(), " - ")
		hf, tf := strings.Fields(head), strings.Fields(tail)
		if !ok || len(hf) < 5 || len(tf) < 3 {
			continue
		}
		switch tf[0] {
		case "cgroup2":
			if m.v2 == "" {
				m.v2 = hf[4]
			}
		case "cgroup":
			for _, c := range strings.Split(tf[2], ",") {
				if m.v1[c] == "" {
					m.v1[c] = hf[4]
				}
			}
		}
	}
	return m, sc.Err()
}

func detect(m mounts, root bool) Info {
	i := Info{Hybrid: m.v2 != "" && len(m.v1) > 0}
	wanted := []string{Memory, Pids, CPU}
	switch {
	case m.v2 != "" && hasAny(readFields(filepath.Join(m.v2, "cgroup.controllers")), wanted):
		i.Version, i.Mount = V2, m.v2
		i.findBase(root)
	case m.v1[Memory] != "" || m.v1[Pids] != "" || m.v1[CPU] != "":
		i.Version = V1
		i.findV1(m)
	default:
		i.Missing = wanted
		i.Reason = "no cgroup hierarchy with the memory, pids or cpu controller is mounted"
		return i
	}
	for _, c := range wanted {
		if !slices.Contains(i.Controllers, c) {
			i.Missing = append(i.Missing, c)
		}
	}
	if i.Reason == "" && len(i.Missing) > 0 {
		i.Reason = "cgroup " + i.Version.String() + " offers no " + strings.Join(i.Missing, ", ") + " controller"
	}
	return i
}

func (i *Info) findV1(m mounts) {
	i.Base = "/"
	for _, c := range []string{Memory, Pids, CPU, CPUAcct, Freezer} {
		mp := m.v1[c]
		if mp == "" {
			continue
		}
		// Controllers mounted together ("cpu,cpuacct") are reached through
		// the links that every distribution makes beside the mount.
		dir := filepath.Dir(mp)
		if i.Mount == "" {
			i.Mount = dir
		}
		path := filepath.Join(i.Mount, c)
		if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
			if i.Reason == "" {
				i.Reason = path + " is not writable: " + err.Error()
			}
			continue
		}
		i.Controllers = append(i.Controllers, c)
	}
	i.Writable = len(i.Controllers) > 0
}

// findBase looks for the group of v2 below which groups may be made.
func (i *Info) findBase(root bool) {
	i.Base = "/"
	if root {
		if err := unix.Access(i.Mount, unix.W_OK|unix.X_OK); err != nil {
			i.Reason = i.Mount + " is not writable: " + err.Error()
		} else {
			i.Writable = true
		}
	} else {
		// The highest ancestor that this user owns holds no process itself
		// when it was delegated properly, so it can hand out controllers.
		own := ownV2Group("/proc/self/cgroup")
		for dir := own; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			if i.ownsGroup(dir) {
				i.Base, i.Writable, i.Delegated = dir, true, true
			}
		}
		if !i.Writable {
			i.Reason = "no cgroup is delegated to this user (its own is " + own + ")"
		}
	}
	for _, c := range readFields(filepath.Join(i.Mount, i.Base, "cgroup.controllers")) {
		if c == Memory || c == Pids || c == CPU {
			i.Controllers = append(i.Controllers, c)
		}
	}
}

func (i *Info) ownsGroup(group string) bool {
	dir := filepath.Join(i.Mount, group)
	for _, f := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if unix.Access(filepath.Join(dir, f), unix.W_OK) != nil {
			return false
		}
	}
	return true
}

// ownV2Group returns the v2 group of a /proc/PID/cgroup file.
func ownV2Group(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "/"
	}
	for _, line := range strings.Split(string(b), "\n") {
		if g, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Clean("/" + g)
		}
	}
	return "/"
}

func readFields(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

func hasAny(have, want []string) bool {
	return slices.ContainsFunc(want, func(w string) bool { return slices.Contains(have, w) })
}
