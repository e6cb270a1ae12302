package aios

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/ctlfs/command"
)

// fakeCtl records what is written and answers.
type fakeCtl struct {
	lines  []string
	answer string
	err    error
	reader io.Reader
}

func (f *fakeCtl) Write(p []byte) (int, error) {
	f.lines = append(f.lines, string(p))
	f.reader = strings.NewReader(f.answer)
	if f.err != nil {
		return 0, f.err
	}
	return len(p), nil
}

func (f *fakeCtl) Read(p []byte) (int, error) { return f.reader.Read(p) }
func (f *fakeCtl) Close() error               { return nil }

func useCtl(t *testing.T) *fakeCtl {
	f := &fakeCtl{answer: "ok 5 c0123456789ab fs:/data:ro\n"}
	old := dial
	dial = func() (io.ReadWriteCloser, error) { return f, nil }
	t.Cleanup(func() { dial = old })
	return f
}

func useFiles(t *testing.T, files map[string]string) {
	old := root
	root = t.TempDir()
	t.Cleanup(func() { root = old })
	if err := os.Mkdir(filepath.Join(root, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, "self", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRightsAreThoseOfTheKernel(t *testing.T) {
	want := make(map[string][]string)
	for _, c := range abi.Classes() {
		want[c.Name] = c.Rights
	}
	if !reflect.DeepEqual(rights, want) {
		t.Errorf("the package knows %v, the kernel %v", rights, want)
	}
}

// What the kernel writes is read back, whatever the grant says.
func TestParseReadsWhatTheKernelWrites(t *testing.T) {
	s := capability.NewSpace(capability.Options{})
	defer s.Close()
	for _, h := range []string{"a000000000001", "a000000000002"} {
		if err := s.AddHolder(h); err != nil {
			t.Fatal(err)
		}
	}
	op := capability.Actor{Name: "operator", Privileged: true}
	for _, text := range []string{
		"fs:/my%20data/a%2Cb%3Ac:ro,at=/x%2C%25", "fs:/work:rw,quota=1G,inodes=10000,lease=1h,badge=7,sealed", "fs:/%FF:read+delete",
		"net:loopback:connect", "mem:self,bytes=256M", "cpu:self,cpu=0.5,weight=200", "proc:self:spawn+exec,count=64", "io:self,bps=10M,ops=100",
		"agent:*:pause", "sys:namespace", "event:agent.*@self", "svc:*",
	} {
		spec, err := capability.ParseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Mint("a000000000001", spec, op)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(command.Line(c, "a000000000001"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got.Handle != uint64(c.Handle()) || got.ID != string(c.ID()) || got.Class != spec.Object.Class.String() || got.Object != c.Object().Name ||
			strings.Join(got.Rights, "+") != spec.Rights.Format(spec.Object.Class) || got.At != spec.At || got.Badge != spec.Badge ||
			got.Sealed != spec.Sealed || got.Leased != (spec.Lease != 0) || got.Holder != "" || got.Grant != c.Spec().String() {
			t.Errorf("%s is read as %+v", text, *got)
		}
	}
	root := s.List("a000000000001")[0]
	d, err := s.Delegate(root, "a000000000002", capability.Change{}, false, op)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(command.Line(d, "a000000000001")); err != nil || got.Holder != "a000000000002" || got.Parent != string(root.ID()) {
		t.Errorf("a delegated one is read as %+v, %v", got, err)
	}
	if got, err := Parse("1 c0 fs:/:rw expires=1m30s rest=bytes:5,count:6"); err != nil || !got.Leased || got.Expires != 90*time.Second || got.Rest["bytes"] != 5 || got.Rest["count"] != 6 {
		t.Errorf("extras are read as %+v, %v", got, err)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "1 c0", "x c0 fs:/:ro", "-1 c0 fs:/:ro", "1 c0 fs", "1 c0 fs:/:ro:x", "1 c0 fs:%zz:ro", "1 c0 fs:/:ro,badge=x", "1 c0 fs:/:ro,at=%",
		"1 c0 fs:/:ro expires", "1 c0 fs:/:ro expires=soon", "1 c0 fs:/:ro rest=bytes", "1 c0 fs:/:ro rest=bytes:x",
	} {
		if c, err := Parse(line); err == nil {
			t.Errorf("%q is read as %+v", line, *c)
		}
	}
}

// Every line that the package writes is a command that the kernel knows, and
// names survive the way.
func TestLines(t *testing.T) {
	f := useCtl(t)
	own := &Capability{Handle: 3, ID: "c0123456789ab"}
	given := &Capability{Handle: 7, ID: "c0123456789ac", Holder: "a0123456789ab"}
	const odd = "/my data/a,b:c=d%e\xff"
	for _, do := range []func() error{
		func() error {
			_, err := own.Delegate("worker", Object(odd), Rights("read", "exec"), Lease(90*time.Second), Limit("quota", "1M"), At("/x y"), Badge(7), Sealed())
			return err
		},
		func() error { _, err := own.Move("worker"); return err },
		func() error { _, err := own.Attenuate(Rights("ro")); return err },
		func() error { _, err := own.Seal(); return err },
		func() error { _, err := given.Renew(time.Minute); return err },
		func() error { return own.Signal("TERM", "") },
		func() error { return own.Pause("w") },
		func() error { return own.Resume("w") },
	} {
		if err := do(); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"delegate 3 to=worker object=/my%20data/a%2Cb%3Ac%3Dd%25e%FF rights=read+exec lease=1m30s quota=1M at=/x%20y badge=7 sealed",
		"move 3 to=worker", "attenuate 3 rights=ro", "seal 3", "renew c0123456789ac lease=1m0s", "signal 3 TERM", "pause 3 agent=w", "resume 3 agent=w",
	}
	if !slices.Equal(f.lines, want) {
		t.Fatalf("wrote\n%s\nwant\n%s", strings.Join(f.lines, "\n"), strings.Join(want, "\n"))
	}
	for _, line := range f.lines {
		if _, err := command.Parse(line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	cmd, err := command.Parse(f.lines[0])
	if err != nil {
		t.Fatal(err)
	}
	change, err := cmd.Change(capability.Spec{Object: capability.Object{Class: abi.ClassFS, Name: "/"}, Rights: abi.ClassFS.All()})
	if err != nil || *change.Object != odd || *change.At != "/x y" || *change.Lease != 90*time.Second || !change.Sealed {
		t.Errorf("the kernel understands %+v, %v", change, err)
	}
}

func TestCounts(t *testing.T) {
	f := useCtl(t)
	f.answer = "ok revoked=3\n"
	own, given := &Capability{Handle: 3}, &Capability{ID: "c0123456789ac", Holder: "other/a0123456789ab"}
	if n, err := own.Revoke(); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := given.RevokeChildren(); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if want := []string{"revoke 3", "revoke-children c0123456789ac"}; !slices.Equal(f.lines, want) {
		t.Errorf("wrote %q", f.lines)
	}
	f.answer = "ok refused\nno grant\ncovers it\n"
	if e, err := Explain("open /etc/shadow"); err != nil || e.Allowed || e.Why != "no grant\ncovers it" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestWhatIsNotSent(t *testing.T) {
	f := useCtl(t)
	own, given := &Capability{Handle: 3}, &Capability{Handle: 7, Holder: "a0123456789ab"}
	for what, err := range map[string]error{
		"a foreign one is sealed":   func() error { _, err := given.Seal(); return err }(),
		"a foreign one is passed":   func() error { _, err := given.Delegate("x"); return err }(),
		"two words as a name":       func() error { _, err := own.Delegate("x rights=rw"); return err }(),
		"a second line":             func() error { _, err := own.Attenuate(Limit("quota", "1M\nrevoke 1")); return err }(),
		"a blank that is not ASCII": func() error { _, err := own.Attenuate(Limit("quota", "1M\u00a0x")); return err }(),
		"a signal of two words":     own.Signal("TERM agent=x", ""),
	} {
		if err == nil {
			t.Errorf("%s: sent", what)
		}
	}
	if len(f.lines) != 0 {
		t.Errorf("wrote %q", f.lines)
	}
}

func TestRefusal(t *testing.T) {
	f := useCtl(t)
	f.err = &os.PathError{Op: "write", Path: "/aios/ctl", Err: syscall.EPERM}
	f.answer = "error RIGHTS_EXCEED: it lacks write\nfix: ask for less\n"
	_, err := (&Capability{Handle: 3}).Attenuate(Rights("rw"))
	var e *Error
	if !errors.As(err, &e) || e.Code != string(errdefs.RightsExceed) || e.Message != "it lacks write" || e.Fix != "ask for less" || !errors.Is(err, syscall.EPERM) {
		t.Errorf("the error is %#v", err)
	}
	f.answer = ""
	if _, err := Command("list"); !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "/aios/ctl") {
		t.Errorf("without an answer, the error is %v", err)
	}
}

func TestFiles(t *testing.T) {
	useFiles(t, map[string]string{
		"id": "a0123456789ab\n", "name": "worker\n", "domain": "default\n",
		"caps":   "1 c0123456789ab fs:/data:ro\n3 c0123456789ad mem:self,bytes=256M\n",
		"tree":   "1 c0123456789ab fs:/data:ro\n 1 c0123456789af fs:/data:read holder=a0123456789ac parent=c0123456789ab\n",
		"limits": "mem bytes=268435456\nagent\n", "stats": `{"memory":{"now":5}}`,
	})
	if self, err := Self(); err != nil || self != (Identity{"a0123456789ab", "worker", "default"}) {
		t.Errorf("%+v, %v", self, err)
	}
	if caps, err := Caps(); err != nil || len(caps) != 2 || caps[1].Limits["bytes"] != "256M" {
		t.Errorf("%+v, %v", caps, err)
	}
	if tree, err := Tree(); err != nil || len(tree) != 2 || tree[0].Depth != 0 || tree[1].Depth != 1 || tree[1].Holder != "a0123456789ac" {
		t.Errorf("%+v, %v", tree, err)
	}
	if limits, err := Limits(); err != nil || limits["mem"]["bytes"] != 268435456 || limits["agent"] == nil || len(limits) != 2 {
		t.Errorf("%v, %v", limits, err)
	}
	var stats struct{ Memory struct{ Now int } }
	if err := Stats(&stats); err != nil || stats.Memory.Now != 5 {
		t.Errorf("%+v, %v", stats, err)
	}
	for want, call := range map[string]func() error{
		"1m30s": func() error { return Arm(90 * time.Second) }, "feed": Feed, "off": Disarm,
	} {
		if err := os.WriteFile(filepath.Join(root, "self", "watchdog"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		err := call()
		if got, _ := os.ReadFile(filepath.Join(root, "self", "watchdog")); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "self", "hint"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Hint("batch")
	if got, _ := os.ReadFile(filepath.Join(root, "self", "hint")); err != nil || string(got) != "batch" {
		t.Errorf("hint: %q, %v", got, err)
	}
	root = filepath.Join(root, "missing")
	var e *Error
	if _, err := Caps(); !errors.As(err, &e) || !errors.Is(err, syscall.ENOENT) || e.Fix == "" {
		t.Errorf("outside of an agent: %v", err)
	}
	if _, err := Command("list"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("outside of an agent: %v", err)
	}
}
