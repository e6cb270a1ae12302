package platform

import (
	"fmt"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// raiser is a platform whose Switch raises what it is told to.
type raiser struct {
	recorder
	info  linux.SignalInfo
	at    hostarch.AccessType
	cause any // to panic with
}

func (r *raiser) NewContext(context.Context) gvplatform.Context { return r }
func (r *raiser) Switch(context.Context, gvplatform.MemoryManager, *arch.Context64, int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	if r.cause != nil {
		panic(r.cause)
	}
	return &r.info, r.at, gvplatform.ErrContextSignal
}

func TestExceptionsReachTheirHooks(t *testing.T) {
	task := context.Background()
	for _, tc := range []struct {
		name    string
		sig     linux.Signal
		at      hostarch.AccessType
		answer  FaultAnswer
		handled bool
		want    []string // hooks, in order
		err     error
	}{
		{"a page fault that is resolved", linux.SIGSEGV, hostarch.Read, FaultUnseen, false, []string{"fault"}, gvplatform.ErrContextSignal},
		{"a page fault that is not", linux.SIGSEGV, hostarch.Write, FaultUnseen, false, []string{"fault", "settled false false"}, gvplatform.ErrContextSignal},
		{"a page fault that is known to be real", linux.SIGSEGV, hostarch.Write, FaultReal, false, []string{"fault", "settled true false"}, gvplatform.ErrContextSignal},
		{"a page fault that a hook handles", linux.SIGSEGV, hostarch.Write, FaultHandled, false, []string{"fault"}, gvplatform.ErrContextInterrupt},
		{"an instruction", linux.SIGILL, hostarch.NoAccess, 0, false, []string{"trap", "settled true false"}, gvplatform.ErrContextSignal},
		{"a breakpoint of a debugger", linux.SIGTRAP, hostarch.NoAccess, 0, true, []string{"trap"}, gvplatform.ErrContextInterrupt},
		{"an interrupt", linux.SIGCHLD, hostarch.NoAccess, 0, false, nil, gvplatform.ErrContextSignal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inner := &raiser{info: linux.SignalInfo{Signo: int32(tc.sig)}, at: tc.at}
			crowd := alone(2)
			var got []string
			c := Wrap(inner, Hooks{
				FirstSwitch: func(context.Context) *Crowd { return crowd },
				Fault: func(context.Context, *arch.Context64, *linux.SignalInfo, hostarch.AccessType) FaultAnswer {
					got = append(got, "fault")
					return tc.answer
				},
				Trap: func(context.Context, *arch.Context64, *linux.SignalInfo) bool {
					got = append(got, "trap")
					return tc.handled
				},
				Settled: func(of context.Context, e *Exception, exits bool) {
					if of != task || e.Info.Signo != int32(tc.sig) || e.Access != tc.at {
						t.Errorf("settled %+v of %v", e, of)
					}
					got = append(got, fmt.Sprint("settled ", e.Known, " ", exits))
				},
			}).NewContext(nil)
			ac := &arch.Context64{}
			ac.SetIP(0x1000)
			info, at, err := c.Switch(task, nil, ac, -1)
			if err != tc.err || (err == gvplatform.ErrContextSignal) != (info != nil) || err != gvplatform.ErrContextSignal && at.Any() {
				t.Errorf("Switch returned %v, %v, %v", info, at, err)
			}
			settled := len(tc.want) > 1
			if settled {
				ac.SetIP(0x2000) // The kernel has entered a handler.
			}
			inner.info.Signo, inner.at = int32(linux.SIGCHLD), hostarch.NoAccess
			c.Switch(task, nil, ac, -1)
			c.Switch(task, nil, ac, -1)
			c.PrepareExit()
			if !slices.Equal(got, tc.want) {
				t.Errorf("hooks %q, want %q", got, tc.want)
			}
		})
	}
}

func TestExitSettlesAnException(t *testing.T) {
	inner := &raiser{info: linux.SignalInfo{Signo: int32(linux.SIGFPE)}}
	crowd := alone(2)
	var exits []bool
	c := Wrap(inner, Hooks{
		FirstSwitch: func(context.Context) *Crowd { return crowd },
		Settled:     func(_ context.Context, _ *Exception, exit bool) { exits = append(exits, exit) },
	}).NewContext(nil)
	c.Switch(context.Background(), nil, &arch.Context64{}, -1)
	c.PrepareExit()
	c.Release()
	if !slices.Equal(exits, []bool{true}) {
		t.Errorf("settled %v, want once, by the exit", exits)
	}
}

func TestPanicInSwitchIsContained(t *testing.T) {
	inner := &raiser{cause: "a bug"}
	crowd := alone(2)
	var cause any
	c := Wrap(inner, Hooks{
		FirstSwitch: func(context.Context) *Crowd { return crowd },
		Panicked:    func(_ context.Context, what any) { cause = what },
	}).NewContext(nil)
	info, at, err := c.Switch(context.Background(), nil, &arch.Context64{}, -1)
	if cause != "a bug" || info != nil || at.Any() || err != gvplatform.ErrContextInterrupt {
		t.Errorf("Switch returned %v, %v, %v; the hook heard of %v", info, at, err, cause)
	}
}

func exceptionHooks(crowd *Crowd, settled *int) Hooks {
	return Hooks{
		FirstSwitch: func(context.Context) *Crowd { return crowd },
		Fault: func(context.Context, *arch.Context64, *linux.SignalInfo, hostarch.AccessType) FaultAnswer {
			return FaultUnseen
		},
		Trap:     func(context.Context, *arch.Context64, *linux.SignalInfo) bool { return false },
		Settled:  func(context.Context, *Exception, bool) { *settled++ },
		Panicked: func(context.Context, any) {},
	}
}

func TestExceptionsAllocateNothing(t *testing.T) {
	crowd, settled := alone(2), 0
	inner := &raiser{info: linux.SignalInfo{Signo: int32(linux.SIGSEGV)}, at: hostarch.Read}
	c := Wrap(inner, exceptionHooks(crowd, &settled)).NewContext(nil)
	task, ac := context.Background(), &arch.Context64{}
	ip := uintptr(0)
	if n := testing.AllocsPerRun(1000, func() { ip++; ac.SetIP(ip); c.Switch(task, nil, ac, -1) }); n != 0 || settled < 1000 {
		t.Errorf("a fault allocates %v times, %d were settled", n, settled)
	}
}

func BenchmarkFault(b *testing.B) {
	crowd, settled := alone(2), 0
	inner := &raiser{info: linux.SignalInfo{Signo: int32(linux.SIGSEGV)}, at: hostarch.Read}
	task, ac := context.Background(), &arch.Context64{}
	for name, hooks := range map[string]Hooks{
		"without hooks": {FirstSwitch: func(context.Context) *Crowd { return crowd }},
		"with hooks":    exceptionHooks(crowd, &settled),
	} {
		c := Wrap(inner, hooks).NewContext(nil)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.Switch(task, nil, ac, -1)
			}
		})
	}
}
