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
	bundles map[string]string // by root and arguments
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

// run runs argv in the root to its end, everything fresh, and returns what it
// printed.
func (p *peer) run(ctx context.Context, r *root, argv ...string) ([]byte, error) {
	if !p.oci {
		args := []string{"--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", r.dir, "/",
			"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv"}
		for _, e := range environment {
			name, value, _ := strings.Cut(e, "=")
			args = append(args, "--setenv", name, value)
		}
		return output(ctx, exec.CommandContext(ctx, p.path, append(append(args, "--"), argv...)...))
	}
	bundle, err := p.bundle(r, argv)
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("bench-%d-%d", os.Getpid(), p.serial.Add(1))
	args := append(append([]string{}, p.before...), "run", "--bundle", bundle, id)
	out, err := output(ctx, exec.CommandContext(ctx, p.path, args...))
	if err != nil {
		// What failed may still stand; this removes it.
		exec.Command(p.path, append(append([]string{}, p.before...), "delete", "--force", id)...).Run()
	}
	return out, err
}

// environment is what programs find in every contender.
var environment = []string{"PATH=/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"}

type object = map[string]any

// bundle writes an OCI bundle once per root and program, and returns its
// directory.
func (p *peer) bundle(r *root, argv []string) (string, error) {
	key := r.dir + " " + strings.Join(argv, " ")
	if dir, ok := p.bundles[key]; ok {
		return dir, nil
	}
	dir, err := os.MkdirTemp(p.h.dir, p.name+"-bundle-")
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(p.spec(r, argv))
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
func (p *peer) spec(r *root, argv []string) object {
	mount := func(target, kind string, options ...string) object {
		return object{"destination": target, "type": kind, "source": kind, "options": options}
	}
	var namespaces []object
	for _, kind := range []string{"pid", "mount", "uts", "ipc", "network"} {
		namespaces = append(namespaces, object{"type": kind})
	}
	linux := object{"namespaces": namespaces}
	if p.cgroup != "" {
		linux["cgroupsPath"] = p.cgroup + "/" + p.name
	}
	return object{
		"ociVersion": "1.0.2",
		"process":    object{"args": argv, "env": environment, "cwd": "/", "user": object{"uid": 0, "gid": 0}, "noNewPrivileges": true},
		"root":       object{"path": r.dir, "readonly": true},
		"hostname":   "bench",
		"mounts": []object{
			mount("/proc", "proc"),
			mount("/dev", "tmpfs", "nosuid", "mode=755"),
			mount("/tmp", "tmpfs", "nosuid", "mode=1777"),
		},
		"linux": linux,
	}
}

// clean removes the mount and the cgroups that the peer left behind.
func (p *peer) clean() {
	if !p.oci {
		return
	}
	if p.name == runsc {
		// It keeps an empty network namespace for the next time; there may
		// be none.
		syscall.Unmount(filepath.Join(p.h.dir, runsc+"-state", "null-netns"), syscall.MNT_DETACH)
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
