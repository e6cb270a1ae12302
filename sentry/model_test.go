package sentry

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// model is what an agent that sleeps should be. Its methods do something to
// the real one and compare.
type model struct {
	t     *testing.T
	s     *spawned
	state abi.State // "" once it is forgotten
	term  bool      // a SIGTERM waits for the agent to be resumed
	execs []*spawned
}

func (m *model) check(r *rapid.T, op string, err error, refusals map[abi.State]errdefs.Code) {
	r.Helper()
	want := refusals[m.state]
	if m.state == "" {
		want = errdefs.AgentNotFound
	}
	if got := errdefs.CodeOf(err); got != want {
		r.Fatalf("%s of a %q agent: %v (%s), want %s", op, m.state, err, got, want)
	}
}

// ended waits for the end of the agent and of all that was started in it.
func (m *model) ended(r *rapid.T, sig int32) {
	r.Helper()
	if exit := m.s.wait(); exit.Signal != sig {
		r.Fatalf("the agent ended with %+v, want signal %d", exit, sig)
	}
	for _, x := range m.execs {
		x.wait()
	}
	m.state, m.execs = abi.StateExited, nil
}

var (
	whenEnded    = map[abi.State]errdefs.Code{abi.StateExited: errdefs.AgentNotRunning}
	whenNotAlive = map[abi.State]errdefs.Code{abi.StateExited: errdefs.AgentNotRunning, abi.StatePaused: errdefs.WrongState}
)

func (m *model) actions() map[string]func(*rapid.T) {
	id := control.AgentRequest{ID: m.s.id}
	return map[string]func(*rapid.T){
		"pause": func(r *rapid.T) {
			_, err := theKernel.Pause(id)
			m.check(r, "pause", err, whenNotAlive)
			if m.state == abi.StateRunning {
				m.state = abi.StatePaused
			}
		},
		"resume": func(r *rapid.T) {
			_, err := theKernel.Resume(id)
			m.check(r, "resume", err, map[abi.State]errdefs.Code{abi.StateExited: errdefs.AgentNotRunning, abi.StateRunning: errdefs.WrongState})
			if m.state != abi.StatePaused {
				return
			}
			m.state = abi.StateRunning
			if m.term {
				m.ended(r, 15)
			}
		},
		"kill": func(r *rapid.T) {
			_, err := theKernel.Signal(control.SignalRequest{ID: m.s.id, Signal: 9})
			m.check(r, "kill", err, whenEnded)
			if m.state == abi.StateRunning || m.state == abi.StatePaused {
				m.ended(r, 9)
			}
		},
		"terminate": func(r *rapid.T) {
			_, err := theKernel.Signal(control.SignalRequest{ID: m.s.id, Signal: 15})
			m.check(r, "terminate", err, whenEnded)
			switch m.state {
			case abi.StateRunning:
				m.ended(r, 15)
			case abi.StatePaused:
				m.term = true
			}
		},
		"exec": func(r *rapid.T) {
			x, err := m.s.tryExec([]string{"sleep", "1000"})
			m.check(r, "exec", err, whenNotAlive)
			if err == nil {
				m.execs = append(m.execs, x)
			}
		},
		"exec true": func(r *rapid.T) {
			x, err := m.s.tryExec([]string{"true"})
			m.check(r, "exec", err, whenNotAlive)
			if err == nil {
				if exit := x.wait(); exit != (control.Exit{}) {
					r.Fatalf("true ends with %+v", exit)
				}
			}
		},
		"kill exec": func(r *rapid.T) {
			if len(m.execs) == 0 {
				r.Skip("nothing runs")
			}
			x := m.execs[0]
			x.signal(9)
			if exit := x.wait(); exit.Signal != 9 {
				r.Fatalf("a further process ends with %+v", exit)
			}
			m.execs = m.execs[1:]
		},
		"attach": func(r *rapid.T) {
			x, err := m.s.attach(false)
			m.check(r, "attach", err, whenEnded)
			if err == nil {
				x.stream.Close()
			}
		},
		"forget": func(r *rapid.T) {
			_, err := theKernel.Forget(id)
			m.check(r, "forget", err, map[abi.State]errdefs.Code{abi.StateRunning: errdefs.AgentRunning, abi.StatePaused: errdefs.AgentRunning})
			if m.state == abi.StateExited {
				m.state = ""
			}
		},
		"": func(r *rapid.T) { // After each.
			st, err := theKernel.Inspect(id)
			m.check(r, "inspect", err, nil)
			if err != nil {
				return
			}
			if st.State != string(m.state) || (st.Exit != nil) != (m.state == abi.StateExited) {
				r.Fatalf("it is %+v, want %q", st, m.state)
			}
			if n := 1 + len(m.execs); m.state != abi.StateExited && (int(st.Tasks) != n || len(st.Processes) != n) {
				r.Fatalf("it has %d tasks and %d processes, want %d", st.Tasks, len(st.Processes), n)
			}
		},
	}
}

func TestAgentKeepsItsModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &model{t: t, s: spawn(t, []string{"sleep", "1000"}, detached), state: abi.StateRunning}
		defer func() {
			if m.state == abi.StateRunning || m.state == abi.StatePaused {
				theKernel.Signal(control.SignalRequest{ID: m.s.id, Signal: 9})
			}
		}()
		r.Repeat(m.actions())
	})
}

// TestManyHandsOnFewAgents has eight clients do things at random to the same
// agents. Every refusal is one that the state of an agent explains, and in the
// end nothing is left.
func TestManyHandsOnFewAgents(t *testing.T) {
	before := consumed(t)
	const hands, slots = 8, 6
	duration := max(1500*time.Millisecond, soak(t)/10)
	var mu sync.Mutex
	agents := make([]*spawned, slots)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	allowed := map[errdefs.Code]bool{
		"": true, errdefs.AgentNotFound: true, errdefs.AgentNotRunning: true, errdefs.WrongState: true, errdefs.AgentRunning: true,
	}
	scripts := []string{
		"sleep 1000",
		"while :; do (true) & wait; done",
		"while :; do echo output; done",
		"sleep 0.05",
		"sh -c 'sleep 1000 & sleep 1000' & sh -c '(sleep 1000 &); sleep 0.1'; exit 3",
	}
	t.Run("", func(t *testing.T) {
		var wg sync.WaitGroup
		for h := range uint64(hands) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, h))
				for end := time.Now().Add(duration); time.Now().Before(end); {
					slot := rng.IntN(slots)
					mu.Lock()
					s := agents[slot]
					mu.Unlock()
					if s == nil || rng.IntN(12) == 0 {
						fresh, err := trySpawn(t, sh(scripts[rng.IntN(len(scripts))]), detached, tasks(64))
						if err != nil {
							t.Errorf("spawn: %v", err)
							return
						}
						mu.Lock()
						agents[slot] = fresh
						mu.Unlock()
						if s != nil {
							theKernel.Signal(control.SignalRequest{ID: s.id, Signal: 9})
						}
						continue
					}
					id := control.AgentRequest{ID: s.id}
					var err error
					op := rng.IntN(10)
					switch op {
					case 0, 1:
						_, err = theKernel.Pause(id)
					case 2, 3:
						_, err = theKernel.Resume(id)
					case 4:
						_, err = theKernel.Signal(control.SignalRequest{ID: s.id, Signal: []int32{9, 15, 10, 18}[rng.IntN(4)], All: rng.IntN(2) == 0})
					case 5:
						_, err = s.tryExec(sh("echo from exec; (true) & exit 1"))
					case 6:
						_, err = s.tryExec([]string{"sleep", "1000"})
					case 7:
						var x *spawned
						if x, err = s.attach(rng.IntN(2) == 0); err == nil && rng.IntN(2) == 0 {
							x.stream.Close()
						}
					case 8:
						_, err = theKernel.Inspect(id)
					case 9:
						if rng.IntN(3) == 0 {
							_, err = theKernel.Forget(id)
						} else {
							_, err = theKernel.List(struct{}{})
						}
					}
					if !allowed[errdefs.CodeOf(err)] {
						t.Errorf("operation %d: %v (%s)", op, err, errdefs.CodeOf(err))
					}
				}
			})
		}
		wg.Wait()
	})
	backTo(t, before)
}
