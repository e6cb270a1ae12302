package platform

import (
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// noRegisters is what tasks of tests have instead of registers.
var noRegisters = &arch.Context64{}

// recorder is an inner platform and context that writes down what reaches it,
// in the same list as the hooks do. Any other method would be a nil call.
type recorder struct {
	gvplatform.Platform
	gvplatform.Context
	calls []string
}

func (r *recorder) note(s string) {
	if r.calls != nil {
		r.calls = append(r.calls, s)
	}
}

func (r *recorder) NewContext(context.Context) gvplatform.Context { return r }
func (r *recorder) PrepareExit()                                  { r.note("PrepareExit") }
func (r *recorder) PrepareSleep()                                 { r.note("PrepareSleep") }
func (r *recorder) Interrupt()                                    { r.note("Interrupt") }
func (r *recorder) Release()                                      { r.note("Release") }

func (r *recorder) Switch(context.Context, gvplatform.MemoryManager, *arch.Context64, int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	r.note("Switch")
	return nil, hostarch.Read, gvplatform.ErrContextInterrupt
}

func TestHooksSeeEachTaskOnce(t *testing.T) {
	task := context.Background()
	for _, tc := range []struct {
		name string
		run  func(gvplatform.Context)
		want []string
	}{
		{"runs and exits", func(c gvplatform.Context) {
			c.Switch(task, nil, noRegisters, -1)
			c.PrepareSleep()
			c.Switch(task, nil, noRegisters, -1)
			c.PrepareExit()
			c.Release()
		}, []string{"first", "Switch", "PrepareSleep", "Switch", "exit", "PrepareExit", "Release"}},
		{"never runs", func(c gvplatform.Context) {
			c.Interrupt()
			c.PrepareExit()
			c.Release()
		}, []string{"Interrupt", "PrepareExit", "Release"}},
		{"released without exit", func(c gvplatform.Context) {
			c.Switch(task, nil, noRegisters, -1)
			c.Release()
			c.Release()
		}, []string{"first", "Switch", "exit", "Release", "Release"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inner := &recorder{calls: []string{}}
			note := func(s string) func(context.Context) {
				return func(got context.Context) {
					if got != task {
						t.Errorf("hook %s got %v, not the task", s, got)
					}
					inner.note(s)
				}
			}
			first := func(task context.Context) *Crowd { note("first")(task); return nil }
			p := Wrap(inner, Hooks{FirstSwitch: first, Exit: note("exit")})
			tc.run(p.NewContext(task))
			if !slices.Equal(inner.calls, tc.want) {
				t.Errorf("calls %v, want %v", inner.calls, tc.want)
			}
		})
	}
}

// caller is a platform whose Switch returns what it is told to.
type caller struct {
	recorder
	info *linux.SignalInfo
	err  error
}

func (c *caller) NewContext(context.Context) gvplatform.Context { return c }
func (c *caller) Switch(context.Context, gvplatform.MemoryManager, *arch.Context64, int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	return c.info, hostarch.NoAccess, c.err
}

func TestCallsAreWatchedOnRequest(t *testing.T) {
	inner := &caller{}
	crowd := alone(2)
	state, calls := &arch.Context64{}, 0
	c := Wrap(inner, Hooks{
		FirstSwitch: func(context.Context) *Crowd { return crowd },
		Call: func(_ context.Context, ac *arch.Context64) {
			if ac != state {
				t.Error("the hook got another task's registers")
			}
			calls++
		},
	}).NewContext(nil)
	task := context.Background()
	c.Switch(task, nil, state, -1)
	if calls != 0 {
		t.Error("a call was told that nobody watches")
	}
	crowd.WatchCalls()
	c.Switch(task, nil, state, -1)
	if calls != 1 {
		t.Errorf("%d calls were told, want 1", calls)
	}
	inner.info = &linux.SignalInfo{} // As kvm has it beside a call.
	c.Switch(task, nil, state, -1)
	if calls != 2 {
		t.Errorf("%d calls were told, want 2", calls)
	}
	inner.err = gvplatform.ErrContextSignal
	c.Switch(task, nil, state, -1)
	inner.info, inner.err = nil, gvplatform.ErrContextInterrupt
	c.Switch(task, nil, state, -1)
	if calls != 2 {
		t.Error("a signal or an interrupt was told as a call")
	}
}

func TestSwitchPassesResultsThrough(t *testing.T) {
	p := Wrap(&recorder{}, Hooks{})
	if _, at, err := p.NewContext(nil).Switch(context.Background(), nil, noRegisters, -1); err != gvplatform.ErrContextInterrupt || at != hostarch.Read {
		t.Errorf("Switch returned %v, %v", at, err)
	}
}

func TestSwitchAllocatesNothing(t *testing.T) {
	limited := alone(2)
	setQuota(limited, 1000)
	crowd := alone(2)
	for name, hooks := range map[string]Hooks{
		"no hooks": {},
		"hooks":    {FirstSwitch: func(context.Context) *Crowd { return nil }, Exit: func(context.Context) {}},
		"crowd":    {FirstSwitch: func(context.Context) *Crowd { return crowd }},
		"quota":    {FirstSwitch: func(context.Context) *Crowd { return limited }},
	} {
		c := Wrap(&recorder{}, hooks).NewContext(nil)
		task := context.Background()
		if n := testing.AllocsPerRun(1000, func() { c.Switch(task, nil, noRegisters, -1) }); n != 0 {
			t.Errorf("%s: Switch allocates %v times", name, n)
		}
		if n := testing.AllocsPerRun(1000, func() { c.Switch(task, nil, noRegisters, -1); c.PrepareExit(); c.Release() }); n != 0 {
			t.Errorf("%s: a task's life allocates %v times", name, n)
		}
	}
}

func BenchmarkSwitch(b *testing.B) {
	inner := &recorder{}
	task := context.Background()
	for name, c := range map[string]gvplatform.Context{
		"bare":      inner,
		"decorated": Wrap(inner, Hooks{}).NewContext(nil),
		"in a crowd": Wrap(inner, Hooks{FirstSwitch: func(context.Context) *Crowd {
			return alone(2)
		}}).NewContext(nil),
		"with a quota": Wrap(inner, Hooks{FirstSwitch: func(context.Context) *Crowd {
			g := alone(2)
			setQuota(g, 2000)
			return g
		}}).NewContext(nil),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Switch(task, nil, noRegisters, -1)
			}
		})
	}
}
