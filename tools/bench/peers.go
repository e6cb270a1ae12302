package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
)

// peer is another way to run a program in a box.
type peer struct {
	name string
	path string
	// before are the arguments that precede the verb.
	before []string
	// oci is set for runtimes that take a bundle.
	oci bool

	h       *harness
	cgroup  string // path below every controller, "" for none
	serial  atomic.Int64
	bundles map[string]string // by box
}

func (h *harness) knownPeers() []*peer {
	state := func(name string) string { return filepath.Join(h.dir, name+"-state") }
	base := "/" + filepath.Base(h.dir)
	return []*peer{
		{name: runsc, h: h, oci: true, path: filepath.Join(h.bin, "runsc"), cgroup: base,
			before: []string{"--root=" + state(runsc), "--platform=" + h.platform, "--network=none"}},
		{name: runc, h: h, oci: true, path: find("runc"), cgroup: base, before: []string{"--root=" + state(runc)}},
		{name: crun, h: h, oci: true, path: find("crun"), cgroup: base, before: []string{"--root=" + state(crun)}},
		{name: bwrap, h: h, path: find("bwrap")},
	}
}

// find returns where a program is, or "".
func find(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// unusable says why the peer cannot take part, or "".
func (p *peer) unusable() string {
	if _, err := os.Stat(p.path); p.path == "" || err != nil {
		if p.name == runsc {
			return "not built; `make bench` builds it"
		}
		return "not installed"
	}
	if p.oci && os.Geteuid() != 0 {
		return "needs root"
	}
	return ""
}

// box is a program in a root, and what it has beyond that.
type box struct {
	root *root
	argv []string
	// dir is a directory of the host that it may change, at dataDir; "" for
	// none.
	dir string
	// memory is its limit in bytes, 0 for none.
	memory int64
	// cpu is its quota in CPUs, 0 for none.
	cpu float64
	// weight is what it gets of contended CPUs, as agents have it; 0 for the default.
	weight int
	// group tells its cgroup from those of others that run at the same time.
	group string
}

// dataDir is where a box has its directory of the host.
const dataDir = "/data"

// run runs argv in the root to its end, everything fresh, and returns what it
// printed.
func (p *peer) run(ctx context.Context, r *root, argv ...string) ([]byte, error) {
	return p.runBox(ctx, box{root: r, argv: argv})
}

// runBox runs a box to its end and returns what it printed.
func (p *peer) runBox(ctx context.Context, b box) ([]byte, error) {
	cmd, discard, err := p.command(ctx, b)
	if err != nil {
		return nil, err
	}
	out, err := output(ctx, cmd)
	if err != nil {
		discard()
	}
	return out, err
}

// command returns what runs a box, and what removes it in case that fails.
func (p *peer) command(ctx context.Context, b box) (cmd *exec.Cmd, discard func(), err error) {
	if !p.oci {
		args := []string{"--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", b.root.dir, "/",
			"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv"}
		if b.dir != "" {
			args = append(args, "--bind", b.dir, dataDir)
		}
		for _, e := range environment {
			name, value, _ := strings.Cut(e, "=")
			args = append(args, "--setenv", name, value)
		}
		return exec.CommandContext(ctx, p.path, append(append(args, "--"), b.argv...)...), func() {}, nil
	}
	bundle, err := p.bundle(b)
	if err != nil {
		return nil, nil, err
	}
	id := fmt.Sprintf("bench-%d-%d", os.Getpid(), p.serial.Add(1))
	discard = func() {
		// What failed may still stand.
		exec.Command(p.path, append(append([]string{}, p.before...), "delete", "--force", id)...).Run()
	}
	return exec.CommandContext(ctx, p.path, append(append([]string{}, p.before...), "run", "--bundle", bundle, id)...), discard, nil
}

// environment is what programs find in every contender.
var environment = []string{"PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"}

type object = map[string]any

// What an agent and a cgroup of the host have if nothing else is said.
const (
	defaultWeight = 100
	defaultShares = 1024
)

// bundle writes an OCI bundle once for each kind of box, and returns its
// directory.
func (p *peer) bundle(b box) (string, error) {
	key := fmt.Sprint(b.root.dir, b.argv, b.dir, b.memory, b.cpu, b.weight, b.group)
	if dir, ok := p.bundles[key]; ok {
		return dir, nil
	}
	dir, err := os.MkdirTemp(p.h.dir, p.name+"-bundle-")
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(p.spec(b))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644); err != nil {
		return "", err
	}
	if p.bundles == nil {
		p.bundles = map[string]string{}
	}
	p.bundles[key] = dir
	return dir, nil
}

// spec is a container as a container engine would ask for it: private
// namespaces, read-only root, the usual mounts, no capabilities.
func (p *peer) spec(b box) object {
	mount := func(target, kind string, options ...string) object {
		return object{"destination": target, "type": kind, "source": kind, "options": options}
	}
	var namespaces []object
	for _, kind := range []string{"pid", "mount", "uts", "ipc", "network"} {
		namespaces = append(namespaces, object{"type": kind})
	}
	linux := object{"namespaces": namespaces}
	if p.cgroup != "" {
		linux["cgroupsPath"] = p.cgroup + "/" + p.name + b.group
	}
	if b.memory > 0 {
		linux["resources"] = object{"memory": object{"limit": b.memory}}
	}
	if b.cpu > 0 {
		linux["resources"] = object{"cpu": object{"quota": int64(b.cpu * 1e5), "period": 100000}}
	}
	if b.weight > 0 {
		linux["resources"] = object{"cpu": object{"shares": b.weight * defaultShares / defaultWeight}}
	}
	mounts := []object{
		mount("/proc", "proc"),
		mount("/dev", "tmpfs", "nosuid", "mode=755"),
		mount("/tmp", "tmpfs", "nosuid", "mode=1777"),
	}
	if b.dir != "" {
		mounts = append(mounts, object{"destination": dataDir, "type": "bind", "source": b.dir, "options": []string{"rbind", "rw"}})
	}
	return object{
		"ociVersion": "1.0.2",
		"process":    object{"args": b.argv, "env": environment, "cwd": "/", "user": object{"uid": 0, "gid": 0}, "noNewPrivileges": true},
		"root":       object{"path": b.root.dir, "readonly": true},
		"hostname":   "bench",
		"mounts":     mounts,
		"linux":      linux,
	}
}

// clean removes the mount and the cgroups that the peer left behind.
func (p *peer) clean() {
	if !p.oci {
		return
	}
	if p.name == runsc {
		// It keeps an empty network namespace for the next time; there may
		// be none, or several, of containers that began at once.
		for syscall.Unmount(filepath.Join(p.h.dir, runsc+"-state", "null-netns"), syscall.MNT_DETACH) == nil {
		}
	}
	roots, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return
	}
	for _, controller := range append(roots, "/sys/fs/cgroup") {
		base := filepath.Join(controller, p.cgroup)
		// Children first; rmdir refuses a cgroup that is still in use.
		children, err := filepath.Glob(base + "/*/")
		if err != nil {
			continue
		}
		for _, dir := range append(children, base) {
			os.Remove(dir)
		}
	}
}
