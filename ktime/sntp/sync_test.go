package sntp

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
	"aios.dev/aios/test/ntpserver"
)

// bench is a Sync, with servers and the clocks of a host and of AIOS.
type bench struct {
	t       *testing.T
	host    *ktime.Fake
	clock   *ktime.Disciplined
	servers []*ntpserver.Server
	sync    *Sync
	// What was told, guarded by mu.
	mu       sync.Mutex
	states   []State
	steps    []time.Duration
	breakers []recovery.BreakerChange
}

// newBench starts so many servers. What they tell is the true time; the host is
// off by -off.
func newBench(t *testing.T, servers int, off time.Duration) *bench {
	b := &bench{t: t, host: ktime.NewFake(time.Unix(1_800_000_000, 0))}
	b.clock = ktime.NewDisciplined(b.host)
	c := Config{}
	c.SetDefaults()
	for range servers {
		s := ntpserver.Start(t, b.host)
		s.Set(ntpserver.Behaviour{Offset: off})
		b.servers = append(b.servers, s)
		c.Servers = append(c.Servers, s.Addr)
	}
	spec, key, err := c.Compile()
	if err != nil {
		t.Fatal(key, err)
	}
	b.sync = newSync(spec, Options{
		Clock: b.clock, Log: slog.New(slog.DiscardHandler),
		OnBreaker: func(c recovery.BreakerChange) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.breakers = append(b.breakers, c)
		},
		OnChange: func(s Status) { b.states = append(b.states, s.State) },
		OnStep:   func(by time.Duration, _ Status) { b.steps = append(b.steps, by) },
	})
	b.sync.patience = 100 * time.Millisecond
	return b
}

// rounds lets so many intervals pass.
func (b *bench) rounds(n int) {
	for range n {
		b.sync.Ask(b.t.Context())
		b.host.Advance(DefaultInterval)
	}
}

// off is by how much AIOS's clock differs from the host's.
func (b *bench) off() time.Duration { return b.clock.Now().Sub(b.host.Now()) }

// same reports whether two durations differ by what a stamp cannot tell.
func same(a, b time.Duration) bool { return max(a-b, b-a) <= near }

func (b *bench) wants(what string, off time.Duration, state State) {
	b.t.Helper()
	if got := b.off(); !same(got, off) {
		b.t.Errorf("%s: AIOS's clock is %v ahead of the host's, not %v", what, got, off)
	}
	if st := b.sync.Status(); st.State != state {
		b.t.Errorf("%s: the time is %v, not %v: %v", what, st.State, state, st.Reason)
	}
}

func TestSyncSteps(t *testing.T) {
	b := newBench(t, 3, 10*time.Minute)
	b.sync.Ask(t.Context())
	b.wants("the first round", 10*time.Minute, Synchronised)
	// A step later on has to be seen three times.
	for _, s := range b.servers {
		s.Set(ntpserver.Behaviour{Offset: 5 * time.Minute})
	}
	b.rounds(2)
	b.wants("two rounds later", 10*time.Minute, Synchronised)
	b.rounds(1)
	b.wants("three rounds later", 5*time.Minute, Synchronised)
	if len(b.steps) != 2 || !same(b.steps[0], 10*time.Minute) || !same(b.steps[1], -5*time.Minute) || b.sync.Status().Steps != 2 {
		t.Errorf("it was stepped by %v", b.steps)
	}
	if !slices.Equal(b.states, []State{Synchronised}) {
		t.Errorf("states were %v", b.states)
	}
}

func TestSyncSlews(t *testing.T) {
	b := newBench(t, 1, 100*time.Millisecond)
	b.sync.Ask(t.Context())
	b.wants("at once", 0, Synchronised)
	b.host.Advance(DefaultInterval)
	b.wants("after an interval", 32*time.Millisecond, Synchronised)
	b.rounds(4)
	b.wants("in the end", 100*time.Millisecond, Synchronised)
	if len(b.steps) != 0 {
		t.Errorf("it was stepped by %v", b.steps)
	}
}

// TestSyncLiar: one of three is wrong, and is seen through.
func TestSyncLiar(t *testing.T) {
	b := newBench(t, 3, time.Second)
	b.servers[1].Set(ntpserver.Behaviour{Offset: -30 * time.Minute})
	b.rounds(3)
	b.wants("with one liar", time.Second, Synchronised)
	var states []string
	for _, s := range b.sync.Status().Servers {
		states = append(states, s.State)
	}
	if !slices.Equal(states, []string{"agrees", "disagrees", "agrees"}) {
		t.Errorf("servers: %v", states)
	}
	// Of two nobody knows who lies. What was followed goes on for a while.
	b.servers[2].Set(ntpserver.Behaviour{Silent: true})
	b.rounds(staleAfter + lostAfter + 1)
	b.wants("with one against one", time.Second, Lost)
	if err := b.sync.Status().Reason; !errors.Is(err, errdefs.TimeUnsure) || !strings.Contains(err.Error(), "of 2 time servers no more than 1 agree") {
		t.Errorf("the reason: %v", err)
	}
	b.servers[2].Set(ntpserver.Behaviour{Offset: time.Second})
	b.rounds(20) // Its breaker may be open.
	b.wants("when the third is back", time.Second, Synchronised)
	if !slices.Equal(b.states, []State{Synchronised, Lost, Synchronised}) {
		t.Errorf("states were %v", b.states)
	}
}

// TestSyncSlow: an answer that was under way for long moves nothing while there
// are better ones.
func TestSyncSlow(t *testing.T) {
	b := newBench(t, 1, 20*time.Millisecond)
	b.rounds(5)
	b.wants("with quick answers", 20*time.Millisecond, Synchronised)
	// The clock of the host does not pass while the server dawdles: to the
	// client it is as if the answer had been 200 ms in the future, and it is as
	// uncertain as the server says.
	b.servers[0].Set(ntpserver.Behaviour{Offset: 120 * time.Millisecond, Dispersion: 200 * time.Millisecond})
	b.rounds(3)
	b.wants("with slow ones", 20*time.Millisecond, Synchronised)
	if j := b.sync.Status().Jitter; j < 10*time.Millisecond || j > 200*time.Millisecond {
		t.Errorf("jitter %v", j)
	}
}

// TestSyncAbsent: nobody answers. The circuit breaker opens, and closes when the
// server is back.
func TestSyncAbsent(t *testing.T) {
	b := newBench(t, 1, time.Second)
	b.rounds(1)
	b.servers[0].Set(ntpserver.Behaviour{Kiss: "RATE", Silent: true})
	b.rounds(3)
	b.wants("soon", time.Second, Synchronised)
	asked := b.servers[0].Asked()
	b.rounds(4)
	b.wants("after a while", time.Second, Lost)
	if n := b.servers[0].Asked() - asked; n > 2 {
		t.Errorf("it was asked %d times while its breaker was open", n)
	}
	st := b.sync.Status()
	if s := st.Servers[0]; s.State != "silent" || !errors.Is(s.Err, errdefs.TimeServer) || s.Failed < 3 || s.Breaker.State == recovery.Closed {
		t.Errorf("the server: %+v", s)
	}
	b.servers[0].Set(ntpserver.Behaviour{Offset: time.Second})
	b.rounds(20)
	b.wants("in the end", time.Second, Synchronised)
	if n := len(b.breakers); n < 2 || b.breakers[0].To != recovery.Open || b.breakers[n-1].To != recovery.Closed {
		t.Errorf("the breaker: %v", b.breakers)
	}
}

// TestSyncKiss: servers that do not want to be asked are not.
func TestSyncKiss(t *testing.T) {
	b := newBench(t, 2, time.Second)
	b.servers[0].Set(ntpserver.Behaviour{Kiss: "DENY"})
	b.servers[1].Set(ntpserver.Behaviour{Kiss: "RATE"})
	b.rounds(16)
	if n := b.servers[0].Asked(); n != 1 {
		t.Errorf("the one that refuses was asked %d times", n)
	}
	// Left out for 1, 2, 4 and 8 rounds.
	if n := b.servers[1].Asked(); n != 4 {
		t.Errorf("the one that wants to be asked less often was asked %d times", n)
	}
	st := b.sync.Status()
	if st.Servers[0].State != "refuses" || st.Servers[1].State != "rests" || st.State != Lost {
		t.Errorf("%v, servers %v and %v", st.State, st.Servers[0].State, st.Servers[1].State)
	}
	if len(b.breakers) != 0 {
		t.Errorf("a breaker opened: %v", b.breakers)
	}
}

// TestSyncDisbelieves what cannot be used, and what is too far off.
func TestSyncDisbelieves(t *testing.T) {
	for what, c := range map[string]struct {
		b    ntpserver.Behaviour
		says string
	}{
		"one that is far off":           {ntpserver.Behaviour{Offset: 2 * time.Hour}, "more than the limit"},
		"one that is not synchronised":  {ntpserver.Behaviour{Unsynchronised: true}, "no time server answers"},
		"one that is too uncertain":     {ntpserver.Behaviour{Dispersion: 3 * time.Second}, "no time server answers"},
		"one that is far from any time": {ntpserver.Behaviour{Stratum: 16}, "no time server answers"},
	} {
		b := newBench(t, 1, 0)
		b.servers[0].Set(c.b)
		b.rounds(2)
		b.wants(what, 0, Lost)
		if err := b.sync.Status().Reason; err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestSyncHostIsSet: when somebody sets the host's clock, AIOS's follows the
// servers, not the host.
func TestSyncHostIsSet(t *testing.T) {
	true_ := ktime.NewFake(time.Unix(1_800_000_000, 0))
	host := ktime.NewJumping(true_)
	clock := ktime.NewDisciplined(host)
	server := ntpserver.Start(t, true_)
	c := Config{}
	c.SetDefaults()
	c.Servers = []string{server.Addr}
	spec, _, err := c.Compile()
	if err != nil {
		t.Fatal(err)
	}
	s := newSync(spec, Options{
		Clock: clock, Log: slog.New(slog.DiscardHandler), OnChange: func(Status) {}, OnStep: func(time.Duration, Status) {},
	})
	s.Ask(t.Context())
	host.Jump(-20 * time.Minute)
	for range stepAfter {
		true_.Advance(DefaultInterval)
		s.Ask(t.Context())
	}
	if off := clock.Now().Sub(true_.Now()); !same(off, 0) {
		t.Errorf("AIOS's clock is off by %v", off)
	}
}

// TestSyncRuns: by itself, and ends.
func TestSyncRuns(t *testing.T) {
	b := newBench(t, 1, time.Second)
	o := b.sync.o
	steered := make(chan struct{}, 1)
	o.OnSteer = func(now, then time.Duration) {
		if same(now, then) && same(now, time.Second) {
			steered <- struct{}{}
		}
	}
	s := Start(b.sync.spec, o)
	<-steered
	s.Stop()
	n := b.servers[0].Asked()
	b.host.Advance(time.Hour)
	if b.servers[0].Asked() != n {
		t.Error("it asks on after its end")
	}
	// Its end does not wait for a server that is silent.
	b.servers[0].Set(ntpserver.Behaviour{Silent: true})
	patient := newSync(b.sync.spec, o)
	patient.patience = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	patient.end = stop
	go patient.run(ctx)
	for deadline := time.Now().Add(20 * time.Second); b.servers[0].Asked() == n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server was not asked")
		}
	}
	patient.Stop()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	before := s.Status()
	s.Ask(gone)
	if after := s.Status(); after.State != before.State || after.Servers[0].Failed != 0 {
		t.Errorf("a round that was cancelled counts: %+v", after)
	}
}

// TestAgree compares with counting at every point.
func TestAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		claims := make([]claim, rapid.IntRange(1, 8).Draw(t, "claims"))
		for i := range claims {
			low := rapid.IntRange(0, 20).Draw(t, "low")
			claims[i] = claim{time.Duration(low), time.Duration(low + rapid.IntRange(0, 10).Draw(t, "width"))}
		}
		most := 0
		at := func(x time.Duration) (n int) {
			for _, c := range claims {
				if c.low <= x && x <= c.high {
					n++
				}
			}
			return n
		}
		for x := time.Duration(0); x <= 30; x++ {
			most = max(most, at(x))
		}
		low, high, count := agree(claims)
		if count != most || at(low) != most || at(high) != most || low > high {
			t.Fatalf("%d agree from %v to %v, not %d", count, low, high, most)
		}
	})
}

func TestConfig(t *testing.T) {
	good := Config{Servers: []string{"ntp.example.com", "192.0.2.1:1123", "[2001:db8::1]:123", "2001:db8::2", "localhost"}}
	good.SetDefaults()
	if _, key, err := good.Compile(); err != nil {
		t.Errorf("%s: %v", key, err)
	}
	for key, change := range map[string][]func(*Config){
		"servers": {
			func(c *Config) { c.Servers = make([]string, MaxServers+1) },
			func(c *Config) { c.Servers = []string{""} },
			func(c *Config) { c.Servers = []string{"a b"} },
			func(c *Config) { c.Servers = []string{"host:0"} },
			func(c *Config) { c.Servers = []string{"host:ntp"} },
			func(c *Config) { c.Servers = []string{"http://host/"} },
			func(c *Config) { c.Servers = []string{"a..b"} },
			func(c *Config) { c.Servers = []string{"a", "a"} },
		},
		"interval": {func(c *Config) { c.Interval = time.Second }, func(c *Config) { c.Interval = 25 * time.Hour }},
		"step":     {func(c *Config) { c.Step = time.Microsecond }, func(c *Config) { c.Step = -1 }},
		"limit":    {func(c *Config) { c.Limit = c.Step - 1 }},
	} {
		for i, f := range change {
			c := good
			f(&c)
			if _, got, err := c.Compile(); got != key || !errors.Is(err, errdefs.InvalidArgument) || errdefs.FixOf(err) == "" {
				t.Errorf("%s %d: %q, %v", key, i, got, err)
			}
		}
	}
	other := good
	other.Servers = other.Servers[:2]
	if (&Spec{good}).Same(&Spec{other}) || !(&Spec{good}).Same(&Spec{good}) {
		t.Error("what is the same is not told from what is not")
	}
}
