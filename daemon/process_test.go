package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/images"
)

func TestProcessIsCompletedByTheImage(t *testing.T) {
	img := images.Config{Entrypoint: []string{"/entry", "-x"}, Cmd: []string{"cmd"}, Env: []string{"A=image", "B=image"}, WorkingDir: "/img", User: "u"}
	bare := images.Config{}
	for name, test := range map[string]struct {
		req  *apiv1.Process
		img  images.Config
		argv string
		env  []string
		cwd  string
		user string
	}{
		"all of the image":   {&apiv1.Process{}, img, "[/entry -x cmd]", []string{"A=image", "B=image"}, "/img", "u"},
		"arguments":          {&apiv1.Process{Argv: []string{"a", "b"}}, img, "[/entry -x a b]", []string{"A=image"}, "/img", "u"},
		"own settings":       {&apiv1.Process{Argv: []string{"a"}, Env: []string{"A=own", "C=own"}, Cwd: "/own", User: "me"}, img, "[/entry -x a]", []string{"A=own", "B=image", "C=own"}, "/own", "me"},
		"nothing but a name": {&apiv1.Process{Argv: []string{"a"}}, bare, "[a]", nil, "/", ""},
		"a terminal":         {&apiv1.Process{Argv: []string{"a"}, Tty: true}, bare, "[a]", []string{"TERM=xterm"}, "/", ""},
		"a terminal of mine": {&apiv1.Process{Argv: []string{"a"}, Tty: true, Env: []string{"TERM=vt100"}}, bare, "[a]", []string{"TERM=vt100"}, "/", ""},
	} {
		p, err := process(test.req, test.img, "")
		if err != nil || fmt.Sprint(p.Argv) != test.argv || p.Cwd != test.cwd || p.User != test.user {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		for _, want := range append(test.env, images.DefaultEnv()...) {
			if n := count(p.Env, want); n != 1 {
				t.Errorf("%s: the environment has %q %d times: %q", name, want, n, p.Env)
			}
		}
	}
	zoned := images.Config{Env: []string{"TZ=Mars/Phobos", "TZDIR=/z"}}
	for tz, n := range map[string]int{"": 1, "UTC": 0} {
		p, err := process(&apiv1.Process{Argv: []string{"a"}}, zoned, tz)
		if err != nil || count(p.Env, "TZ=Mars/Phobos") != n || count(p.Env, "TZDIR=/z") != 1 || len(zoned.Env) != 2 {
			t.Errorf("with the zone %q: %q, %v", tz, p.Env, err)
		}
	}
	if _, err := process(&apiv1.Process{}, bare, ""); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("no program at all: %v", err)
	}
}

func count(list []string, s string) (n int) {
	for _, e := range list {
		if e == s {
			n++
		}
	}
	return n
}

// TestMerge checks that every name is there once, with its last value, in the
// order in which the names first came.
func TestMerge(t *testing.T) {
	variable := rapid.StringMatching(`[A-C]{1,2}=[xy=]{0,3}`)
	rapid.Check(t, func(r *rapid.T) {
		base, top := rapid.SliceOf(variable).Draw(r, "base"), rapid.SliceOf(variable).Draw(r, "top")
		got := merge(base, top)
		values, order := map[string]string{}, []string{}
		for _, e := range append(append([]string(nil), base...), top...) {
			name, value, _ := strings.Cut(e, "=")
			if _, known := values[name]; !known {
				order = append(order, name)
			}
			values[name] = value
		}
		if len(got) != len(order) {
			r.Fatalf("merge(%q, %q) = %q", base, top, got)
		}
		for i, name := range order {
			if got[i] != name+"="+values[name] {
				r.Fatalf("merge(%q, %q) = %q", base, top, got)
			}
		}
	})
}

func TestCheckProcess(t *testing.T) {
	for name, p := range map[string]*apiv1.Process{
		"NUL in an argument": {Argv: []string{"a\x00b"}},
		"NUL in a variable":  {Env: []string{"A=\x00"}},
		"no name":            {Env: []string{"=x"}},
		"no value":           {Env: []string{"A"}},
		"empty variable":     {Env: []string{""}},
		"too long":           {Argv: []string{strings.Repeat("x", maxArgs)}},
		"too many":           {Argv: make([]string, maxArgs+1)},
		"relative directory": {Cwd: "tmp"},
	} {
		if err := checkProcess(p); errdefs.CodeOf(err) != errdefs.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, p := range map[string]*apiv1.Process{
		"nothing":        nil,
		"empty argument": {Argv: []string{""}},
		"empty value":    {Env: []string{"A="}},
		"much":           {Argv: []string{strings.Repeat("x", maxArgs-10)}, Env: []string{"A==="}, Cwd: "/"},
	} {
		if err := checkProcess(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// child starts a program that waits, under a name of its own.
func child(t *testing.T, name string) *exec.Cmd {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	raw, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "1000")
	cmd.Args[0] = "sleep"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func TestStartTickOfOddNames(t *testing.T) {
	plain := startTick(child(t, "plain").Process.Pid)
	for _, name := range []string{") S 1 2 3", "a) b (c", "((", "x 1 2 3"} {
		if tick := startTick(child(t, name).Process.Pid); tick < plain || tick > plain+100*60 {
			t.Errorf("%q started at %d, another process just before at %d", name, tick, plain)
		}
	}
	if tick := startTick(1 << 30); tick != 0 {
		t.Errorf("no process started at %d", tick)
	}
}

// TestKillProcess checks that nobody is killed who only has the PID.
func TestKillProcess(t *testing.T) {
	victim := child(t, "victim")
	pid := victim.Process.Pid
	died := make(chan struct{})
	go func() {
		victim.Wait()
		close(died)
	}()
	for _, info := range []domainInfo{
		{},
		{PID: pid},
		{PID: pid, StartTick: startTick(pid) + 1},
		{PID: pid, StartTick: startTick(pid) - 1},
		{PID: 1, StartTick: startTick(1)},
		{PID: 0, StartTick: 5},
		{PID: -1, StartTick: 5},
		{PID: 1 << 30, StartTick: 0},
		{PID: 1 << 30, StartTick: 5},
	} {
		killProcess(info)
	}
	select {
	case <-died:
		t.Fatal("somebody else was killed")
	case <-time.After(50 * time.Millisecond):
	}
	killProcess(domainInfo{PID: pid, StartTick: startTick(pid)})
	within(t, "the kill", died)
	if ws, ok := victim.ProcessState.Sys().(interface{ Signal() unix.Signal }); ok && ws.Signal() != unix.SIGKILL {
		t.Errorf("it died of %v", ws.Signal())
	}
}
