package unprivileged

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

// The boxes that no container of the default kind lets AIOS close.
var refusedInContainers = []string{
	"user namespace", "mount namespace", "pid namespace", "ipc namespace", "uts namespace", "network namespace", "cgroup",
}

func TestOrdinaryUser(t *testing.T) {
	p := user(t)
	p.serves(t, func(t *testing.T, missing []string) {
		for _, box := range []string{"seccomp", "capabilities", "descriptors", "no new privileges"} {
			if slices.Contains(missing, box) {
				t.Errorf("%s needs no privilege, and is missing", box)
			}
		}
		if f := p.doctor(t)["user"]; f.Status == "ok" || !strings.Contains(f.Found, "ordinary user") {
			t.Errorf("doctor says of the user: %+v", f)
		}
	})
}

func TestRootInAContainer(t *testing.T) {
	p := container(t, 0)
	p.serves(t, func(t *testing.T, missing []string) {
		if !slices.Equal(missing, refusedInContainers) {
			t.Errorf("missing are %q, want %q", missing, refusedInContainers)
		}
		p.doctorNames(t, "capabilities", "cgroup", "user namespaces", "namespaces")
	})
}

func TestOrdinaryUserInAContainer(t *testing.T) {
	p := container(t, someone)
	p.serves(t, func(t *testing.T, missing []string) {
		if want := append(slices.Clone(refusedInContainers), "empty root"); !slices.Equal(missing, want) {
			t.Errorf("missing are %q, want %q", missing, want)
		}
		p.doctorNames(t, "user", "capabilities", "cgroup", "user namespaces", "namespaces")
	})
}

// serves goes through what must hold in every place. known is told the boxes
// that the host has refused.
func (p *place) serves(t *testing.T, known func(t *testing.T, missing []string)) {
	first := p.aiosctl(t, "spawn", "--name", "first", "--", "sleep", "1000")
	if first.status != 0 {
		t.Fatalf("the first agent: status %d\n%s", first.status, first.errOut)
	}
	missing := p.missing(t)
	if len(missing) == 0 {
		t.Fatal("the host has refused nothing: this is no place without privilege")
	}
	t.Run("one warning", func(t *testing.T) {
		lines := strings.Split(strings.TrimSuffix(first.errOut, "\n"), "\n")
		if len(lines) != 1 || !strings.Contains(lines[0], "warning") || !strings.Contains(lines[0], "("+strings.Join(missing, ", ")+")") {
			t.Errorf("missing are %q; the first agent of the domain brought %q", missing, lines)
		}
		if r := p.aiosctl(t, "spawn", "--name", "second", "--", "sleep", "1000"); r.status != 0 || r.errOut != "" {
			t.Errorf("the second: status %d, %q", r.status, r.errOut)
		}
	})
	t.Run("boxes", func(t *testing.T) { known(t, missing) })
	t.Run("host image", func(t *testing.T) {
		if out := p.ok(t, "run", "--", "sh", "-c", "echo $((6 * 7)); id -u; ls /root"); out != "42\n0\n" {
			t.Errorf("it printed %q", out)
		}
		if out := p.ok(t, "exec", "first", "--", "ps", "-o", "args=", "-p", "1"); strings.TrimSpace(out) != "sleep 1000" {
			t.Errorf("process 1 is %q", out)
		}
	})
	t.Run("imported image", p.runsImages)
	t.Run("writable mount", p.writes)
	t.Run("ptrace", func(t *testing.T) {
		if out := p.ok(t, "run", "--isolated", "--platform", "ptrace", "--", "uname"); out != "Linux\n" {
			t.Errorf("it printed %q", out)
		}
	})
	t.Run("strict", p.refuses)
	t.Run("restart", func(t *testing.T) {
		p.ok(t, "daemon", "stop")
		if out := p.ok(t, "exec", "first", "--", "echo", "still here"); out != "still here\n" {
			t.Errorf("after a restart of the daemon: %q", out)
		}
	})
	p.leave(t)
}

// missing asks which boxes of the default domain do not stand.
func (p *place) missing(t *testing.T) []string {
	t.Helper()
	var domains []struct {
		Name  string `json:"name"`
		Boxes []struct {
			Box            string `json:"box"`
			OK             bool   `json:"ok"`
			Reason, Effect string
		} `json:"boxes"`
	}
	if err := json.Unmarshal([]byte(p.ok(t, "domain", "ls", "-o", "json")), &domains); err != nil {
		t.Fatal(err)
	}
	if len(domains) != 1 || domains[0].Name != "default" || len(domains[0].Boxes) < 12 {
		t.Fatalf("domains are %+v", domains)
	}
	var out []string
	for _, b := range domains[0].Boxes {
		if b.OK {
			continue
		}
		out = append(out, b.Box)
		if b.Reason == "" || b.Effect == "" {
			t.Errorf("of the missing %s it says only %+v", b.Box, b)
		}
	}
	return out
}

type finding struct{ Name, Status, Found, Effect, Fix string }

func (p *place) doctor(t *testing.T) map[string]finding {
	t.Helper()
	var report struct{ Findings []finding }
	if err := json.Unmarshal([]byte(p.ok(t, "doctor", "-o", "json")), &report); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]finding)
	for _, f := range report.Findings {
		out[f.Name] = f
	}
	return out
}

// doctorNames wants doctor to say what is missing, what follows, and what to do.
func (p *place) doctorNames(t *testing.T, names ...string) {
	t.Helper()
	report := p.doctor(t)
	for _, n := range names {
		if f := report[n]; f.Status == "ok" || f.Found == "" || f.Effect == "" || f.Fix == "" {
			t.Errorf("doctor says of %s: %+v", n, f)
		}
	}
}

func (p *place) runsImages(t *testing.T) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		lacking(t, "busybox-static is not installed")
	}
	root := filepath.Join(p.home, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sh"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	p.ok(t, "image", "import", "small", root)
	if out := p.ok(t, "run", "--image", "small", "--", "sh", "-c", "echo /*"); out != "/aios /bin /dev /proc /sys /tmp\n" {
		t.Errorf("its root holds %q", out)
	}
}

// writes lets an agent write to a directory of the user's.
func (p *place) writes(t *testing.T) {
	dir := filepath.Join(p.home, "shared")
	err := os.Mkdir(dir, 0o755)
	if err == nil && os.Getuid() == 0 {
		err = os.Chown(dir, p.uid, p.uid)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.ok(t, "run", "--mount", dir+":/shared:rw", "-w", "/shared", "--", "sh", "-c", "mkdir sub && echo text > sub/file && ln -s sub/file link && mv sub/file sub/moved")
	got, err := os.ReadFile(filepath.Join(dir, "sub/moved"))
	if err != nil || string(got) != "text\n" {
		t.Errorf("the agent wrote %q (%v)", got, err)
	}
	for _, name := range []string{"sub", "sub/moved", "link"} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if owner := int(fi.Sys().(*syscall.Stat_t).Uid); owner != p.uid {
			t.Errorf("%s belongs to %d, not to %d", name, owner, p.uid)
		}
	}
	if r := p.aiosctl(t, "run", "--mount", dir+":/shared", "--", "touch", "/shared/more"); r.status == 0 {
		t.Error("a read-only mount was written to")
	}
}

// refuses wants --strict to start nothing: no domain, and no agent in one that
// runs with what the host granted.
func (p *place) refuses(t *testing.T) {
	agents, processes := p.ok(t, "ps", "-a", "-q"), len(p.processes(t))
	for _, domain := range []string{"--isolated", "--domain=default", "--domain=another"} {
		r := p.aiosctl(t, "spawn", domain, "--strict", "--", "true")
		if r.status != 125 || !strings.Contains(r.errOut, "cgroup") || !strings.Contains(r.errOut, "fix: run without --strict") {
			t.Errorf("%s: status %d, %s", domain, r.status, r.errOut)
		}
	}
	_, err := p.dial(t).Spawn(context.Background(), &apiv1.SpawnRequest{
		Isolated: true, Strict: true, Process: &apiv1.Process{Argv: []string{"true"}},
	})
	if errdefs.CodeOf(err) != errdefs.BoxRefused {
		t.Errorf("the refusal is %s: %v", errdefs.CodeOf(err), err)
	}
	p.missing(t) // There is still one domain.
	if now := p.ok(t, "ps", "-a", "-q"); now != agents {
		t.Errorf("agents were %q, are %q", agents, now)
	}
	// Those of agents that ended before may have been counted.
	if now := p.processes(t); len(now) > processes {
		t.Errorf("%d processes were there, now there are %q", processes, now)
	}
	if left, _ := filepath.Glob(filepath.Join(p.stateDir(), "domains/only-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
