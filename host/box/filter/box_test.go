package filter

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/host/box"
)

// hosts are the kinds of host that a daemon may find itself on.
var hosts = []struct {
	kind string
	user uint32 // 0 is root
	// full says that every box is expected to stand.
	full bool
}{
	{"root", 0, true},
	{"user", 1000, true},
	{"root in a container", 0, false},
	{"user in a container", 1000, false},
}

// start runs a boxed child on a kind of host and returns what it found, its
// last words and how it ended.
func start(t *testing.T, kind string, user uint32, action string, env ...string) (facts, string) {
	t.Helper()
	if withCgo {
		t.Skip("a program built with cgo cannot change all of its threads")
	}
	if os.Getuid() != 0 && user != uint32(os.Getuid()) {
		t.Skip("only root can play another user")
	}
	root := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append([]string{daemonEnv + "=" + kind, childEnv + "=" + action, rootEnv + "=" + filepath.Join(root, "root")}, env...)
	if user != 0 {
		// The directories that testing makes are the tester's alone.
		for dir := root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				break
			}
		}
		if err := os.Chown(root, int(user), int(user)); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("daemon: %v\n%s%s", err, out, &stderr)
	}
	first, rest, _ := strings.Cut(string(out), "\n")
	var f facts
	if err := json.Unmarshal([]byte(first), &f); err != nil {
		t.Fatalf("the child did not get as far as sealing itself:\n%s%s", out, &stderr)
	}
	return f, strings.TrimSpace(rest)
}

func TestEveryBoxOnEveryHost(t *testing.T) {
	for _, h := range hosts {
		t.Run(h.kind, func(t *testing.T) {
			f, end := start(t, h.kind, h.user, "work")
			if end != "exit 0" {
				t.Errorf("honest work ended with %q", end)
			}
			for _, r := range slices.Concat(f.Prepared, f.Reports) {
				if r.OK != (r.Effect == "") || (!r.OK && r.Reason == "") {
					t.Errorf("half a report: %+v", r)
				}
				t.Logf("%-18s %-5v %s", r.Box, r.OK, r.Reason)
			}
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
				if f.Status[set] != "0000000000000000" {
					t.Errorf("%s is %s", set, f.Status[set])
				}
			}
			if f.Status["NoNewPrivs"] != "1" {
				t.Errorf("NoNewPrivs is %s", f.Status["NoNewPrivs"])
			}
			for _, fd := range f.FDs {
				if strings.HasPrefix(fd, "3:") {
					t.Errorf("the secret file is still open: %v", f.FDs)
				}
			}
			for _, b := range []string{box.Descriptors, box.Capabilities, box.NoNewPrivileges, box.Seccomp} {
				if !f.report(t, b).OK {
					t.Errorf("%s needs no privilege, yet: %+v", b, f.report(t, b))
				}
			}
			// Only where neither root nor a namespace makes it so does the
			// child remain its user.
			if want := 65534; f.UID != want && (h.full || h.user == 0) {
				t.Errorf("the child runs as %d", f.UID)
			}
			if h.full {
				checkFull(t, f, h.user)
			} else {
				checkContainer(t, f)
			}
		})
	}
}

// checkFull wants every box to stand.
func checkFull(t *testing.T, f facts, user uint32) {
	t.Helper()
	if err := box.Refused(slices.Concat(f.Prepared, f.Reports)); err != nil {
		// A host may forbid users their namespaces; the report says so.
		if user != 0 && !f.report(t, box.UserNamespace).OK {
			t.Skipf("this host: %v", err)
		}
		t.Fatal(err)
	}
	outside := user
	if user == 0 {
		outside = 65534
	}
	if f.HostUID != fmt.Sprintf("65534 %d 1", outside) {
		t.Errorf("uid_map is %q", f.HostUID)
	}
	if f.PID != 1 {
		t.Errorf("PID is %d in a namespace of its own", f.PID)
	}
	if strings.Join(f.NetDev, " ") != "lo" && len(f.NetDev) != 0 {
		t.Errorf("interfaces %q", f.NetDev)
	}
	if !strings.Contains(f.Passwd, "no such file") {
		t.Errorf("opening /etc/passwd: %q", f.Passwd)
	}
	if !strings.Contains(f.RootRO, "read-only") {
		t.Errorf("making a file in /: %q", f.RootRO)
	}
	for _, name := range f.Root {
		if !slices.Contains([]string{"etc", "proc", "sys"}, name) {
			t.Errorf("/%s is in the empty root", name)
		}
	}
}

// checkContainer wants the reports to tell what is missing.
func checkContainer(t *testing.T, f facts) {
	t.Helper()
	err := box.Refused(slices.Concat(f.Prepared, f.Reports))
	if err == nil || !strings.Contains(err.Error(), box.UserNamespace) || !strings.Contains(err.Error(), box.NetNamespace) {
		t.Errorf("missing namespaces are reported as %v", err)
	}
	if f.report(t, box.Capabilities).Reason == "" && f.Status["CapBnd"] != "0000000000000000" {
		t.Errorf("CapBnd is %s", f.Status["CapBnd"])
	}
	if f.report(t, box.MountNamespace).OK || f.report(t, box.UserNamespace).OK {
		t.Error("a namespace was granted that cannot be")
	}
	if f.report(t, box.EmptyRoot).OK && !strings.Contains(f.Passwd, "no such file") {
		t.Errorf("the root is said to be empty, opening /etc/passwd: %q", f.Passwd)
	}
}

func TestSealedProcessDiesOfWhatItMayNotDo(t *testing.T) {
	for _, h := range []int{0, 3} {
		for action := range hostile {
			t.Run(hosts[h].kind+"/"+action, func(t *testing.T) {
				t.Parallel()
				if _, end := start(t, hosts[h].kind, hosts[h].user, action, classEnv+"="+Files.String()); end != "killed by bad system call" {
					t.Errorf("%s ended with %q", action, end)
				}
			})
		}
	}
}

// TestWhatWasNotGrantedKills has processes do what others of a wider class may.
func TestWhatWasNotGrantedKills(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "served"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ action, class, end string }{
		{"sync", Compute.String(), "killed by bad system call"},
		{"sync", Files.String(), "exit 0"},
		{"gofer mkdir", "read", "killed by bad system call"},
		{"gofer mkdir", "write", "exit 0"},
		{"gofer write", "read", "killed by bad system call"},
		{"gofer write", "write", "exit 0"},
		{"gofer look", "read", "exit 0"},
	} {
		t.Run(test.action+"/"+test.class, func(t *testing.T) {
			if _, end := start(t, "root", 0, test.action, dirEnv+"="+dir, classEnv+"="+test.class); end != test.end {
				t.Errorf("%s ended with %q, not with %q", test.action, end, test.end)
			}
		})
	}
}

// TestSemanticMemoryInItsBoxes has a store live where semantic memory does, and what
// a taken-over one might try kill it.
func TestSemanticMemoryInItsBoxes(t *testing.T) {
	for _, h := range hosts {
		t.Run(h.kind, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.Chown(dir, int(h.user), int(h.user)); err != nil && os.Getuid() == 0 {
				t.Fatal(err)
			}
			f, end := start(t, h.kind, h.user, "gofer remember", dirEnv+"="+dir, classEnv+"="+semanticName)
			if end != "exit 0" {
				t.Errorf("a store ended with %q", end)
			}
			if ok := f.report(t, box.EmptyRoot).OK; ok && !strings.Contains(f.Passwd, "no such file") {
				t.Errorf("opening /etc/passwd says %q", f.Passwd)
			}
			if r := f.report(t, box.Seccomp); !r.OK {
				t.Errorf("seccomp: %+v", r)
			}
		})
	}
	for action := range hostile {
		if action == "open" {
			continue // Files of its directory are what it is for.
		}
		t.Run("hostile/"+action, func(t *testing.T) {
			t.Parallel()
			if _, end := start(t, "root", 0, "gofer "+action, dirEnv+"="+t.TempDir(), classEnv+"="+semanticName); end != "killed by bad system call" {
				t.Errorf("%s ended with %q", action, end)
			}
		})
	}
}

func TestPlatformsRunInsideTheBoxes(t *testing.T) {
	for _, h := range hosts {
		for _, action := range []string{"systrap", "ptrace"} {
			t.Run(h.kind+"/"+action, func(t *testing.T) {
				if _, end := start(t, h.kind, h.user, action); end != "exit 0" {
					t.Errorf("making address spaces ended with %q", end)
				}
			})
		}
	}
}

func TestGoferSeesOneDirectory(t *testing.T) {
	for _, h := range hosts {
		t.Run(h.kind, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "served"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(dir, int(h.user), int(h.user)); err != nil && os.Getuid() == 0 {
				t.Fatal(err)
			}
			f, end := start(t, h.kind, h.user, "gofer serve", dirEnv+"="+dir)
			if end != "exit 0" {
				t.Errorf("serving ended with %q", end)
			}
			for _, r := range slices.Concat(f.Prepared, f.Reports) {
				t.Logf("%-18s %-5v %s", r.Box, r.OK, r.Reason)
			}
			// Only a user in a container can neither mount nor chroot.
			if ok := f.report(t, box.EmptyRoot).OK; ok == (!h.full && h.user != 0) {
				t.Errorf("empty root: %+v", f.report(t, box.EmptyRoot))
			} else if ok && (strings.Join(f.Root, " ") != "served" || !strings.Contains(f.Passwd, "no such file")) {
				t.Errorf("its root holds %q, opening /etc/passwd says %q", f.Root, f.Passwd)
			}
			// chown, dac_override, dac_read_search, fowner, fsetid
			if eff := f.Status["CapEff"]; eff != "000000000000001f" && eff != "0000000000000000" {
				t.Errorf("CapEff is %s", eff)
			}
			want := int(h.user)
			if f.report(t, box.UserNamespace).OK {
				want = 0 // Its user is root in there.
			}
			if f.UID != want {
				t.Errorf("it serves as %d, not as %d", f.UID, want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("%v is left of what agents removed (%v)", left, err)
			}
			if _, end := start(t, h.kind, h.user, "gofer socket", dirEnv+"="+dir); end != "killed by bad system call" {
				t.Errorf("a socket ended with %q", end)
			}
		})
	}
}
