// Command bench measures AIOS beside other ways to run a program in a box, in
// one interleaved run, and prints one table of medians with ratios.
//
// An experiment fills rows of the table: spawn, sustain, density, cold, work,
// files, gate, grant, tree, hog, clone, merge, checkpoint, fabric, template, bus, semantic, faults,
// swap, restart.
// Contenders (aios, and each peer that is installed) take turns within every
// round, so that a change of the host's load touches all of them alike. A peer
// that is missing or fails is named under the table and left out; nothing is
// estimated.
//
// The harness uses AIOS only through its command line and its client package,
// with a state directory of its own, and leaves nothing behind. What happens
// inside the kernel process it has measured by that package's own benchmarks.
// It is single-threaded except where an experiment says otherwise, and imports
// no package of the kernel.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// experiments in the order of the table.
var experiments = []struct {
	name string
	run  func(*harness) error
}{
	{"spawn", (*harness).spawn},
	{"sustain", (*harness).sustain},
	{"density", (*harness).density},
	{"cold", (*harness).cold},
	{"work", (*harness).work},
	{"files", (*harness).files},
	{"gate", (*harness).gate},
	{"grant", (*harness).grant},
	{"tree", (*harness).tree},
	{"hog", (*harness).hog},
	{"sched", (*harness).sched},
	{"share", (*harness).share},
	{"quota", (*harness).quota},
	{"wake", (*harness).wake},
	{"deadline", (*harness).deadline},
	{"clone", (*harness).clone},
	{"checkpoint", (*harness).checkpoint},
	{"merge", (*harness).merge},
	{"fabric", (*harness).fabric},
	{"template", (*harness).template},
	{"bus", (*harness).bus},
	{"semantic", (*harness).semantic},
	{"faults", (*harness).faults},
	{"swap", (*harness).swap},
	{"restart", (*harness).restart},
}

// harness is what the experiments share.
type harness struct {
	ctx      context.Context
	dir      string // temporary, removed at the end
	bin      string // where aiosctl, aiosd and runsc are
	rounds   int
	spawning time.Duration
	agents   int
	platform string
	aios     *system
	peers    []*peer
	progress io.Writer
	small    *root // with true and sleep; nil until first used
	tools    *root // with programs of the harness; nil until first used
	table    table
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var names []string
	for _, e := range experiments {
		names = append(names, e.name)
	}
	only := flag.String("only", "", "run only these experiments, separated by commas: "+strings.Join(names, ", "))
	rounds := flag.Int("runs", 40, "rounds of the spawn experiment; the others take a share of it")
	seconds := flag.Duration("sustain", 30*time.Second, "how long two clients spawn at once")
	agents := flag.Int("agents", 1000, "how many agents sleep at once")
	platform := flag.String("platform", "systrap", "platform of AIOS and of runsc")
	without := flag.String("without", "", "leave out these contenders, separated by commas")
	bin := flag.String("bin", "bin", "directory of aiosctl, aiosd and runsc")
	asJSON := flag.String("json", "", "also write the table as JSON to this file")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -help", flag.Arg(0))
	}
	chosen := splitList(*only)
	for _, c := range chosen {
		if !slices.Contains(names, c) {
			return fmt.Errorf("no experiment %q; there are %s", c, strings.Join(names, ", "))
		}
	}
	if *rounds < 1 || *agents < 1 || *seconds <= 0 {
		return fmt.Errorf("-runs, -agents and -sustain must be positive")
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	h := &harness{ctx: ctx, rounds: *rounds, spawning: *seconds, agents: *agents, platform: *platform, progress: os.Stderr}
	if err := h.open(*bin, splitList(*without)); err != nil {
		return err
	}
	defer h.close()

	h.table.Host = hostLine()
	for _, e := range experiments {
		if len(chosen) > 0 && !slices.Contains(chosen, e.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(h.progress, "bench: %s …\n", e.name)
		if err := e.run(h); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted during %s", e.name)
			}
			h.table.note("%s: %v", e.name, err)
		}
		fmt.Fprintf(h.progress, "bench: %s took %.0f s\n", e.name, time.Since(began).Seconds())
	}
	if err := h.table.print(os.Stdout); err != nil {
		return err
	}
	if *asJSON == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(*asJSON), 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(h.table, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(*asJSON, append(text, '\n'), 0o644)
}

// open prepares the roots, finds the peers and starts AIOS.
func (h *harness) open(bin string, without []string) error {
	var err error
	if h.bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if h.dir, err = os.MkdirTemp("", "aios-bench-"); err != nil {
		return err
	}
	for _, p := range h.knownPeers() {
		switch reason := p.unusable(); {
		case slices.Contains(without, p.name):
		case reason != "":
			h.table.note("%s left out: %s", p.name, reason)
		default:
			h.peers = append(h.peers, p)
		}
	}
	if slices.Contains(without, aios) {
		return nil
	}
	h.aios, err = startSystem(h)
	if err != nil {
		os.RemoveAll(h.dir)
	}
	return err
}

func (h *harness) close() {
	if h.aios != nil {
		if err := h.aios.stop(); err != nil {
			fmt.Fprintln(h.progress, "bench: stopping AIOS:", err)
		}
	}
	for _, p := range h.peers {
		p.clean()
	}
	if err := os.RemoveAll(h.dir); err != nil {
		fmt.Fprintln(h.progress, "bench:", err)
	}
}

func (h *harness) peer(name string) *peer {
	for _, p := range h.peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// hostLine says what the figures were measured on.
func hostLine() string {
	var u syscall.Utsname
	release := "unknown"
	if syscall.Uname(&u) == nil {
		var b []byte
		for _, c := range u.Release {
			if c == 0 {
				break
			}
			b = append(b, byte(c))
		}
		release = string(b)
	}
	load := "unknown"
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(text), " ")
	}
	return fmt.Sprintf("%d CPUs, Linux %s, load %s at the start", runtime.NumCPU(), release, load)
}

// output runs a command to its end and returns what it printed; an error
// carries the end of what it said on standard error.
func output(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if err == nil {
		return []byte(out.String()), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	said := strings.TrimSpace(errs.String())
	if said == "" { // go test complains there.
		said = strings.TrimSpace(out.String())
	}
	if len(said) > 400 {
		said = "…" + said[len(said)-400:]
	}
	return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.ReplaceAll(said, "\n", " | "))
}
