package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
)

// probe is an agent that makes the system calls it is told to make.
type probe struct {
	*spawned
	agent *Agent
}

// probeImage makes the image "probe" known, once.
var probeImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-probe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "probe", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		out, err := exec.Command("gcc", "-O1", "-static", "-o", filepath.Join(root, "bin", "probe"), "testdata/probe.c").CombinedOutput()
		if err != nil {
			return fmt.Errorf("gcc: %w: %s", err, out)
		}
		return nil
	})
})

func newProbe(t testing.TB) *probe {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	if err := probeImage(); err != nil {
		t.Fatal(err)
	}
	s := spawn(t, []string{"/bin/probe"}, withStdin, func(r *control.SpawnRequest) { r.Root.Base = "probe" })
	p := &probe{s, agentUnderTest(t, s.id)}
	p.must("getpid", "") // Its start is over: it needs less than that did.
	return p
}

func agentUnderTest(t testing.TB, id string) *Agent {
	t.Helper()
	a, err := theKernel.agent(id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// begin makes the probe begin a call; end returns its result.
func (p *probe) begin(name, args string) {
	p.t.Helper()
	c, ok := abi.SyscallNamed(name)
	if !ok {
		p.t.Fatalf("no system call %s", name)
	}
	p.send(fmt.Sprintf("%d %s\n", c.Nr, args))
}

func (p *probe) end() int64 {
	p.t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(p.expect("\n")), 10, 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *probe) call(name, args string) int64 {
	p.t.Helper()
	p.begin(name, args)
	return p.end()
}

// must is call for calls that cannot fail.
func (p *probe) must(name, args string) int64 {
	p.t.Helper()
	n := p.call(name, args)
	if n < 0 {
		p.t.Fatalf("%s %s: %d", name, args, n)
	}
	return n
}

// without takes groups from the agent.
func (p *probe) without(groups ...abi.Group) {
	mask := abi.MaskAll()
	for _, g := range groups {
		mask &^= g.Bit()
	}
	p.agent.setMask(mask)
}

// denialBook collects what the kernel under test refused.
type denialBook struct {
	once sync.Once
	mu   sync.Mutex
	got  map[string][]Denial // by agent
}

var denied denialBook

// watch begins to collect.
func (b *denialBook) watch() {
	b.once.Do(func() {
		b.got = make(map[string][]Denial)
		theKernel.OnDenied(func(d Denial) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.got[d.Agent] = append(b.got[d.Agent], d)
		})
	})
}

func (b *denialBook) of(agent string) []Denial {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Denial(nil), b.got[agent]...)
}

// count returns how often the agent was refused an operation for want of a
// capability.
func (b *denialBook) count(agent, operation, capability string) (n uint64) {
	for _, d := range b.of(agent) {
		if d.Operation == operation && d.Capability == capability {
			n += d.Count
		}
	}
	return n
}
