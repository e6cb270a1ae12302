package klog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

func testRing() *Ring { return NewRing(make([]byte, RingSize), "test", 1) }

// contents reads g as another process would.
func contents(t testing.TB, g *Ring) []Record {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	c, err := Read(bytes.NewReader(g.mem))
	if err != nil {
		t.Fatal(err)
	}
	return c.Records
}

func testLog(clock ktime.Clock) (*Log, *Ring, *bytes.Buffer) {
	g, out := testRing(), new(bytes.Buffer)
	return New(Config{Clock: clock, Ring: g, Out: out, OutLevel: slog.LevelDebug}), g, out
}

func TestLevelsNest(t *testing.T) {
	l, g, _ := testLog(ktime.NewFake(time.Unix(1, 0)))
	parent, child, other := l.Subsystem("daemon"), l.Subsystem("daemon/images"), l.Subsystem("irq")
	all := []*slog.Logger{parent, child, other}
	enabled := func(level slog.Level) (out [3]bool) {
		for i, s := range all {
			out[i] = s.Enabled(context.Background(), level)
		}
		return out
	}
	for _, step := range []struct {
		set   string
		level slog.Level
		debug [3]bool
	}{
		{"daemon", slog.LevelDebug, [3]bool{true, true, false}},
		{"daemon/images", slog.LevelError, [3]bool{true, false, false}},
		{"daemon", slog.LevelWarn, [3]bool{}},
		{"*", slog.LevelDebug, [3]bool{true, true, true}},
		{"daemon/images", slog.LevelInfo, [3]bool{true, false, true}},
	} {
		if err := l.SetLevel(step.set, step.level); err != nil {
			t.Fatal(err)
		}
		if got := enabled(slog.LevelDebug); got != step.debug {
			t.Errorf("after %s=%v, debug is %v, want %v", step.set, step.level, got, step.debug)
		}
	}
	if err := l.SetLevel("nosuch", 0); errdefs.CodeOf(err) != errdefs.NotFound || !strings.Contains(errdefs.FixOf(err), "daemon/images") {
		t.Errorf("a subsystem that does not exist: %v", err)
	}
	if l.SetLevel("*", slog.LevelInfo); l.Subsystem("daemon/late").Enabled(context.Background(), slog.LevelDebug) {
		t.Error("a later subsystem has an older level")
	}
	parent.Debug("no")
	parent.Info("yes")
	if rs := contents(t, g); len(rs) != 1 || rs[0].Message != "yes" || rs[0].Subsystem != "daemon" {
		t.Errorf("kept %+v", rs)
	}
}

func TestRates(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1, 0))
	l, g, _ := testLog(clock)
	s := l.Subsystem("noisy")
	say := func(times int) { // One place, also where the compiler inlines.
		for range times {
			s.Warn("again")
		}
	}
	places := []func(int){say}
	places[0](1000)
	if n := len(contents(t, g)); n != siteBurst {
		t.Errorf("%d records of one place at once, want %d", n, siteBurst)
	}
	s.Warn("another place")
	for range 5 { // A critical one is never left out.
		s.Log(context.Background(), LevelCritical, "bad")
	}
	clock.Advance(time.Second)
	places[0](1)
	rs := contents(t, g)
	last := rs[len(rs)-1]
	if len(rs) != siteBurst+7 || last.Suppressed != 1000-siteBurst {
		t.Errorf("%d records, the last tells of %d suppressed; want %d and %d", len(rs), last.Suppressed, siteBurst+7, 1000-siteBurst)
	}
	if st := l.Subsystems()[0]; st.Suppressed != 1000-siteBurst || st.Written != siteBurst+7 {
		t.Errorf("counted %+v", st)
	}
}

// The subsystem's own limit bites where many places log.
func TestRateOfSubsystem(t *testing.T) {
	l, g, _ := testLog(ktime.NewFake(time.Unix(1, 0)))
	p := l.Printer("library", nil)
	for pc := range uintptr(3 * subsystemBurst) {
		p.PrintAt(pc<<8, slog.LevelInfo, "x")
	}
	if n := len(contents(t, g)); n != subsystemBurst {
		t.Errorf("%d records at once, want %d", n, subsystemBurst)
	}
}

type leaky struct {
	Name     string
	Password string
	Nested   map[string]any
	Env      []string
}

type stringer string

func (s stringer) String() string { return "token=" + string(s) }

type panics struct{}

func (panics) String() string { panic("password=" + secretText) }

// secretText is what must be found nowhere.
const secretText = "hunter2SECRETvalue"

const (
	bearer  = "aios1.EgQKAggBdGhpcyBpcyBhIHNlY3JldA"
	jwt     = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.c2lnbmF0dXJl"
	private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGh1bnRlcjI=\n-----END PRIVATE KEY-----"
)

// Known secrets are pushed through every way in; nothing that comes out, at
// any of the doors, holds one.
func TestSecretsAreNeverLogged(t *testing.T) {
	l, g, out := testLog(ktime.NewFake(time.Unix(1, 0)))
	var hooked bytes.Buffer
	l.OnRecord(func(r *Record) {
		hooked.Write(r.AppendJSON(nil))
		hooked.Write(r.AppendText(nil))
		fmt.Fprintf(&hooked, "%+v\n", *r)
	})
	s := l.Subsystem("leaky")
	p := l.Printer("library", nil)
	hidden := NewSecret(secretText)
	ways := []func(){
		func() { s.Info("hidden", "value", hidden) },
		func() {
			s.Info(fmt.Sprintf("hidden %v %s %q %+v %#v %d", hidden, hidden, hidden, hidden, hidden, hidden))
		},
		func() { s.Info("hidden", "struct", struct{ S Secret }{hidden}) },
		func() { s.Info("key", "password", secretText) },
		func() {
			s.Info("key", "API_KEY", secretText, "db-passwd", secretText, "authToken", []string{secretText})
		},
		func() { s.Info("key", "client_secret", 12345, "cookie", []byte(secretText)) },
		func() { s.Info("group", slog.Group("http", slog.String("authorization", secretText))) },
		func() { s.Info("group", slog.Group("credentials", slog.String("x", secretText))) },
		func() { s.With("private_key", secretText).Info("with") },
		func() { s.WithGroup("token").Info("group of that name", "token", secretText) },
		func() { s.Info("message with password=" + secretText) },
		func() { s.Info(`json {"token": "` + secretText + `", "a": 1}`) },
		func() { s.Info("Authorization: Bearer " + secretText) },
		func() { s.Info("header", "h", "authorization: Basic "+secretText) },
		func() { s.Info("a token", "shown", bearer) },
		func() { s.Info("a token " + bearer + " in the text") },
		func() { s.Error("failed", "err", errors.New("dial https://user:"+secretText+"@example.org: refused")) },
		func() { s.Error("failed", "err", fmt.Errorf("wrap: %w", errors.New("secret: "+secretText))) },
		func() { s.Info("stringer", "v", stringer(secretText)) },
		func() { s.Info("panics", "v", panics{}) },
		func() {
			s.Info("struct", "v", leaky{"n", secretText, map[string]any{"apikey": secretText, "deep": []any{map[string]any{"token": secretText}}}, []string{"A=" + secretText}})
		},
		func() { s.Info("argv", "argv", []string{"tool", "--token", secretText, "--password=" + secretText}) },
		func() { s.Info("argv", "argv", "tool --api-key "+secretText+" x") },
		func() { s.Info("env", "env", []string{"HOME=/root", "HARMLESS=" + secretText}) },
		func() { s.Info("env", "environ", map[string]string{"HARMLESS": secretText}) },
		func() { s.Info("env", "env", "HARMLESS="+secretText) },
		func() { s.Info("exec", "e", jwt, "k", private) },
		func() { s.Info("exec " + jwt + " " + private) },
		func() {
			p.Printf(0, slog.LevelInfo, "argv: %v envv: %v", []string{"a"}, []string{"HARMLESS=" + secretText, "B=c"})
		},
		func() { p.Printf(0, slog.LevelWarn, "SESSION_TOKEN=%s", secretText) },
		func() { p.Printf(0, slog.LevelWarn, "PASSWORD=%q", "two words "+secretText) },
	}
	for _, way := range ways {
		way()
	}
	rs := contents(t, g)
	if len(rs) != len(ways) {
		t.Fatalf("%d records of %d", len(rs), len(ways))
	}
	g.mu.Lock()
	raw := string(g.mem)
	g.mu.Unlock()
	for door, text := range map[string]string{"ring": raw, "writer": out.String(), "hook": hooked.String()} {
		for _, secret := range []string{secretText, bearer[8:], jwt[21:], "MC4CAQAw"} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("the %s holds a secret: %q", door, text[max(0, i-80):i+len(secret)])
			}
		}
		if !strings.Contains(text, "HOME=") || !strings.Contains(text, "example.org: refused") {
			t.Errorf("the %s lost what is no secret", door)
		}
	}
}

func TestScrubLeavesTheRest(t *testing.T) {
	for _, s := range []string{
		"domain started", "open /var/lib/x: no such file", "author: somebody", "a=b c=d", "http://host:80/path?x=y",
		"tokens in use", "e-mail sk-short", "the bearer is here",
	} {
		if got := Scrub(s); got != s {
			t.Errorf("Scrub(%q) = %q", s, got)
		}
	}
}

func TestForms(t *testing.T) {
	l, g, out := testLog(ktime.NewFake(time.Unix(1e9, 5000)))
	l.Subsystem("irq").With(Agent("a1")).Warn("line\nbroke \x1b[31m", "count", 3, "why", "two words", slog.Group("g", "x", 1.5, "d", time.Second), "bad", "\xff")
	want := `2001-09-09T01:46:40.000005Z warning  irq: line\nbroke \x1b[31m agent=a1 count=3 why="two words" g.x=1.5 g.d=1s bad=�` + "\n"
	if out.String() != want {
		t.Errorf("text\n%q, want\n%q", out.String(), want)
	}
	r := contents(t, g)[0]
	var m struct {
		Seq              uint64
		Level, Agent     string
		Msg, Subsystem   string
		Time             time.Time
		Attrs            map[string]any
		Mono, Suppressed int64
	}
	if err := json.Unmarshal(r.AppendJSON(nil), &m); err != nil {
		t.Fatal(err)
	}
	if m.Seq != 1 || m.Level != "warning" || m.Agent != "a1" || m.Attrs["g.d"] != "1s" || m.Msg != "line\nbroke \x1b[31m" || m.Time.UnixNano() != 1e18+5000 {
		t.Errorf("JSON %+v", m)
	}
}

func TestParseSettings(t *testing.T) {
	got, err := ParseSettings("gvisor=debug,*=Warn")
	if err != nil || len(got) != 2 || got[0] != (Setting{"gvisor", slog.LevelDebug}) || got[1] != (Setting{"*", slog.LevelWarn}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"x", "=debug", "x=loud"} {
		if _, err := ParseSettings(bad); errdefs.CodeOf(err) != errdefs.InvalidArgument || errdefs.FixOf(err) == "" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func BenchmarkDisabled(b *testing.B) {
	s := New(Config{Ring: testRing()}).Subsystem("x")
	ctx, id := context.Background(), strings.Repeat("a", 12)
	b.ReportAllocs()
	for i := range b.N {
		s.LogAttrs(ctx, slog.LevelDebug, "nothing", slog.Int("i", i), slog.String("id", id))
	}
}

func BenchmarkEnabled(b *testing.B) {
	l := New(Config{Ring: testRing()})
	s := l.Subsystem("x")
	ctx := context.Background()
	b.ReportAllocs()
	for i := range b.N {
		s.LogAttrs(ctx, LevelCritical, "something happened", slog.Int("i", i), Agent("0123456789ab"))
	}
}

// A disabled call allocates nothing.
func TestDisabledAllocatesNothing(t *testing.T) {
	s := New(Config{Ring: testRing()}).Subsystem("x")
	ctx, id, n := context.Background(), strings.Repeat("a", 12), 1000
	if got := testing.AllocsPerRun(1000, func() {
		n++
		s.LogAttrs(ctx, slog.LevelDebug, "nothing", slog.Int("i", n), slog.String("id", id))
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
