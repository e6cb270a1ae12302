package sim

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/sentry/sched"
)

// metered is a task of which is known when it had a CPU, and what it did.
type metered struct {
	w *World
	t *sched.Task

	has, waits bool
	app, bare  bool // it executes application code, without a CPU
	since      int64
	total      int64

	user, system time.Duration // as last told
}

func newMetered(w *World, g *sched.Group, id any) *metered {
	m := &metered{w: w}
	m.t = g.NewTask(m, id)
	return m
}

// Granted implements sched.Runner.
func (m *metered) Granted() { m.waits, m.has, m.since = false, true, m.w.clock.now }

// Preempt implements sched.Runner.
func (m *metered) Preempt() {}

// used is its CPU time.
func (m *metered) used() time.Duration {
	if m.has {
		return time.Duration(m.total + m.w.clock.now - m.since)
	}
	return time.Duration(m.total)
}

func (m *metered) ask() {
	m.total, m.has = int64(m.used()), false
	switch m.t.Ask(nil) {
	case sched.Go:
		m.Granted()
	case sched.Wait:
		m.waits = true
	}
}

func (m *metered) leave() {
	m.total, m.has = int64(m.used()), false
	m.t.Leave()
}

func (m *metered) enter() {
	m.app, m.bare = true, !m.has
	if m.bare {
		m.since = m.w.clock.now
	}
	m.t.Enters()
}

func (m *metered) back() {
	if m.bare {
		m.total += m.w.clock.now - m.since
	}
	m.app, m.bare = false, false
	m.t.Returns()
}

// told notes what it is told now.
func (m *metered) told(t interface{ Fatalf(string, ...any) }, name string, user, system time.Duration) {
	if user < m.user || system < m.system {
		t.Fatalf("%s: %v and %v, and before %v and %v", name, user, system, m.user, m.system)
	}
	m.user, m.system = user, system
}

// TestCPUTimeIsExactAndNeverLess: whatever tasks do, what they are told of their CPU
// time adds up to what they had, and neither part is ever less than it was.
func TestCPUTimeIsExactAndNeverLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := New(2, 1, Costs{})
		g := w.S.NewGroup("g")
		var all []*metered
		for i := range 4 {
			all = append(all, newMetered(w, g, i))
		}
		var group metered
		some := func(t *rapid.T, may func(m *metered) bool) *metered {
			m := all[rapid.IntRange(0, len(all)-1).Draw(t, "task")]
			if !may(m) {
				t.Skip("not now")
			}
			return m
		}
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) {
				if err := w.Run(time.Duration(rapid.Int64Range(0, 30e6).Draw(t, "for"))); err != nil {
					t.Fatal(err)
				}
			},
			"ask":   func(t *rapid.T) { some(t, func(m *metered) bool { return !m.app && !m.waits }).ask() },
			"leave": func(t *rapid.T) { some(t, func(m *metered) bool { return !m.app && m.has }).leave() },
			"enter": func(t *rapid.T) { some(t, func(m *metered) bool { return !m.app && !m.waits }).enter() },
			"back":  func(t *rapid.T) { some(t, func(m *metered) bool { return m.app }).back() },
			"withdraw": func(t *rapid.T) {
				m := some(t, func(m *metered) bool { return m.waits })
				m.waits = !m.t.Withdraw()
			},
			"": func(t *rapid.T) {
				if err := w.S.Check(); err != nil {
					t.Fatal(err)
				}
				if rapid.Bool().Draw(t, "not looked at") {
					return
				}
				sum := time.Duration(0)
				for _, st := range g.Tasks() {
					m := all[st.ID.(int)]
					m.told(t, fmt.Sprint(st.ID), st.User, st.System)
					if got := st.User + st.System; got != m.used() {
						t.Fatalf("%v has used %v and is told %v", st.ID, m.used(), got)
					}
					sum += m.used()
				}
				u := g.Usage()
				group.told(t, "the group", u.User, u.System)
				if got := u.User + u.System; got != sum {
					t.Fatalf("the group's tasks have used %v, it is told %v", sum, got)
				}
			},
		})
	})
}

// TestCPUTimeIsDividedByWhatIsDone: what a task does again and again, be it as often as
// samples are taken, and what it did first and does no more, is told as what it was.
func TestCPUTimeIsDividedByWhatIsDone(t *testing.T) {
	const span = 60 * time.Second
	for _, c := range []struct{ app, kernel time.Duration }{
		{3 * time.Millisecond, 7 * time.Millisecond},
		{9 * time.Millisecond, time.Millisecond},
		{5 * time.Millisecond, 15 * time.Millisecond},
		{4 * time.Microsecond, 5 * time.Microsecond},
		{span / 2, span / 2},
	} {
		t.Run(fmt.Sprint(c.app, " and ", c.kernel), func(t *testing.T) {
			w := New(1, 1, Costs{})
			g := w.S.NewGroup("g")
			m := newMetered(w, g, 0)
			m.ask()
			run := func(d time.Duration) {
				if err := w.Run(d); err != nil {
					t.Fatal(err)
				}
			}
			for w.Now() < span {
				m.enter()
				run(c.app)
				m.back()
				run(c.kernel)
			}
			u, want := g.Usage(), float64(c.app)/float64(c.app+c.kernel)
			if got := float64(u.User) / float64(u.User+u.System); math.Abs(got-want) > 0.02 {
				t.Errorf("%.3f of its time is user time, not %.3f", got, want)
			}
		})
	}
}

// TestNobodyIsSampledWhoSleeps: while nobody has a CPU no timer goes off.
func TestNobodyIsSampledWhoSleeps(t *testing.T) {
	w := New(2, 1, Costs{})
	m := newMetered(w, w.S.NewGroup("g"), 0)
	m.ask()
	if err := w.Run(time.Second); err != nil {
		t.Fatal(err)
	}
	if w.Steps < 50 {
		t.Errorf("%d samples in a second", w.Steps)
	}
	m.leave()
	was := w.Steps
	if err := w.Run(time.Minute); err != nil {
		t.Fatal(err)
	}
	if n := w.Steps - was; n > 1 {
		t.Errorf("%d timers while it sleeps", n)
	}
}
