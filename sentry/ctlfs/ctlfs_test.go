package ctlfs

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/sdk/python"
	"aios.dev/aios/sentry/ctlfs/command"
)

func TestTreeIsAsDescribed(t *testing.T) {
	w := newWorld(t)
	names := func(path string) []string {
		fd := w.mustOpen(alice, path, linux.O_RDONLY|linux.O_DIRECTORY)
		defer fd.DecRef(w.ctx)
		var out []string
		if err := fd.IterDirents(w.as(alice), vfs.IterDirentsCallbackFunc(func(d vfs.Dirent) error {
			out = append(out, d.Name)
			return nil
		})); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got, want := names("/"), []string{".", "..", "self", "lib", "fabric", "ctl", "events", "semantic.sock", "help", "version"}; !slices.Equal(got, want) {
		t.Errorf("/aios holds %q, want %q", got, want)
	}
	if got, want := names("/self"), []string{".", "..", "id", "name", "domain", "caps", "tree", "limits", "stats", "watchdog", "hint", "job", "template", "clones"}; !slices.Equal(got, want) {
		t.Errorf("/aios/self holds %q, want %q", got, want)
	}
	for path, want := range map[string]string{
		"/self/id":     alice + "\n",
		"/self/name":   "alice\n",
		"/self/domain": "default\n",
		"/self/stats":  `{"memory":{"now":1}}` + "\n",
		"/self/limits": "fs bytes=1073741824\nmem bytes=67108864\nagent\n",
		"/lib/aios.py": string(python.Module), "/lib/aiosregion.py": string(python.RegionModule),
		"/help":    command.Help(),
		"/version": abi.Version + " device=1\n",
	} {
		if got := w.cat(alice, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestNothingIsMadeOrChangedThere(t *testing.T) {
	w := newWorld(t)
	at := func(path string) *vfs.PathOperation {
		return &vfs.PathOperation{Root: w.root, Start: w.root, Path: fspath.Parse(path)}
	}
	ctx := w.as(alice)
	for what, err := range map[string]error{
		"create": func() error { _, err := w.open(alice, "/self/new", linux.O_CREAT|linux.O_RDWR); return err }(),
		"mkdir":  w.v.MkdirAt(ctx, w.creds, at("/new"), &vfs.MkdirOptions{Mode: 0o755}),
		"unlink": w.v.UnlinkAt(ctx, w.creds, at("/ctl")),
		"rmdir":  w.v.RmdirAt(ctx, w.creds, at("/self")),
		"rename": w.v.RenameAt(ctx, w.creds, at("/ctl"), at("/ctl2"), &vfs.RenameOptions{}),
		"chmod": w.v.SetStatAt(ctx, w.creds, at("/ctl"), &vfs.SetStatOptions{
			Stat: linux.Statx{Mask: linux.STATX_MODE, Mode: 0o777}}),
		"symlink": w.v.SymlinkAt(ctx, w.creds, at("/l"), "/etc"),
		"link":    w.v.LinkAt(ctx, w.creds, at("/ctl"), at("/self/ctl")),
		"write":   func() error { _, err := w.open(alice, "/self/caps", linux.O_RDWR); return err }(),
	} {
		if err == nil {
			t.Errorf("%s is possible", what)
		}
	}
}

func TestCapsChangeWithTheTable(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/self/caps", linux.O_RDONLY)
	defer fd.DecRef(w.ctx)
	text, err := w.read(alice, fd)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "1 c") || !strings.HasSuffix(lines[0], " fs:/data:rw,quota=1G") ||
		!strings.HasSuffix(lines[1], " agent:bob:signal+inspect") || !strings.HasSuffix(lines[2], " mem:self,bytes=64M") {
		t.Fatalf("caps are\n%s", text)
	}
	if _, err := w.ctl(alice, "revoke 3"); err != nil {
		t.Fatal(err)
	}
	if _, err := fd.Seek(w.as(alice), 0, linux.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	if text, _ := w.read(alice, fd); strings.Contains(text, "mem:self") {
		t.Errorf("after the revocation, read again from the start:\n%s", text)
	}
	if got := w.cat(bob, "/self/caps"); got != "" {
		t.Errorf("bob holds %q", got)
	}
}

// id returns the second word of the answer's first line, behind "ok".
func id(t *testing.T, answer string) string {
	t.Helper()
	words := strings.Fields(answer)
	if len(words) < 3 || words[0] != "ok" {
		t.Fatalf("the answer is %q", answer)
	}
	return words[2]
}

func TestCommands(t *testing.T) {
	w := newWorld(t)
	answer, err := w.ctl(alice, "delegate 1 to=bob object=/data/in rights=ro lease=30s\n")
	if err != nil {
		t.Fatal(answer, err)
	}
	given := id(t, answer)
	if want := "ok 1 " + given + " fs:/data/in:ro,lease=30s holder=" + bob + " parent="; !strings.HasPrefix(answer, want) {
		t.Errorf("delegate answers %q, want %q...", answer, want)
	}
	if got := w.cat(bob, "/self/caps"); !strings.HasPrefix(got, "1 "+given+" fs:/data/in:ro,lease=30s parent=") || !strings.Contains(got, " expires=30s") {
		t.Errorf("bob's caps are %q", got)
	}
	if got := w.cat(alice, "/self/tree"); !strings.Contains(got, "\n 1 "+given+" fs:/data/in:ro") {
		t.Errorf("the tree is\n%s", got)
	}
	w.clock.Advance(20 * time.Second)
	if answer, err := w.ctl(alice, "renew "+given+" lease=1m"); err != nil || !strings.Contains(answer, "expires=1m0s") {
		t.Errorf("renew: %q, %v", answer, err)
	}
	if answer, err := w.ctl(bob, "delegate 1 to=self rights=read badge=7"); err != nil || !strings.Contains(answer, "ok 2 ") || !strings.Contains(answer, ":read,badge=7") {
		t.Errorf("delegate to itself: %q, %v", answer, err)
	}
	if answer, err := w.ctl(bob, "seal 2"); err != nil || !strings.Contains(answer, ",sealed") {
		t.Errorf("seal: %q, %v", answer, err)
	}
	if answer, err := w.ctl(alice, "attenuate 1 rights=ro"); err != nil || !strings.Contains(answer, "fs:/data:ro") {
		t.Errorf("attenuate: %q, %v", answer, err)
	}
	if answer, err := w.ctl(alice, "revoke "+given); err != nil || answer != "ok revoked=2\n" {
		t.Errorf("revoke: %q, %v", answer, err)
	}
	if got := w.cat(bob, "/self/caps"); got != "" {
		t.Errorf("bob still holds %q", got)
	}
	if answer, err := w.ctl(alice, "explain open /data/x"); err != nil || answer != "ok allowed\nbecause of what "+alice+" holds\n" {
		t.Errorf("explain: %q, %v", answer, err)
	}
	if answer, err := w.ctl(alice, "explain open /etc/shadow"); err != nil || !strings.HasPrefix(answer, "ok refused\n") {
		t.Errorf("explain: %q, %v", answer, err)
	}
	if answer, err := w.ctl(alice, "move 1 to=bob"); err != nil || !strings.Contains(answer, "fs:/data:ro") {
		t.Errorf("move: %q, %v", answer, err)
	}
	if answer, err := w.ctl(alice, "list"); err != nil || answer != "ok\n"+w.cat(alice, "/self/caps") || strings.Contains(answer, "fs:") {
		t.Errorf("list: %q, %v", answer, err)
	}
	if answer, err := w.ctl(alice, "delegate 3 to=far bytes=1M"); err != nil || !strings.Contains(answer, "ok 0 c") || !strings.Contains(answer, "holder=other/a00000000dddd") {
		t.Errorf("delegate to another domain: %q, %v", answer, err)
	}
	if denied := w.k.takeDenied(); denied != "" {
		t.Errorf("refusals were reported: %s", denied)
	}
}

func TestActingOnAnAgent(t *testing.T) {
	w := newWorld(t)
	w.mint(alice, "agent:*:pause") // 4
	for line, want := range map[string]string{
		"signal 2 TERM":      alice + " signal agent:bob 15 ",
		"pause 4 agent=bob":  alice + " pause agent:* 0 bob",
		"resume 4 agent=bob": alice + " resume agent:* 0 bob",
		"inspect 2":          alice + " inspect agent:bob 0 ",
	} {
		answer, err := w.ctl(alice, line)
		if err != nil || !strings.HasPrefix(answer, "ok") || !strings.HasSuffix(answer, "\nstate running\n") {
			t.Errorf("%s: %q, %v", line, answer, err)
		}
		if got := w.k.acted[len(w.k.acted)-1]; got != want {
			t.Errorf("%s asks the kernel for %q, want %q", line, got, want)
		}
	}
	done := len(w.k.acted)
	for line, want := range map[string]error{
		"pause 2":         linuxerr.EPERM,  // no such right
		"pause 4":         linuxerr.EINVAL, // which one?
		"signal 4 9":      linuxerr.EPERM,
		"signal 1 KILL":   linuxerr.EINVAL, // files
		"signal 99 KILL":  linuxerr.EBADF,
		"inspect 0":       linuxerr.EINVAL,
		"resume 2":        linuxerr.EPERM,
		"signal 2 NOTHIN": linuxerr.EINVAL,
	} {
		if answer, err := w.ctl(alice, line); err != want || !strings.HasPrefix(answer, "error ") {
			t.Errorf("%s: %q, %v; want %v", line, answer, err, want)
		}
	}
	if len(w.k.acted) != done {
		t.Errorf("refused, and done: %q", w.k.acted[done:])
	}
	if answer, err := w.ctl(alice, "inspect 4"); err != nil || strings.Contains(answer, "state") {
		t.Errorf("inspect without the right shows %q, %v", answer, err)
	}
}

func TestRefusalsHaveErrnoTextAndReport(t *testing.T) {
	w := newWorld(t)
	answer, err := w.ctl(alice, "delegate 1 to=bob rights=ro")
	if err != nil {
		t.Fatal(err)
	}
	given := id(t, answer)
	foreign := string(w.mint(hundred, "fs:/secret:ro").ID())
	for _, tc := range []struct {
		agent, line string
		errno       error
		code        string
		reported    string
	}{
		{alice, "frobnicate", linuxerr.EINVAL, "INVALID_ARGUMENT", ""},
		{alice, "seal 99", linuxerr.EBADF, "CAPABILITY_NOT_FOUND", alice + " seal handle 99 CAPABILITY_NOT_FOUND"},
		{bob, "attenuate 1 rights=rw", linuxerr.EPERM, "RIGHTS_EXCEED", bob + " attenuate handle 1 RIGHTS_EXCEED"},
		{bob, "delegate 1 to=alice object=/", linuxerr.EPERM, "RIGHTS_EXCEED", bob + " delegate handle 1 RIGHTS_EXCEED"},
		{bob, "renew 1 lease=1h", linuxerr.EPERM, "CAPABILITY_DENIED", bob + " renew handle 1 CAPABILITY_DENIED"},
		{alice, "revoke " + foreign, linuxerr.EBADF, "CAPABILITY_NOT_FOUND", alice + " revoke " + foreign + " CAPABILITY_NOT_FOUND"},
		{alice, "revoke c0123456789ab", linuxerr.EBADF, "CAPABILITY_NOT_FOUND", alice + " revoke c0123456789ab CAPABILITY_NOT_FOUND"},
		{bob, "revoke-children " + foreign, linuxerr.EBADF, "CAPABILITY_NOT_FOUND", bob + " revoke-children " + foreign + " CAPABILITY_NOT_FOUND"},
		{alice, "delegate 1 to=a0123456789ab", linuxerr.ESRCH, "AGENT_NOT_FOUND", ""},
		{alice, "delegate 3 to=bob bytes=1G", linuxerr.EPERM, "RIGHTS_EXCEED", alice + " delegate handle 3 RIGHTS_EXCEED"},
		{alice, "explain nonsense", linuxerr.EINVAL, "INVALID_ARGUMENT", ""},
	} {
		answer, err := w.ctl(tc.agent, tc.line)
		if err != tc.errno || !strings.HasPrefix(answer, "error "+tc.code+": ") || strings.Count(answer, "\n") > 2 {
			t.Errorf("%s: %q, %v; want %s and %v", tc.line, answer, err, tc.code, tc.errno)
		}
		if got := w.k.takeDenied(); got != tc.reported {
			t.Errorf("%s: reported %q, want %q", tc.line, got, tc.reported)
		}
	}
	if _, err := w.ctl(alice, "revoke "+given); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// A foreign ID and one that does not exist must look the same.
func TestForeignIDsTellNothing(t *testing.T) {
	w := newWorld(t)
	foreign := string(w.mint(hundred, "fs:/secret:ro").ID())
	there, _ := w.ctl(alice, "revoke "+foreign)
	missing, _ := w.ctl(alice, "revoke c0123456789ab")
	if strings.ReplaceAll(there, foreign, "X") != strings.ReplaceAll(missing, "c0123456789ab", "X") {
		t.Errorf("one that exists:  %s\none that does not: %s", there, missing)
	}
	if strings.Contains(there, "secret") {
		t.Errorf("the answer is %q", there)
	}
}

func TestAnOpenFileServesItsAgentAlone(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/ctl", "/self/caps"} {
		flags := uint32(linux.O_RDONLY)
		if path == "/ctl" {
			flags = linux.O_RDWR
		}
		fd := w.mustOpen(alice, path, flags)
		if path == "/ctl" {
			if err := w.write(alice, fd, "list"); err != nil {
				t.Fatal(err)
			}
			if err := w.write(bob, fd, "delegate 1 to=bob"); err != linuxerr.EPERM {
				t.Errorf("bob writes to what alice opened: %v", err)
			}
			if err := w.write(nobody, fd, "revoke 1"); err != linuxerr.EPERM {
				t.Errorf("a task of no agent writes: %v", err)
			}
		}
		if text, err := w.read(bob, fd); err != linuxerr.EPERM || text != "" {
			t.Errorf("bob reads %s: %q, %v", path, text, err)
		}
		if _, err := fd.PRead(w.as(bob), usermem.BytesIOSequence(make([]byte, 9)), 0, vfs.ReadOptions{}); err == nil {
			t.Errorf("bob preads %s", path)
		}
		if _, err := fd.Seek(w.as(bob), 0, linux.SEEK_SET); err == nil {
			t.Errorf("bob seeks in %s", path)
		}
		if got := w.k.takeDenied(); !strings.Contains(got, bob+" use /aios"+path+" CAPABILITY_DENIED") {
			t.Errorf("%s: reported %q", path, got)
		}
		if text, err := w.read(alice, fd); err != nil || !strings.Contains(text, "fs:/data") {
			t.Errorf("alice then reads %s: %q, %v", path, text, err)
		}
		fd.DecRef(w.ctx)
	}
	if got := w.cat(bob, "/self/caps"); got != "" {
		t.Errorf("bob has got %q", got)
	}
	if _, err := w.open(nobody, "/ctl", linux.O_RDWR); err != linuxerr.EPERM {
		t.Errorf("a task of no agent opens it: %v", err)
	}
}

func TestCtlIsAStream(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/ctl", linux.O_RDWR|linux.O_CREAT|linux.O_TRUNC|linux.O_APPEND)
	defer fd.DecRef(w.ctx)
	if text, err := w.read(alice, fd); err != nil || text != "" {
		t.Errorf("before a command: %q, %v", text, err)
	}
	if _, err := fd.Seek(w.as(alice), 0, linux.SEEK_SET); err != linuxerr.ESPIPE {
		t.Errorf("seek: %v", err)
	}
	if _, err := fd.PWrite(w.as(alice), usermem.BytesIOSequence([]byte("revoke 1")), 0, vfs.WriteOptions{}); err != linuxerr.ESPIPE {
		t.Errorf("pwrite: %v", err)
	}
	if err := w.write(alice, fd, ""); err != nil {
		t.Errorf("an empty write: %v", err)
	}
	if err := w.write(alice, fd, strings.Repeat("x", command.MaxLen+2)); err != linuxerr.E2BIG {
		t.Errorf("a write that is too long: %v", err)
	}
	if err := w.write(alice, fd, "list\nrevoke 1\n"); err != linuxerr.EINVAL {
		t.Errorf("two commands in one write: %v", err)
	}
	if err := w.write(alice, fd, "list"); err != nil {
		t.Fatal(err)
	}
	if err := w.write(alice, fd, "inspect 3"); err != nil {
		t.Fatal(err)
	}
	if text, _ := w.read(alice, fd); !strings.HasPrefix(text, "ok 3 ") || strings.Contains(text, "fs:") {
		t.Errorf("after two commands, the answer to the last is %q", text)
	}
	if text, _ := w.read(alice, fd); text != "" {
		t.Errorf("read again: %q", text)
	}
	ro := w.mustOpen(alice, "/ctl", linux.O_RDONLY)
	defer ro.DecRef(w.ctx)
	if err := w.write(alice, ro, "list"); err != linuxerr.EBADF {
		t.Errorf("a write to what was opened for reading: %v", err)
	}
}

func TestRevokedHandlesStayDead(t *testing.T) {
	w := newWorld(t)
	if _, err := w.ctl(alice, "revoke 1"); err != nil {
		t.Fatal(err)
	}
	fresh := w.mint(alice, "fs:/data:rw")
	if fresh.Handle() == capability.Handle(1) {
		t.Fatal("the handle was given again")
	}
	for _, line := range []string{"seal 1", "delegate 1 to=bob", "attenuate 1 rights=ro", "revoke 1", "inspect 1"} {
		if _, err := w.ctl(alice, line); err != linuxerr.EBADF {
			t.Errorf("%s: %v", line, err)
		}
	}
}
