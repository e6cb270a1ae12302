package sentry

import (
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Rights that the model knows.
const (
	modelRead  = abi.FSRead | abi.FSExec
	modelWrite = modelRead | abi.FSWrite
)

// grantNode is a capability as it should be.
type grantNode struct {
	id       capability.ID
	n        int // the number that the programs know it by
	agent    *modelAgent
	parent   *grantNode
	children []*grantNode
	net      bool
	object   string // of files
	at       string
	rights   abi.Rights
	sealed   bool
	moved    bool // away
	dead     bool
	// What was open when it was last used, and could be written then.
	open, writable bool
}

func (n *grantNode) String() string {
	return fmt.Sprintf("%d %s of %s at %s (%s)", n.n, n.object, n.agent.s.id, n.at, n.id)
}

func (n *grantNode) live() bool { return !n.dead && !n.moved }

// there reports whether a directory exists.
func there(object string) bool { return strings.Count(object, "/sub") <= 2 }

// parents reports whether something alive was derived from n.
func (n *grantNode) parents() bool {
	return slices.ContainsFunc(n.children, func(c *grantNode) bool { return !c.dead })
}

// end kills n and what was derived from it, and what had been moved away and
// has nothing left below.
func (n *grantNode) end() {
	if n.dead {
		return
	}
	n.dead = true
	for _, c := range n.children {
		c.end()
	}
	if p := n.parent; p != nil && p.moved && !p.dead && !p.parents() {
		p.end()
	}
}

// modelAgent is an agent with a program that does as it is told.
type modelAgent struct {
	s    *spawned
	used *spawned
}

// tell has the program do something and returns what succeeded.
func (a *modelAgent) tell(format string, args ...any) string {
	a.used.send(fmt.Sprintf(format, args...) + "\n")
	_, what, _ := strings.Cut(a.used.expect("\n"), ": ")
	return strings.TrimSpace(what)
}

// authorityModel is the real thing beside what it should be.
type authorityModel struct {
	t      *testing.T
	keys   []string // of host directories
	agents []*modelAgent
	nodes  []*grantNode
	count  int
	seen   map[string]int // what succeeded, how often
}

func (m *authorityModel) spawn(slot int) {
	s := idle(m.t)
	give(m.t, s.id, "sys:introspect", "") // Something to hold whatever happens.
	a := &modelAgent{s: s, used: s.execIn([]string{"/bin/taker"}, func(p *control.Process) { p.Stdin = true })}
	a.used.expect("ready")
	if rep, err := theKernel.CapRevoke(control.RevokeRequest{Cap: own(m.t, s.id, "net").ID}); err != nil || rep.Count != 1 {
		m.t.Fatal(rep, err)
	}
	m.agents[slot] = a
}

func (m *authorityModel) kill(slot int) {
	a := m.agents[slot]
	a.s.signal(9)
	a.s.wait()
	for _, n := range m.nodes {
		if n.agent == a && n.live() {
			n.end()
		}
	}
	// What it had handed on is gone soon after its end.
	eventually(m.t, func() bool { return len(theKernel.space.List(a.s.id)) == 0 && agentGone(a.s.id) })
}

// agentGone reports whether the kernel has released all that an agent had.
func agentGone(id string) bool {
	_, known := theKernel.byID.Load(id)
	return !known
}

// any draws a node, mostly one that is alive.
func (m *authorityModel) any(r *rapid.T) *grantNode {
	list := slices.DeleteFunc(slices.Clone(m.nodes), func(n *grantNode) bool { return !n.live() })
	if len(list) == 0 || rapid.IntRange(0, 9).Draw(r, "dead") == 0 {
		list = m.nodes
	}
	if len(list) == 0 {
		r.Skip("nothing there")
	}
	return rapid.SampledFrom(list).Draw(r, "node")
}

// expect compares the outcome of an operation; codes say why it may be refused.
func (m *authorityModel) expect(r *rapid.T, what string, err error, possible bool) {
	r.Helper()
	if (err == nil) != possible {
		r.Fatalf("%s: %v; possible: %v", what, err, possible)
	}
	if err != nil && errdefs.CodeOf(err) == errdefs.Internal {
		r.Fatalf("%s: %v is internal", what, err)
	}
}

// add notes a new capability, and has the program open what it is for.
func (m *authorityModel) add(n *grantNode) {
	m.nodes = append(m.nodes, n)
	if n.parent != nil {
		n.parent.children = append(n.parent.children, n)
	}
	if !n.net {
		n.agent.tell("take %d %s/in", n.n, n.at)
		n.open, n.writable = true, n.rights.Has(abi.FSWrite)
	}
}

func (m *authorityModel) next() int {
	m.count++
	return m.count
}

func (m *authorityModel) grant(r *rapid.T) {
	slot := rapid.IntRange(0, len(m.agents)-1).Draw(r, "agent")
	n := &grantNode{n: m.next(), agent: m.agents[slot]}
	spec, key := "net:loopback", ""
	if n.net = rapid.IntRange(0, 5).Draw(r, "net") == 0; !n.net {
		d := rapid.IntRange(0, len(m.keys)-1).Draw(r, "dir")
		n.object, n.at, key = fmt.Sprintf("/dir%d", d), fmt.Sprintf("/g/%d", n.n), m.keys[d]
		n.rights = rapid.SampledFrom([]abi.Rights{modelRead, modelWrite}).Draw(r, "rights")
		spec = capability.Spec{Object: capability.Object{Class: abi.ClassFS, Name: n.object}, Rights: n.rights, At: n.at}.String()
	}
	reply, err := theKernel.CapGrant(control.GrantRequest{ID: n.agent.s.id, Grants: []control.Grant{{Spec: spec, Key: key}}})
	m.expect(r, "grant "+spec, err, true)
	n.id = reply.Caps[0].ID
	m.add(n)
}

func (m *authorityModel) delegate(r *rapid.T) {
	p := m.any(r)
	slot := rapid.IntRange(0, len(m.agents)-1).Draw(r, "to")
	n := &grantNode{n: m.next(), agent: m.agents[slot], parent: p, net: p.net, object: p.object, rights: p.rights}
	var by control.Actor
	if rapid.Bool().Draw(r, "by its holder") {
		by.Name = p.agent.s.id
	}
	possible := p.live() && !p.sealed
	var ch capability.Change
	if !p.net {
		if rapid.IntRange(0, 2).Draw(r, "part") == 0 {
			n.object = path.Join(p.object, "sub")
			ch.Object = &n.object
		}
		possible = possible && there(n.object)
		if rapid.IntRange(0, 1).Draw(r, "other rights") == 0 {
			n.rights = rapid.SampledFrom([]abi.Rights{modelRead, modelWrite}).Draw(r, "rights")
			ch.Rights = &n.rights
			possible = possible && p.rights.Has(n.rights)
		}
		n.at = fmt.Sprintf("/g/%d", n.n)
		if by.Name != "" && n.agent != p.agent {
			n.at = fmt.Sprintf("/granted/%s/%d", by.Name, n.n)
		}
		ch.At = &n.at
	}
	n.sealed = rapid.IntRange(0, 9).Draw(r, "seal") == 0
	ch.Sealed = n.sealed
	move := rapid.IntRange(0, 4).Draw(r, "move") == 0
	if _, known := theKernel.byID.Load(p.agent.s.id); by.Name != "" && !known {
		by.Name = "" // It has ended, and asks for nothing.
		possible = false
	}
	c, err := theKernel.CapDelegate(control.CapRequest{Cap: p.id, To: n.agent.s.id, Change: ch, Move: move, Actor: by})
	m.expect(r, fmt.Sprintf("delegate %v as %s %v, move %v", p, n.object, n.rights, move), err, possible)
	if err != nil {
		return
	}
	n.id = c.ID
	p.moved = p.moved || move
	m.add(n)
}

func (m *authorityModel) attenuate(r *rapid.T) {
	n := m.any(r)
	if n.net {
		r.Skip("it has nothing less")
	}
	var ch capability.Change
	possible := n.live()
	object, rights := n.object, n.rights
	if rapid.IntRange(0, 2).Draw(r, "part") == 0 {
		object = path.Join(n.object, "sub")
		ch.Object = &object
	} else {
		rights = rapid.SampledFrom([]abi.Rights{modelRead, modelWrite}).Draw(r, "rights")
		ch.Rights = &rights
		possible = possible && n.rights.Has(rights)
	}
	for _, c := range n.children {
		if !c.dead && (!rights.Has(c.rights) || c.object != object && !strings.HasPrefix(c.object, object+"/")) {
			possible = false
		}
	}
	_, err := theKernel.CapAttenuate(control.CapRequest{Cap: n.id, Change: ch})
	m.expect(r, fmt.Sprintf("attenuate %v to %s %v", n, object, rights), err, possible)
	if err != nil {
		return
	}
	if object != n.object {
		n.object, n.at, n.open = object, n.at+"/sub", false
	}
	n.rights = rights
}

func (m *authorityModel) seal(r *rapid.T) {
	n := m.any(r)
	_, err := theKernel.CapSeal(control.CapRequest{Cap: n.id})
	m.expect(r, "seal "+n.String(), err, n.live())
	n.sealed = true
}

func (m *authorityModel) revoke(r *rapid.T) {
	n := m.any(r)
	keep := rapid.IntRange(0, 3).Draw(r, "keep") == 0
	_, err := theKernel.CapRevoke(control.RevokeRequest{Cap: n.id, KeepSelf: keep})
	m.expect(r, "revoke "+n.String(), err, !n.dead)
	if err != nil {
		return
	}
	if !keep {
		n.end()
		return
	}
	for _, c := range n.children {
		c.end()
	}
}

// expire lends for a short time what was given for ever.
func (m *authorityModel) expire(r *rapid.T) {
	n := m.any(r)
	_, err := theKernel.CapAttenuate(control.CapRequest{Cap: n.id, Change: capability.Change{Lease: ptr(time.Millisecond)}})
	m.expect(r, "lend "+n.String(), err, n.live())
	if err != nil {
		return
	}
	eventually(m.t, func() bool { _, err := theKernel.space.ByID(n.id); return err != nil })
	// It is not found any more a little before everything is closed.
	var wait func(n *grantNode)
	wait = func(n *grantNode) {
		eventually(m.t, func() bool { return !theKernel.opens(n.agent.s.id, n.id) })
		for _, c := range n.children {
			wait(c)
		}
	}
	wait(n)
	if n.net || slices.ContainsFunc(n.children, func(c *grantNode) bool { return c.net }) {
		time.Sleep(20 * time.Millisecond) // The gate is told last.
	}
	n.end()
}

// opens reports whether a grant of files is in use.
func (s *Kernel) opens(agent string, id capability.ID) bool {
	a, ok := s.byID.Load(agent)
	return ok && a.(*Agent).grantOf(id) != nil
}

func (m *authorityModel) exit(r *rapid.T) {
	if rapid.IntRange(0, 3).Draw(r, "really") != 0 {
		r.Skip("not now")
	}
	slot := rapid.IntRange(0, len(m.agents)-1).Draw(r, "agent")
	m.kill(slot)
	m.spawn(slot)
}

// check tries everything that was ever given to agents that live.
func (m *authorityModel) check(r *rapid.T) {
	for _, a := range m.agents {
		net := ""
		for _, n := range m.nodes {
			if n.agent != a {
				continue
			}
			if n.net {
				if n.live() {
					net = "n"
				}
				continue
			}
			want := ""
			if n.live() && there(n.object) {
				write := n.rights.Has(abi.FSWrite)
				want = "r"
				if write {
					want += "w"
				}
				if n.open {
					want += "R"
					if write && n.writable {
						want += "W"
					}
					want += "m"
					if write && n.writable {
						want += "M"
					}
				}
			}
			if got := a.tell("try %d %s/in", n.n, n.at); got != want {
				r.Fatalf("%v: %q succeeds, should be %q", n, got, want)
			}
			m.seen[want]++
		}
		if got := a.tell("net"); got != net {
			r.Fatalf("%s: the network: %q, should be %q", a.s.id, got, net)
		}
	}
}

// TestAuthorityModel does random things with authority, and has programs try
// after each what the model says.
func TestAuthorityModel(t *testing.T) {
	var keys []string
	for range 2 {
		dir, key := hostDir(t)
		if err := os.MkdirAll(filepath.Join(dir, "sub", "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"in", "sub/in", "sub/sub/in"} {
			if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 4096), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		keys = append(keys, key)
	}
	long := soak(t)
	seen, wanted := map[string]int{}, []string{"", "rRm", "rwRWmM", "r", "rw"}
	checks := flag.Lookup("rapid.checks").Value
	defer flag.Set("rapid.checks", checks.String())
	flag.Set("rapid.checks", "8")
	for end := ktime.Real.Now().Add(long); ; {
		rapid.Check(t, func(r *rapid.T) {
			m := &authorityModel{t: t, keys: keys, agents: make([]*modelAgent, 3), seen: seen}
			for i := range m.agents {
				m.spawn(i)
			}
			r.Repeat(map[string]func(*rapid.T){
				"": m.check, "grant": m.grant, "delegate": m.delegate, "delegate2": m.delegate, "attenuate": m.attenuate, "seal": m.seal,
				"revoke": m.revoke, "expire": m.expire, "exit": m.exit,
			})
			for i := range m.agents {
				m.kill(i)
			}
		})
		tried := 0
		for _, n := range seen {
			tried += n
		}
		// The rarest of them is one in some thousand.
		enough := tried > 20000 || tried > 2000 && !slices.ContainsFunc(wanted, func(what string) bool { return seen[what] == 0 })
		if t.Failed() || enough && !ktime.Real.Now().Before(end) {
			break
		}
	}
	t.Logf("tried, by what succeeded: %v", seen)
	for _, what := range wanted {
		if seen[what] == 0 && !t.Failed() {
			t.Errorf("%q was never so", what)
		}
	}
}
