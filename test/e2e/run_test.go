package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// noise returns bytes that compress badly and hold every value.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// share makes a directory of the host with these files, for --mount.
func (in *install) share(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir, err := os.MkdirTemp(in.dir, "share")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	for name, data := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	return dir
}

func TestExitStatus(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		// Two at a time, as many as small hosts have processors.
		codes := make(chan int)
		var wg sync.WaitGroup
		for range 2 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for code := range codes {
					r, err := in.try("sh", "-c", fmt.Sprintf("exit %d", code))
					if err != nil || r.status != code || len(r.stdout)+len(r.stderr) > 0 {
						t.Errorf("exit %d: %v %s", code, err, r)
					}
				}
			}()
		}
		for code := range 256 {
			codes <- code
		}
		close(codes)
		wg.Wait()
	})
}

func TestDeathBySignal(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGUSR1, syscall.SIGTERM} {
			name := fmt.Sprintf("dies-%d", sig)
			r := in.agent(t, "--keep", "--name", name, "--", "python3", "-c",
				fmt.Sprintf("import os, sys; print('last words', flush=True); os.kill(os.getpid(), %d); import time; time.sleep(100)", sig))
			if r.status != 128+int(sig) || string(r.stdout) != "last words\n" || len(r.stderr) > 0 {
				t.Errorf("signal %d: %s", sig, r)
			}
			a := in.inspect(t, name)
			if a.State != "exited" || a.Exit.Status != 128+int(sig) || a.Exit.Signal != signalName(sig) || a.Exit.Code != 0 {
				t.Errorf("inspect after signal %d: %+v", sig, a)
			}
		}
		// A fault of the processor is a signal too.
		if r := in.agent(t, "--", "python3", "-c", "import ctypes; ctypes.string_at(0)"); r.status != 128+int(syscall.SIGSEGV) {
			t.Errorf("null pointer: %s", r)
		}
	})
}

func signalName(sig syscall.Signal) string {
	return map[syscall.Signal]string{
		syscall.SIGKILL: "SIGKILL", syscall.SIGSEGV: "SIGSEGV", syscall.SIGABRT: "SIGABRT", syscall.SIGUSR1: "SIGUSR1",
		syscall.SIGTERM: "SIGTERM",
	}[sig]
}

func TestStreams(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		const size = 5<<20 + 12345
		a, b := noise(1, size), noise(2, size)
		mount := in.share(t, map[string][]byte{"a": a, "b": b}) + ":/in"

		t.Run("output and error are separate and exact", func(t *testing.T) {
			r := in.agent(t, "--mount", mount, "--", "sh", "-c", "cat /in/a & cat /in/b >&2; wait; exit 5")
			if r.status != 5 || !bytes.Equal(r.stdout, a) || !bytes.Equal(r.stderr, b) {
				t.Errorf("status %d, %d bytes of output, equal: %v; %d bytes of error, equal: %v",
					r.status, len(r.stdout), bytes.Equal(r.stdout, a), len(r.stderr), bytes.Equal(r.stderr, b))
			}
		})
		t.Run("input to its end", func(t *testing.T) {
			r := in.runWith(t, bytes.NewReader(a), in.runArgs("--", "sha256sum")...)
			if want := fmt.Sprintf("%x  -\n", sha256.Sum256(a)); string(r.stdout) != want || r.status != 0 {
				t.Errorf("want %s, got %s", want, r)
			}
		})
		t.Run("through and back", func(t *testing.T) {
			r := in.runWith(t, bytes.NewReader(a), in.runArgs("--", "cat")...)
			if !bytes.Equal(r.stdout, a) || r.status != 0 {
				t.Errorf("status %d, %d bytes of %d", r.status, len(r.stdout), len(a))
			}
		})
		t.Run("no input", func(t *testing.T) {
			if r := in.agent(t, "-i=false", "--", "wc", "-c"); string(r.stdout) != "0\n" {
				t.Errorf("%s", r)
			}
			if r := in.agent(t, "--", "cat"); r.status != 0 || len(r.stdout) != 0 {
				t.Errorf("%s", r)
			}
		})
		t.Run("pipeline", func(t *testing.T) {
			r := in.hostSh(t, "set -o pipefail; seq 100000 | $run -- cat | $run -- sort -n -r | $run -- tail -n 1")
			if string(r.stdout) != "1\n" || r.status != 0 {
				t.Errorf("%s", r)
			}
		})
		t.Run("output before it ends", func(t *testing.T) {
			c := in.startAgent(t, "--", "sh", "-c", "echo first; read line; echo got $line")
			c.stdout.expect(t, "first\n")
			c.write("second\n")
			c.stdout.expect(t, "got second\n")
			if r := c.wait(); r.status != 0 {
				t.Errorf("%s", r)
			}
		})
	})
}

// TestBrokenPipes compares with what the same commands do without AIOS.
func TestBrokenPipes(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		for name, script := range map[string]string{
			"the reader goes":           `%s yes | head -n 1; echo "${PIPESTATUS[@]}"`,
			"the reader reads nothing":  `%s yes | true; echo "${PIPESTATUS[0]}"`,
			"the program goes":          `yes | %s head -n 1; echo "${PIPESTATUS[@]}"`,
			"the program reads nothing": `yes | %s true; echo "${PIPESTATUS[@]}"`,
			"inside":                    `%s bash -c 'yes | head -n 1; echo "${PIPESTATUS[@]}"'`,
			"SIGPIPE is ignored":        `%s python3 -c 'import os, sys` + "\n" + `try:` + "\n" + ` while True: os.write(1, b"y\n")` + "\n" + `except BrokenPipeError: sys.exit(9)' | head -n 1; echo "${PIPESTATUS[0]}"`,
		} {
			want := in.hostSh(t, fmt.Sprintf(script, ""))
			got := in.hostSh(t, fmt.Sprintf(script, "$run --"))
			if string(got.stdout) != string(want.stdout) || got.status != want.status || len(got.stderr) > 0 {
				t.Errorf("%s: without AIOS: %s\nwith it: %s", name, want, got)
			}
		}
	})
}

func TestRefusals(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		mount := in.share(t, map[string][]byte{"script": []byte("echo hello\n"), "data": []byte("data"), "garbage.tar": noise(3, 5000)})
		must(t, os.Chmod(filepath.Join(mount, "script"), 0o755))
		m := mount + ":/m"
		in.spawn(t, "--name", "taken", "--", "sleep", "1000")
		run := in.runArgs
		for _, c := range []struct {
			name   string
			args   []string
			status int
			says   []string // each must appear in the error
		}{
			{"missing program", run("--", "nosuchprogram"), 127, []string{"nosuchprogram", "PATH"}},
			{"missing path", run("--", "/usr/bin/nosuchprogram"), 127, []string{"/usr/bin/nosuchprogram", "no such"}},
			{"missing directory", run("--", "/nosuch/dir/program"), 127, []string{"/nosuch/dir/program"}},
			{"not executable", run("--mount", m, "--", "/m/data"), 126, []string{"/m/data", "not executable"}},
			{"directory", run("--", "/usr/bin"), 126, []string{"/usr/bin", "directory"}},
			{"script without an interpreter line", run("--mount", m, "--", "/m/script"), 126, []string{"/m/script", "#!"}},
			{"missing image", run("--image", "nosuchimage", "--", "true"), 125, []string{"nosuchimage", "fix: "}},
			{"bad image", []string{"image", "import", "bad", mount + "/garbage.tar"}, 125, []string{"garbage.tar"}},
			{"missing source of an image", []string{"image", "import", "bad", mount + "/nosuch"}, 125, []string{"nosuch"}},
			{"missing source of a mount", run("--mount", mount+"/nosuch:/x", "--", "true"), 125, []string{"nosuch"}},
			{"missing directory inside", run("-w", "/nosuchdir", "--", "true"), 125, []string{"/nosuchdir"}},
			{"missing user", run("-u", "nosuchuser", "--", "true"), 125, []string{"nosuchuser", "fix: "}},
			{"duplicate name", run("--name", "taken", "--", "true"), 125, []string{"taken", "fix: ", "rm -f taken"}},
			{"bad name", run("--name", "no/slash", "--", "true"), 125, []string{"no/slash", "fix: "}},
			{"other platform", []string{"run", "--platform", other(in.platform), "--", "true"}, 125, []string{in.platform, "fix: "}},
			{"unknown command", []string{"rnu", "--", "true"}, 125, []string{"rnu", "run"}},
			{"no program", []string{"run"}, 125, []string{"program", "fix: "}},
			{"unknown flag", run("--nosuchflag", "--", "true"), 125, []string{"nosuchflag", "--help"}},
			{"remove a running one", []string{"rm", "taken"}, 125, []string{"taken", "fix: ", "force"}},
		} {
			r := in.run(t, c.args...)
			if r.status != c.status || len(r.stdout) > 0 {
				t.Errorf("%s: want status %d: %s", c.name, c.status, r)
			}
			for _, text := range c.says {
				if !strings.Contains(string(r.stderr), text) {
					t.Errorf("%s: %q is not in the error:\n%s", c.name, text, r.stderr)
				}
			}
		}
		for _, verb := range [][]string{
			{"kill"}, {"wait"}, {"logs"}, {"attach"}, {"inspect"}, {"pause"}, {"resume"}, {"rm"}, {"rm", "-f"},
		} {
			r := in.run(t, append(verb, "takem")...)
			if r.status != 125 || !strings.Contains(string(r.stderr), "takem") || !strings.Contains(string(r.stderr), "taken") {
				t.Errorf("%v of an unknown agent, near to one that exists: %s", verb, r)
			}
		}
		if r := in.run(t, "exec", "takem", "--", "true"); r.status != 125 || !strings.Contains(string(r.stderr), "takem") {
			t.Errorf("exec in an unknown agent: %s", r)
		}
		if r := in.run(t, "exec", "taken", "--", "nosuchprogram"); r.status != 127 || !strings.Contains(string(r.stderr), "nosuchprogram") {
			t.Errorf("exec of a missing program: %s", r)
		}
		// What was refused is not there.
		if all := in.ps(t, "-a"); len(all) != 1 {
			t.Errorf("agents: %+v", all)
		}
	})
}

func other(platform string) string {
	if platform == "systrap" {
		return "ptrace"
	}
	return "systrap"
}

func TestSignalsAreForwarded(t *testing.T) {
	const trap = `
import os, signal, sys, time
def got(n, frame):
    os.write(1, b"got %d\n" % n) # print fails if a signal comes while it writes.
    if n == signal.SIGTERM: sys.exit(7)
for n in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTERM):
    signal.signal(n, got)
print("ready", flush=True)
while True: time.sleep(1)`
	onOne(t, func(t *testing.T, in *install) {
		c := in.startAgent(t, "--", "python3", "-c", trap)
		c.stdout.expect(t, "ready\n")
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGTERM} {
			c.signal(sig)
			c.stdout.expect(t, fmt.Sprintf("got %d\n", sig))
		}
		if r := c.wait(); r.status != 7 || len(r.stderr) > 0 {
			t.Errorf("%s", r)
		}
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			c := in.startAgent(t, "--", "sh", "-c", "echo ready; exec sleep 1000")
			c.stdout.expect(t, "ready\n")
			c.signal(sig)
			if r := c.wait(); r.status != 128+int(sig) {
				t.Errorf("a program that does not catch signal %d: %s", sig, r)
			}
		}
		// One that exec started gets its own.
		id := in.spawn(t, "--", "sleep", "1000")
		e := in.start(t, "exec", id, "--", "python3", "-c", trap)
		e.stdout.expect(t, "ready\n")
		e.signal(syscall.SIGINT)
		e.stdout.expect(t, "got 2\n")
		e.signal(syscall.SIGTERM)
		if r := e.wait(); r.status != 7 {
			t.Errorf("exec: %s", r)
		}
		if a := in.inspect(t, id); a.State != "running" {
			t.Errorf("the agent is %s after a signal to the exec", a.State)
		}
	})
}

// TestAttachToOneWithoutInput checks that an agent that takes no input can be
// joined all the same.
func TestAttachToOneWithoutInput(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "deaf", "--", "sh", "-c", "while [ ! -e /tmp/go ]; do echo tick; sleep 0.1; done; exit 4")
		a := in.start(t, "attach", "deaf")
		a.stdout.expect(t, "tick\n")
		in.ok(t, "exec", "deaf", "--", "touch", "/tmp/go")
		if r := a.wait(); r.status != 4 {
			t.Errorf("attach: %s", r)
		}
	})
}
