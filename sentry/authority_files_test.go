package sentry

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// hold starts the racer so that it holds all that it can of /grant.
func (s *spawned) hold() *spawned {
	s.t.Helper()
	h := s.execIn([]string{"/bin/racer", "hold", "/grant"}, func(p *control.Process) { p.Stdin = true })
	h.expect("holds")
	return h
}

// does has it do something and returns the errno, or the signal made negative.
func (s *spawned) does(what string) int {
	s.t.Helper()
	s.send(what + "\n")
	prefix := what + ": "
	out := s.expect("\n")
	for !strings.HasPrefix(out, prefix) || !strings.HasSuffix(out, "\n") {
		s.t.Fatalf("%s gives %q", what, out)
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(out, prefix)))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestGrantToARunningAgent(t *testing.T) {
	_, key := racerDir(t)
	s := idle(t)
	s.want("ls /grant", "ls: /grant: No such file or directory [1]")
	c := give(t, s.id, "fs:/grant:ro", key)
	s.want("ls /grant; cat /grant/sub/in; /grant/prog yes; echo $?", "f\nl\nprog\nsub\nin sub\n42 [0]")
	s.want("echo x > /grant/new", "sh: can't create /grant/new: Read-only file system [1]")
	s.want("grep -c "+string(c.ID)+" /aios/self/caps", "1 [0]")
	theDaemon.recorded(t, s.id, recordOf(capability.OpMint, c.ID))
	theDaemon.recorded(t, s.id, func(r control.AuditRecord) bool {
		return r.Op == opDenied && strings.HasPrefix(r.Spec, "fs:/grant:") && r.Errno == "EROFS"
	})
	e, err := theKernel.CapExplain(control.ExplainRequest{ID: s.id, Op: "open /grant/f"})
	if err != nil || !e.Allowed || e.Capability != string(c.ID) {
		t.Errorf("%+v, %v", e, err)
	}
	takeBack(t, c.ID)
	e, err = theKernel.CapExplain(control.ExplainRequest{ID: s.id, Op: "open /grant/f"})
	if err != nil || e.Allowed {
		t.Errorf("%+v, %v", e, err)
	}
	theDaemon.recorded(t, s.id, recordOf(capability.OpRevoke, c.ID))

	// All or nothing.
	_, err = theKernel.CapGrant(control.GrantRequest{ID: s.id, Grants: []control.Grant{{Spec: "fs:/grant:ro", Key: key}, {Spec: "fs:/grant2:ro", Key: "nosuch"}}})
	wantCode(t, err, errdefs.NotFound)
	s.want("grep -c fs: /aios/self/caps; grep -c grantfs /proc/mounts", "0\n0 [1]")
	give(t, s.id, "fs:/grant:rw", key) // Once more, at the same place.
	s.want("cat /grant/sub/in", "in sub [0]")
}

// TestRevokeReachesWhatIsOpen revokes under a program that has everything open
// that can be.
func TestRevokeReachesWhatIsOpen(t *testing.T) {
	_, key := racerDir(t)
	s := idle(t)
	c := give(t, s.id, "fs:/grant:rw", key)
	h := s.hold()
	const eacces, sigbus = int(unix.EACCES), -int(unix.SIGBUS)
	after := map[string]int{
		"pread": eacces, "pwrite": eacces, "fstat": eacces, "lseek": eacces, "read": eacces, "write": eacces, "ftruncate": eacces, "fallocate": eacces,
		"getdents": eacces, "openat": eacces, "opencwd": eacces, "statcwd": eacces, "reopen": eacces, "create": eacces, "chdir": eacces, "fchdir": eacces,
		"setlk": eacces, "flock": eacces, "sendfile": eacces, "splice": eacces, "copyfrom": eacces, "map": eacces, "dup": eacces, "dgram": eacces,
		"touch": sigbus, "touchs": sigbus, "touchw": sigbus, "vmread": int(unix.EFAULT), "writefrom": int(unix.EFAULT), "readinto": int(unix.EFAULT),
	}
	for what := range after {
		if got := h.does(what); got != 0 {
			t.Errorf("before, %s gives %d", what, got)
		}
	}
	takeBack(t, c.ID)
	for what, want := range after {
		if got := h.does(what); got != want {
			t.Errorf("%s gives %d, want %d", what, got, want)
		}
	}
	s.want("grep grantfs /proc/mounts; ls /grant; echo", "[0]")
	// What is granted anew at the same place is another thing.
	give(t, s.id, "fs:/grant:rw", key)
	for what, want := range after {
		if got := h.does(what); got != want {
			t.Errorf("after a new grant %s gives %d, want %d", what, got, want)
		}
	}
}

// TestRevokeLetsGo revokes under calls that block.
func TestRevokeLetsGo(t *testing.T) {
	_, key := racerDir(t)
	s, other := idle(t), idle(t)
	c := give(t, s.id, "fs:/grant:rw", key)
	give(t, other.id, "fs:/grant:rw", key)
	owner, h := other.hold(), s.hold()
	owner.send("lock it\n")
	owner.expect("locked 0 0")
	kinds := []string{"flock", "setlkw", "ofdlkw", "inotify", "epoll", "recv"}
	for _, k := range kinds {
		h.send("wait " + k + "\n")
		h.expect("waits\n")
	}
	time.Sleep(20 * time.Millisecond) // They block, or are about to: both must do.
	takeBack(t, c.ID)
	var out string
	for strings.Count(out, "\n") < len(kinds) {
		out += h.expect("\n")
	}
	for _, k := range kinds {
		want := fmt.Sprintf("%s let go: %d\n", k, unix.EACCES)
		if k == "inotify" || k == "epoll" || k == "recv" {
			want = k + " let go: 0\n"
		}
		if !strings.Contains(out, want) {
			t.Errorf("want %q in %q", want, out)
		}
	}
}

// TestRevokeEndsPrograms revokes what a program was executed from, and where
// shells and their children have their working directory.
func TestRevokeEndsPrograms(t *testing.T) {
	_, key := racerDir(t)
	s := idle(t)
	c := give(t, s.id, "fs:/grant:rw", key)
	prog := s.execIn([]string{"/grant/prog", "hold", "/grant"}, func(p *control.Process) { p.Stdin = true })
	prog.expect("holds")
	shell := s.execIn(sh("cd /grant/sub; echo there; read x; cat in; ls .; pwd; (cat in); echo x > y; sh -c 'cat < ../f'; exit 7"), func(p *control.Process) { p.Stdin = true })
	shell.expect("there")
	takeBack(t, c.ID)
	prog.send("pread\n")
	if exit := prog.wait(); exit.Signal != int32(unix.SIGBUS) && exit.Signal != int32(unix.SIGSEGV) {
		t.Errorf("the program from the grant ends with %+v", exit)
	}
	shell.send("go\n")
	out, errout, exit := shell.output()
	if exit.Code != 7 || strings.Contains(out, "in sub") || strings.Contains(out, "0123") || strings.Count(errout, "Permission denied") < 4 {
		t.Errorf("a shell in the grant: %q %q %+v", out, errout, exit)
	}
}

// TestRevokeReachesDelegates takes back what went from hand to hand.
func TestRevokeReachesDelegates(t *testing.T) {
	_, key := racerDir(t)
	agents := []*spawned{idle(t), idle(t), idle(t)}
	first := give(t, agents[0].id, "fs:/grant:rw", key)
	second := lend(t, first, agents[1].id, capability.Change{At: ptr("/grant")})
	third := lend(t, second, agents[2].id, capability.Change{At: ptr("/grant"), Rights: ptr(abi.FSRead | abi.FSWrite)})
	var held []*spawned
	for _, a := range agents {
		h := a.hold()
		held = append(held, h)
		if n := h.does("pwrite"); n != 0 {
			t.Errorf("pwrite: %d", n)
		}
	}
	r := takeBack(t, second.ID)
	if r.Count != 2 || len(r.Agents) != 2 {
		t.Errorf("%+v", r)
	}
	for i, want := range []int{0, int(unix.EACCES), int(unix.EACCES)} {
		if got := held[i].does("pwrite"); got != want {
			t.Errorf("agent %d: pwrite gives %d, want %d", i, got, want)
		}
	}
	theDaemon.recorded(t, agents[0].id, recordOf(capability.OpDelegate, second.ID))
	theDaemon.recorded(t, agents[1].id, recordOf(capability.OpRevoke, second.ID))
	theDaemon.recorded(t, agents[2].id, recordOf(capability.OpLost, second.ID))
	if _, err := theKernel.CapList(control.CapListRequest{Cap: third.ID}); errdefs.CodeOf(err) != errdefs.CapabilityNotFound {
		t.Errorf("the third: %v", err)
	}
}

// TestAttenuateUnderAWriter narrows a grant to reading while it is written.
func TestAttenuateUnderAWriter(t *testing.T) {
	dir, key := racerDir(t)
	s := idle(t)
	c := give(t, s.id, "fs:/grant:rw", key)
	h := s.hold()
	w := s.execIn(sh("exec 3>/grant/log; echo begun; while echo x >&3; do :; done; cat /grant/sub/in"))
	w.expect("begun")
	if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Rights: ptr(abi.FSRead | abi.FSExec)}}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	out, errout, _ := w.output()
	if out != "in sub\n" || !strings.Contains(errout, "Read-only file system") {
		t.Errorf("the writer: %q %q", out, errout)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "log")); len(after) != len(before) {
		t.Errorf("%d bytes were written after the grant was narrowed", len(after)-len(before))
	}
	for what, want := range map[string]int{
		"pread": 0, "touch": 0, "touchs": 0, "fstat": 0, "exec": 0, "getdents": 0,
		"pwrite": int(unix.EROFS), "ftruncate": int(unix.EROFS), "create": int(unix.EROFS), "touchw": -int(unix.SIGBUS), "openw": int(unix.EROFS),
	} {
		if got := h.does(what); got != want {
			t.Errorf("%s gives %d, want %d", what, got, want)
		}
	}
	theDaemon.recorded(t, s.id, recordOf(capability.OpAttenuate, c.ID))
	// It does not grow again.
	_, err = theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Rights: ptr(abi.FSRead | abi.FSWrite)}})
	wantCode(t, err, errdefs.RightsExceed)
}

// TestAttenuateToAPart narrows a grant of files to a part of them: the rest is
// out of reach, and what is open is closed.
func TestAttenuateToAPart(t *testing.T) {
	_, key := racerDir(t)
	s := idle(t)
	c := give(t, s.id, "fs:/grant:rw", key)
	h := s.hold()
	part, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Object: ptr("/grant/sub")}})
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]int{"pread": int(unix.EACCES), "opencwd": int(unix.EACCES), "openat": int(unix.EACCES), "touchw": -int(unix.SIGBUS)} {
		if got := h.does(what); got != want {
			t.Errorf("%s gives %d, want %d", what, got, want)
		}
	}
	s.want("cat /grant/sub/in && echo x > /grant/sub/new && cat /grant/sub/new", "in sub\nx [0]")
	s.want("cat /grant/f", "cat: can't open '/grant/f': No such file or directory [1]")
	s.want("cat /grant/sub/../f", "cat: can't open '/grant/sub/../f': No such file or directory [1]")
	other := idle(t)
	lend(t, part, other.id, capability.Change{At: ptr("/grant")})
	other.want("cat /grant/in", "in sub [0]")
	takeBack(t, c.ID)
	s.want("grep grantfs /proc/mounts; cat /grant/sub/in", "cat: can't open '/grant/sub/in': No such file or directory [1]")

	// What is not there is not shown.
	c = give(t, s.id, "fs:/grant:rw", key)
	if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Object: ptr("/grant/nosuch")}}); err != nil {
		t.Fatal(err)
	}
	s.want("ls /grant/f /grant/nosuch", "ls: /grant/f: No such file or directory\nls: /grant/nosuch: No such file or directory [1]")
	theDaemon.recorded(t, s.id, func(r control.AuditRecord) bool { return r.Op == opDenied && r.Target == "mount /grant/nosuch" })
}

// TestQuota writes more than is granted, and again when there is room.
func TestQuota(t *testing.T) {
	_, key := racerDir(t)
	s, other := idle(t), idle(t)
	c := give(t, s.id, "fs:/grant:rw,quota=1M,inodes=3", key)
	// What fits into a file, which is removed.
	fits := func(a *spawned, want int) {
		t.Helper()
		script := "dd if=/dev/zero of=/grant/big bs=64K count=100 2>&1 | grep -o 'Disk quota exceeded'; stat -c %s /grant/big; rm /grant/big"
		if want < 0 {
			a.want(script, "stat: can't stat '/grant/big': No such file or directory\nrm: can't remove '/grant/big': No such file or directory [1]")
			return
		}
		a.want(script, fmt.Sprintf("Disk quota exceeded\n%d [0]", want))
	}
	fits(s, 1<<20)
	s.want("touch /grant/a /grant/b /grant/c; touch /grant/d 2>&1; rm /grant/a /grant/b /grant/c", "touch: /grant/d: Disk quota exceeded [0]")
	fits(s, 1<<20)

	// What is handed on is not the giver's any more, and comes back.
	part := lend(t, c, other.id, capability.Change{At: ptr("/grant"), Limits: &capability.Limits{Bytes: 768 << 10, Count: 2}})
	fits(s, 256<<10)
	fits(other, 768<<10)
	rest := lend(t, c, other.id, capability.Change{At: ptr("/rest")})
	s.want("echo x > /grant/new", "sh: can't create /grant/new: Disk quota exceeded [1]")
	takeBack(t, rest.ID)
	fits(s, 256<<10)
	// But not what was made of it.
	other.want("dd if=/dev/zero of=/grant/kept bs=256K count=2 2>/dev/null", "[0]")
	takeBack(t, part.ID)
	fits(s, 512<<10)
	s.want("rm /grant/kept", "[0]")
	fits(s, 1<<20)
}

// TestQuotaIsNotMadeAnew hands a quota to oneself in all the ways there are, and
// fills it each time.
func TestQuotaIsNotMadeAnew(t *testing.T) {
	dir, key := racerDir(t)
	s := idle(t)
	c := give(t, s.id, "fs:/grant:rw,quota=1M", key)
	fill := func(at string) { s.run(fmt.Sprintf("dd if=/dev/zero of=%s/$$ bs=64K count=32", at)) }
	taken := func() (sum int64) {
		for _, pattern := range []string{"[0-9]*", "sub/[0-9]*"} {
			files, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, f := range files {
				if st, err := os.Stat(f); err == nil {
					sum += st.Size()
				}
			}
		}
		return sum
	}
	by := control.Actor{Name: s.id}
	change := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if n := taken(); n > 1<<20 {
			t.Errorf("%s: a quota of 1 MiB gives room for %d bytes", what, n)
		}
	}
	half := capability.Limits{Bytes: 512 << 10}
	d, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: s.id, Change: capability.Change{Limits: &half, At: ptr("/again")}, Actor: by})
	fill("/again")
	change("handed on", err)
	_, err = theKernel.CapAttenuate(control.CapRequest{Cap: d.ID, Change: capability.Change{Limits: &capability.Limits{Bytes: 1}}, Actor: by})
	fill("/grant")
	change("attenuated", err)
	_, err = theKernel.CapRevoke(control.RevokeRequest{Cap: d.ID, Actor: by})
	fill("/grant")
	change("revoked", err)
	if n := taken(); n != 1<<20 {
		t.Errorf("only %d bytes were taken", n)
	}
	s.run("cd /grant; rm [0-9]*")
	fill("/grant")
	moved, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: s.id, Move: true, Change: capability.Change{At: ptr("/moved")}, Actor: by})
	fill("/moved")
	change("moved", err)
	_, err = theKernel.CapAttenuate(control.CapRequest{Cap: moved.ID, Change: capability.Change{Object: ptr("/grant/sub")}, Actor: by})
	fill("/moved/sub")
	change("made to be of a part", err)
	if n := taken(); n != 1<<20 {
		t.Errorf("%d bytes were taken in the end", n)
	}
}

// TestNestedGrants revokes the outer of two grants that are one in the other.
func TestNestedGrants(t *testing.T) {
	_, key := racerDir(t)
	s := idle(t)
	outer := give(t, s.id, "fs:/grant:rw", key)
	inner := give(t, s.id, "fs:/inner:ro,at=/grant/sub", key)
	s.want("cat /grant/sub/sub/in", "in sub [0]")
	takeBack(t, outer.ID)
	s.want("cat /grant/sub/sub/in", "in sub [0]")
	takeBack(t, inner.ID)
	s.want("grep grantfs /proc/mounts; cat /grant/sub/sub/in", "cat: can't open '/grant/sub/sub/in': No such file or directory [1]")
	// And the inner first.
	outer = give(t, s.id, "fs:/grant:rw", key)
	inner = give(t, s.id, "fs:/inner:ro,at=/grant/sub", key)
	takeBack(t, inner.ID)
	s.want("cat /grant/sub/in", "in sub [0]")
	takeBack(t, outer.ID)
	s.want("grep grantfs /proc/mounts; cat /grant/sub/in", "cat: can't open '/grant/sub/in': No such file or directory [1]")
}

// TestDelegateAPart hands on a directory below, and what is not below although
// its name says so.
func TestDelegateAPart(t *testing.T) {
	dir, key := racerDir(t)
	if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", filepath.Join(dir, "sub", "up")); err != nil {
		t.Fatal(err)
	}
	s, other := idle(t), idle(t)
	c := give(t, s.id, "fs:/grant/d:rw,at=/grant", key)
	lend(t, c, other.id, capability.Change{Object: ptr("/grant/d/sub"), At: ptr("/sub")})
	other.want("ls /sub; cat /sub/up/f /sub/up/in /sub/../f", "in\nup\ncat: can't open '/sub/up/f': No such file or directory\ncat: can't open '/sub/up/in': No such file or directory\ncat: can't open '/sub/../f': No such file or directory [1]")
	for _, object := range []string{"/grant/d/out", "/grant/d/out/passwd", "/grant/d/sub/up", "/grant/d/sub/up/f", "/grant/d/nosuch", "/grant", "/grant/dd", "/etc"} {
		d, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: other.id, Change: capability.Change{Object: ptr(object), At: ptr("/odd")}})
		if err == nil {
			t.Errorf("%s could be handed on", object)
			t.Log(other.run("ls -la /odd /odd/"))
			takeBack(t, d.ID)
		} else if errdefs.FixOf(err) == "" {
			t.Errorf("%s: %v says not what to do", object, err)
		}
	}
	// A move that is refused takes nothing.
	for _, ch := range []capability.Change{{Object: ptr("/grant/d/nosuch"), At: ptr("/odd")}, {At: ptr("/bin/sh")}, {At: ptr("/proc/self")}, {At: ptr("/bin/sh/x")}} {
		if _, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: other.id, Change: ch, Move: true}); err == nil {
			t.Errorf("%+v could be moved", ch)
		}
	}
	s.want("cat /grant/sub/in", "in sub [0]")
	if n := len(agentUnderTest(t, other.id).grants); n != 1 {
		t.Errorf("%d grants are open", n)
	}
}
