package sentry

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/syscalls/linux"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/ktime"
)

// What authority costs, measured inside the kernel process. The benchmark
// program under tools measures the same from outside, runs these for what it
// cannot see, and reads their metrics; a benchmark of a thing that is done
// once reports percentiles over its iterations.

// ungated is gVisor's system call table as it is before a kernel boots.
var ungated = maps.Clone(linux.AMD64.Table)

// benchImage is an image with programs of the benchmark.
var benchImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "bench", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		for _, name := range []string{"calls", "hold"} {
			cmd := exec.Command("gcc", "-O2", "-static", "-o", filepath.Join(root, "bin", name), "../tools/bench/work/"+name+".c")
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("gcc: %w: %s", err, out)
			}
		}
		return nil
	})
})

func spawnBench(b *testing.B, argv ...string) *spawned {
	b.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		b.Skip("it needs gcc")
	}
	if err := benchImage(); err != nil {
		b.Fatal(err)
	}
	return spawn(b, argv, withStdin, func(r *control.SpawnRequest) { r.Root.Base = "bench" })
}

// ask sends a line and returns the answer, a line too.
func (s *spawned) ask(line string) string {
	s.t.Helper()
	s.send(line + "\n")
	return strings.TrimSpace(s.expect("\n"))
}

// reportSpread reports percentiles.
func reportSpread(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[(len(took)-1)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[(len(took)*99+99)/100-1].Nanoseconds()), "p99-ns")
}

func median(samples []float64) float64 {
	slices.Sort(samples)
	return samples[len(samples)/2]
}

// BenchmarkGateInAgent compares system calls of one and the same agent through
// the gate and with gVisor's table as it was, by turns.
func BenchmarkGateInAgent(b *testing.B) {
	numbers := make(map[string]uintptr)
	for _, name := range []string{"getpid", "kill", "mmap", "munmap", "read", "write"} {
		c, ok := abi.SyscallNamed(name)
		if !ok {
			b.Fatal(name)
		}
		numbers[name] = uintptr(c.Nr)
	}
	install := func(table map[uintptr]kernel.Syscall) {
		for _, nr := range numbers {
			linux.AMD64.Table[nr] = table[nr]
		}
		linux.AMD64.Init()
	}
	gated := maps.Clone(linux.AMD64.Table)
	defer install(gated)
	for _, c := range []struct {
		name  string
		count int
	}{{"getpid", 40000}, {"kill", 20000}, {"mmap", 4000}, {"pipe", 4000}} {
		b.Run(c.name, func(b *testing.B) {
			s := spawnBench(b, "/bin/calls")
			measure := func(table map[uintptr]kernel.Syscall) float64 {
				install(table) // The agent waits for its input.
				ns, err := strconv.ParseFloat(s.ask(fmt.Sprintf("%s %d", c.name, c.count)), 64)
				if err != nil {
					b.Fatal(err)
				}
				return ns
			}
			measure(gated)
			var with, without, ratios []float64
			for i := range b.N {
				var g, u float64
				if i%2 == 0 {
					g, u = measure(gated), measure(ungated)
				} else {
					u, g = measure(ungated), measure(gated)
				}
				with, without, ratios = append(with, g), append(without, u), append(ratios, g/u)
			}
			b.ReportMetric(median(with), "gated-ns")
			b.ReportMetric(median(without), "ungated-ns")
			b.ReportMetric(100*(median(ratios)-1), "extra-%")
		})
	}
}

// BenchmarkSchedInAgent compares system calls of two processes of one agent, of
// which the scheduler knows one, by turns.
func BenchmarkSchedInAgent(b *testing.B) {
	for _, c := range []struct {
		name  string
		count int
	}{{"getpid", 40000}, {"pipe", 4000}} {
		b.Run(c.name, func(b *testing.B) {
			first := spawnBench(b, "/bin/calls")
			a, err := theKernel.agent(first.id)
			if err != nil {
				b.Fatal(err)
			}
			stdin := func(p *control.Process) { p.Stdin = true }
			with := first.execIn([]string{"/bin/calls"}, stdin)
			with.ask(c.name + " 1")
			a.unscheduled.Store(true)
			without := first.execIn([]string{"/bin/calls"}, stdin)
			measure := func(s *spawned) float64 {
				ns, err := strconv.ParseFloat(s.ask(fmt.Sprintf("%s %d", c.name, c.count)), 64)
				if err != nil {
					b.Fatal(err)
				}
				return ns
			}
			measure(with)
			measure(without)
			var ratios []float64
			for i := range b.N {
				var w, o float64
				if i%2 == 0 {
					w, o = measure(with), measure(without)
				} else {
					o, w = measure(without), measure(with)
				}
				ratios = append(ratios, w/o)
			}
			b.ReportMetric(100*(median(ratios)-1), "extra-%")
		})
	}
}

// revokeCap takes a capability back and returns how long that took.
func revokeCap(b testing.TB, id capability.ID, dead int) time.Duration {
	b.Helper()
	began := ktime.Real.Now()
	r, err := theKernel.CapRevoke(control.RevokeRequest{Cap: id})
	took := ktime.Real.Since(began)
	if err != nil || r.Count != dead {
		b.Fatalf("revoked %d of %d: %v", r.Count, dead, err)
	}
	return took
}

// benchSpecs are what is granted and handed on: what is only a bit of a mask,
// and a mount.
var benchSpecs = []struct{ name, spec string }{
	{"net", "net:loopback"},
	{"files", "fs:/d:rw,at=/d"},
}

// BenchmarkGrant gives an agent more, as the daemon would have it done.
func BenchmarkGrant(b *testing.B) {
	for _, c := range benchSpecs {
		b.Run(c.name, func(b *testing.B) {
			_, key := hostDir(b)
			s := spawn(b, []string{"sleep", "1000"}, detached)
			var took []time.Duration
			for range b.N {
				began := ktime.Real.Now()
				got := give(b, s.id, c.spec, key)
				took = append(took, ktime.Real.Since(began))
				revokeCap(b, got.ID, 1)
			}
			reportSpread(b, took)
		})
	}
}

// BenchmarkDelegate hands something on from one agent to another.
func BenchmarkDelegate(b *testing.B) {
	for _, c := range benchSpecs {
		b.Run(c.name, func(b *testing.B) {
			_, key := hostDir(b)
			from, to := spawn(b, []string{"sleep", "1000"}, detached), spawn(b, []string{"sleep", "1000"}, detached)
			own := give(b, from.id, c.spec, key)
			var took []time.Duration
			for range b.N {
				began := ktime.Real.Now()
				got := handOn(b, own, to.id, capability.Change{})
				took = append(took, ktime.Real.Since(began))
				revokeCap(b, got.ID, 1)
			}
			reportSpread(b, took)
		})
	}
}

// BenchmarkRevokeHeld takes a directory away from an agent that has a hundred
// of its files open and ten of them mapped.
func BenchmarkRevokeHeld(b *testing.B) {
	_, key := hostDir(b)
	s := spawnBench(b, "/bin/hold", "/d", "100", "10")
	var took []time.Duration
	for range b.N {
		got := give(b, s.id, "fs:/d:rw", key)
		if answer := s.ask("open"); answer != "open" {
			b.Fatal(answer)
		}
		took = append(took, revokeCap(b, got.ID, 1))
		if answer := s.ask("check"); answer != "0 0" {
			b.Fatalf("files and mappings that still work: %s", answer)
		}
	}
	reportSpread(b, took)
}

// calm is how long the kernel is left alone before a tree is revoked: without
// it, what is measured is the collection of the garbage of planting it.
const calm = 300 * time.Millisecond

// BenchmarkRevokeTree takes back what was handed on to ten thousand places in
// a thousand agents.
func BenchmarkRevokeTree(b *testing.B) {
	const nodes, agents, fan = 10000, 1000, 10
	var ids []string
	for range agents {
		ids = append(ids, spawn(b, []string{"sleep", "100000"}, detached, memory(1<<30), tasks(512)).id)
	}
	for _, c := range benchSpecs {
		b.Run(c.name, func(b *testing.B) {
			_, key := hostDir(b)
			var took []time.Duration
			for range b.N {
				tree := []control.Cap{give(b, ids[0], c.spec, key)}
				for i := 1; i < nodes; i++ {
					req := control.CapRequest{Cap: tree[(i-1)/fan].ID, To: ids[i%agents]} // By the operator.
					if c.name == "files" {                                                // Each has a place of its own in its agent.
						place := fmt.Sprintf("/d%d", i/agents)
						req.Change.At = &place
					}
					node, err := theKernel.CapDelegate(req)
					if err != nil {
						b.Fatal(err)
					}
					tree = append(tree, node)
				}
				time.Sleep(calm)
				took = append(took, revokeCap(b, tree[0].ID, nodes))
			}
			reportSpread(b, took)
		})
	}
}
