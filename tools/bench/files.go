package main

import (
	"context"
	"encoding/json"
)

// files measures a directory of the host inside a box: through a grant, through
// runsc's gofer, and bound on the host's own kernel.
func (h *harness) files() error {
	r, err := h.toolsRoot()
	if err != nil {
		return err
	}
	dir, err := h.hostDir()
	if err != nil {
		return err
	}
	argv := []string{"/work/files", dataDir}
	figures := func(text []byte, err error) (map[string]float64, error) {
		if err != nil {
			return nil, err
		}
		var f map[string]float64
		return f, json.Unmarshal(text, &f)
	}
	var contenders []contender
	for _, name := range []string{runsc, bwrap} {
		if p := h.peer(name); p != nil {
			contenders = append(contenders, contender{name, func(ctx context.Context) (map[string]float64, error) {
				return figures(p.runBox(ctx, box{root: r, argv: argv, dir: dir}))
			}})
		}
	}
	if h.aios != nil {
		contenders = append(contenders, contender{aios, func(ctx context.Context) (map[string]float64, error) {
			spec := h.aios.spec(toolsImage, argv...)
			spec.Grants = []string{"fs:" + dir + ":rw,at=" + dataDir}
			return figures(attached(ctx, h.aios.Client, spec))
		}})
	}
	got := h.compare(max(3, h.rounds/8), contenders)
	for _, f := range []figure{
		{"open", "open and close", "ns", false},
		{"stat", "stat", "ns", false},
		{"pread", "read 4 KiB", "ns", false},
		{"pwrite", "write 4 KiB", "ns", false},
		{"create", "create and close", "ns", false},
		{"unlink", "unlink", "ns", false},
		{"list", "list 201 files", "ns", false},
		{"read", "read 64 MiB", "MiB/s", true},
		{"write", "write 64 MiB", "MiB/s", true},
	} {
		r := medians("a granted directory: "+f.label, f.unit, got[f.key])
		r.P99 = nil // Too few runs.
		r.More = f.more
		h.table.add(r)
	}
	h.table.note("files: the kernel process of runsc opens files of the host by itself; that of AIOS cannot, and asks a gofer")
	return nil
}
