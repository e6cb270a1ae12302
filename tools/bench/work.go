package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed work
var workFiles embed.FS

// workload is a kind of work inside a box, and what it needs of the host.
type workload struct {
	name    string // as work.py knows it
	figures []figure
	install func(h *harness, r *root) error
}

type figure struct {
	key, label, unit string
	more             bool
}

var workloads = []workload{
	{"calls", []figure{
		{"getpid", "in an agent: getpid", "ns", false},
		{"kill", "in an agent: kill, which the gate checks", "ns", false},
		{"mmap", "in an agent: mmap, which the gate checks, and munmap", "ns", false},
	}, func(h *harness, r *root) error { return compiled(h, r, "calls") }},
	{"python", []figure{{"python", "in an agent: python3 -c pass", "ms", false}}, func(*harness, *root) error { return nil }},
	{"compile", []figure{{"compile", "in an agent: compile and link a C file", "ms", false}}, installCompiler},
	{"git", []figure{{"git", "in an agent: git status, 5000 files", "ms", false}}, installGit},
	{"redis", []figure{
		{"redis set", "in an agent: redis-benchmark SET", "1/s", true},
		{"redis get", "in an agent: redis-benchmark GET", "1/s", true},
	}, installRedis},
}

// work measures programs inside a box that stands already: the figures come
// from within.
func (h *harness) work() error {
	r, err := newRoot(filepath.Join(h.dir, "large"))
	if err != nil {
		return err
	}
	if err := installPython(h, r); err != nil {
		return fmt.Errorf("python3 drives the workloads and cannot be installed: %w", err)
	}
	const image = "bench-work"
	var ready []workload
	for _, w := range workloads {
		if err := w.install(h, r); err != nil {
			h.table.note("workload %s left out: %v", w.name, err)
			continue
		}
		ready = append(ready, w)
	}
	if h.aios != nil {
		if err := h.aios.importRoot(h.ctx, image, r); err != nil {
			return err
		}
	}
	for _, w := range ready {
		argv := []string{"/usr/bin/python3", "/work/work.py", w.name}
		got := h.compare(max(3, h.rounds/8), h.workers(r, image, argv))
		for _, f := range w.figures {
			row := medians(f.label, f.unit, got[f.key])
			row.P99 = nil // Too few runs.
			row.More = f.more
			row.Goal = &goal{Than: map[string]float64{runsc: 0.95}}
			h.table.add(row)
		}
	}
	return nil
}

// workers are AIOS, runsc, and bwrap, which stands for the bare host. The
// others would add nothing: what runs in them runs on the host's kernel too.
func (h *harness) workers(r *root, image string, argv []string) []contender {
	var out []contender
	figures := func(text []byte, err error) (map[string]float64, error) {
		if err != nil {
			return nil, err
		}
		var f map[string]float64
		return f, json.Unmarshal(text, &f)
	}
	for _, name := range []string{runsc, bwrap} {
		if p := h.peer(name); p != nil {
			out = append(out, contender{name, func(ctx context.Context) (map[string]float64, error) {
				return figures(p.run(ctx, r, argv...))
			}})
		}
	}
	if h.aios != nil {
		out = append(out, contender{aios, func(ctx context.Context) (map[string]float64, error) {
			spec := h.aios.spec(image, argv...)
			spec.Grants = []string{"net:loopback"} // As the peers have it.
			return figures(attached(ctx, h.aios.Client, spec))
		}})
	}
	return out
}

// own copies an embedded file into the root's /work.
func own(r *root, name string) error {
	text, err := workFiles.ReadFile("work/" + name)
	if err != nil {
		return err
	}
	return r.write("work/"+name, string(text), 0o644)
}

// programs copies programs by name, with their libraries.
func programs(h *harness, r *root, names ...string) error {
	for _, name := range names {
		path := find(name)
		if path == "" {
			return fmt.Errorf("%s is not installed", name)
		}
		if err := r.program(h.ctx, path); err != nil {
			return err
		}
	}
	return nil
}

func installPython(h *harness, r *root) error {
	const python = "/usr/bin/python3"
	if err := r.program(h.ctx, python); err != nil {
		return err
	}
	out, err := output(h.ctx, exec.CommandContext(h.ctx, python, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"))
	if err != nil {
		return err
	}
	lib := strings.TrimSpace(string(out))
	if err := r.tree(lib, "test", "dist-packages"); err != nil {
		return err
	}
	// Extension modules have libraries of their own.
	modules, err := filepath.Glob(filepath.Join(lib, "lib-dynload", "*.so"))
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := r.program(h.ctx, m); err != nil {
			return err
		}
	}
	return own(r, "work.py")
}

// compiled compiles a program of the harness's own to the root's /work.
func compiled(h *harness, r *root, name string) error {
	if err := own(r, name+".c"); err != nil {
		return err
	}
	at := filepath.Join(r.dir, "work", name)
	_, err := output(h.ctx, exec.CommandContext(h.ctx, "gcc", "-O2", "-static", "-pthread", "-o", at, at+".c"))
	return err
}

// installCompiler copies gcc and exactly the headers, objects and libraries
// that compiling the sample takes; the compiler itself names them.
func installCompiler(h *harness, r *root) error {
	if err := own(r, "hello.c"); err != nil {
		return err
	}
	if err := programs(h, r, "gcc", "as", "ld"); err != nil {
		return err
	}
	source := filepath.Join(r.dir, "work/hello.c")
	ask := func(args ...string) (string, error) {
		out, err := output(h.ctx, exec.CommandContext(h.ctx, "gcc", args...))
		return string(out), err
	}
	headers, err := ask("-O1", "-M", source)
	if err != nil {
		return err
	}
	linked, err := ask("-O1", "-o", "/dev/null", "-Wl,--trace", source)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, word := range strings.Fields(headers + " " + linked) {
		word = strings.Trim(word, "()\\")
		if strings.HasPrefix(word, "/usr/") || strings.HasPrefix(word, "/lib") {
			wanted[filepath.Clean(word)] = true
		}
	}
	for _, flag := range []string{"-print-prog-name=cc1", "-print-prog-name=collect2"} {
		path, err := ask(flag)
		if err != nil {
			return err
		}
		if err := r.program(h.ctx, strings.TrimSpace(path)); err != nil {
			return err
		}
	}
	for _, name := range []string{"liblto_plugin.so", "lto-wrapper", "libc.so", "libm.so", "libc_nonshared.a", "libmvec.so.1"} {
		path, err := ask("-print-file-name=" + name)
		if err != nil {
			return err
		}
		if path = strings.TrimSpace(path); filepath.IsAbs(path) {
			wanted[filepath.Clean(path)] = true
		}
	}
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		if err := r.file(path); err != nil {
			return err
		}
	}
	return nil
}

func installGit(h *harness, r *root) error {
	return programs(h, r, "git")
}

func installRedis(h *harness, r *root) error {
	return programs(h, r, "redis-server", "redis-benchmark")
}
