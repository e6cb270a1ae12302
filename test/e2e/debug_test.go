package e2e

import (
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// debuggee calls work until go is set, beside a thread that does nothing much,
// and ends with go as its status.
const debuggee = `
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
volatile int go, answer, rounds;
__attribute__((noinline)) int work(int n) {
  int twice = 2 * n;
  answer += twice;
  return answer;
}
static void *other(void *p) { for (;;) usleep(1000); return p; }
int main(void) {
  pthread_t t;
  answer = 41;
  pthread_create(&t, 0, other, 0);
  puts("ready");
  fflush(stdout);
  while (!go) {
    answer = 41;
    work(4);
    usleep(1000);
    if (++rounds % 20 == 0) { putchar('.'); fflush(stdout); }
  }
  printf("the answer is %d\n", answer);
  return go;
}
`

// spawnDebuggee starts it as the agent "debuggee", waits until it works, and
// returns the program.
func (in *install) spawnDebuggee(t *testing.T) (program string) {
	t.Helper()
	dir := in.share(t, map[string][]byte{"p.c": []byte(debuggee)})
	program = filepath.Join(dir, "p")
	if out, err := exec.Command("gcc", "-g", "-O0", "-static", "-pthread", "-o", program, filepath.Join(dir, "p.c")).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	must(t, os.Chmod(program, 0o755))
	in.spawn(t, "--name", "debuggee", "--mount", dir+":/src", "--", "/src/p")
	eventually(t, "the program is ready", patience, func() (bool, string) {
		got := string(in.ok(t, "logs", "debuggee"))
		return strings.HasPrefix(got, "ready\n"), got
	})
	return program
}

// goesOn checks that the program works.
func (in *install) goesOn(t *testing.T) {
	t.Helper()
	before := len(in.wrote(t, "debuggee", 0))
	eventually(t, "the agent goes on", patience, func() (bool, string) {
		got := in.wrote(t, "debuggee", 0)
		return len(got) > before+2, got
	})
}

// standsStill checks that it does not.
func (in *install) standsStill(t *testing.T) {
	t.Helper()
	before := len(in.ok(t, "logs", "debuggee"))
	time.Sleep(200 * time.Millisecond) // It would have said something ten times.
	if after := len(in.ok(t, "logs", "debuggee")); after != before {
		t.Errorf("the agent goes on: it said %d bytes, and then %d", before, after)
	}
}

var gdbAddress = regexp.MustCompile(`waiting for gdb at (\S+); start`)

// serveGDB starts `debug --gdb`, and returns where it listens.
func (in *install) serveGDB(t *testing.T, args ...string) (c *command, address string) {
	t.Helper()
	c = in.start(t, append([]string{"debug", "debuggee"}, args...)...)
	said := c.stdout.expect(t, "target remote ")
	m := gdbAddress.FindStringSubmatch(said)
	if m == nil {
		t.Fatalf("it said %q", said)
	}
	return c, m[1]
}

// gdbScript runs gdb with commands, to its end.
func (in *install) gdbScript(t *testing.T, commands ...string) string {
	t.Helper()
	args := []string{"-nx", "-batch"}
	for _, c := range commands {
		args = append(args, "-ex", c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "gdb", args...)
	cmd.Env = append(in.env, "PATH="+filepath.Dir(in.ctl)+":"+os.Getenv("PATH"))
	cmd.WaitDelay = 5 * time.Second
	r := finish(t, ctx, cmd)
	return string(r.stdout) + string(r.stderr)
}

// hasAll checks that gdb showed everything, in order.
func hasAll(t *testing.T, got string, wants ...string) {
	t.Helper()
	rest := got
	for _, want := range wants {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("gdb does not show %q, after what comes before it:\n%s", want, got)
		}
		rest = after
	}
}

// interactiveGDB starts gdb, has it stop the agent at a breakpoint, and leaves it
// there.
func (in *install) interactiveGDB(t *testing.T, address string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("gdb", "-nx", "-q", "-ex", "target remote "+address, "-ex", "break work", "-ex", "continue", "-ex", "p answer")
	cmd.Env = in.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := newTranscript()
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe() // It waits for more commands.
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	out.expect(t, "$1 = 41")
	return cmd
}

// TestGDB has gdb debug a program in an agent to its end, over each way there is.
func TestGDB(t *testing.T) {
	need(t, "gcc", "gdb")
	script := []string{
		"break work", "continue", "bt", "p n", "next", "next", "p twice", "p answer", "set var answer = 1000", "stepi", "p $rip != 0",
		"info threads", "delete", "finish", "set var go = 7", "p $ymm0", "continue",
	}
	shown := []string{
		"Breakpoint 1, work (n=4) at", "#0  work (n=4)", "in main ()", "$1 = 4", "$2 = 8", "$3 = 49", "$4 = 1", `"p"`, `"p"`,
		"Value returned is $5 = 1000", "v8_float", "exited with code 07",
	}
	onEach(t, func(t *testing.T, in *install) {
		for _, way := range []string{"tcp", "unix", "pipe", "one process"} {
			t.Run(way, func(t *testing.T) {
				in.spawnDebuggee(t)
				f := in.follow(t)
				target, c := "target remote | aiosctl debug debuggee --gdb -", (*command)(nil)
				switch way {
				case "tcp":
					c, target = in.serveGDB(t, "--gdb", ":0")
					if host, _, _ := net.SplitHostPort(target); host != "127.0.0.1" {
						t.Errorf("it listens at %s", target)
					}
				case "one process":
					c, target = in.serveGDB(t, "--gdb", "localhost:0", "--pid", "1", "--once")
				case "unix":
					path := filepath.Join(in.dir, "g")
					c, target = in.serveGDB(t, "--gdb", "unix:"+path)
					if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
						t.Errorf("the socket: %v %v", fi, err)
					}
				}
				if c != nil {
					in.goesOn(t) // Nobody debugs it yet.
					target = "target remote " + target
				}
				got := in.gdbScript(t, append([]string{target}, script...)...)
				hasAll(t, got, shown...)
				if c != nil {
					if r := c.wait(); r.status != 0 {
						t.Errorf("aiosctl ended with %s", r)
					}
				}
				if exit := in.run(t, "wait", "debuggee"); exit.status != 7 {
					t.Errorf("the agent ended with %s", exit)
				}
				if got := string(in.ok(t, "logs", "debuggee")); !strings.Contains(got, "the answer is 1000\n") {
					t.Errorf("it said %q", got)
				}
				f.wait(t, "agent.debug", func(e eventLine) bool { return e.Data["ended"] == nil })
				f.wait(t, "agent.debug", func(e eventLine) bool { return e.Data["ended"] == true })
				in.ok(t, "rm", "debuggee")
			})
		}
		for _, op := range []string{"debug.attach", "debug.detach"} {
			if got := in.audit(t, "--op", op); len(got) != 4 || got[0].Actor == "" || got[0].Agent == "" {
				t.Errorf("the audit trail says of %s: %+v", op, got)
			}
		}
	})
}

// TestGDBProcesses has gdb debug all processes of an agent, and then one of them.
func TestGDBProcesses(t *testing.T) {
	need(t, "gcc", "gdb")
	onEach(t, func(t *testing.T, in *install) {
		program := in.spawnDebuggee(t)
		in.spawn(t, "--name", "several", "--mount", filepath.Dir(program)+":/src", "--", "sh", "-c", "/src/p & /src/p & wait")
		eventually(t, "they work", patience, func() (bool, string) {
			got := string(in.ok(t, "logs", "several"))
			return strings.Count(got, "ready\n") == 2, got
		})
		var pids []int // Threads have numbers of the same series, so these need not be 2 and 3.
		for _, task := range in.look(t, "several", "tasks").Tasks {
			if !slices.Contains(pids, task.PID) {
				pids = append(pids, task.PID)
			}
		}
		if len(pids) != 3 || pids[0] != 1 {
			t.Fatalf("its processes are %v", pids)
		}
		first, second := fmt.Sprint("process ", pids[1]), fmt.Sprint("process ", pids[2])
		got := in.gdbScript(t, "target remote | aiosctl debug several --gdb -", "info inferiors", "info threads", "inferior 2", "break work", "continue", "p n", "detach")
		hasAll(t, got, "process 1", first, second, `"sh"`, `"p"`, `"p"`, `"p"`, `"p"`, ", work (n=4) at", "$1 = 4", "detached]")
		if strings.Contains(got, "rror") {
			t.Errorf("gdb says\n%s", got)
		}
		got = in.gdbScript(t, fmt.Sprintf("target remote | aiosctl debug several --pid %d --gdb -", pids[2]), "info inferiors", "break work", "continue", "p $_inferior", "set var go = 5", "delete", "continue")
		hasAll(t, got, "* 1    "+second, ", work (n=4) at", "exited with code 05")
		eventually(t, "the other goes on", patience, func() (bool, string) {
			l := in.look(t, "several", "tasks")
			raw, _ := json.Marshal(l.Tasks)
			return len(l.Tasks) == 3 && l.Tasks[1].PID == pids[1] && l.Tasks[1].State != "stopped", string(raw)
		})
	})
}

// TestGDBKilled kills gdb, aiosctl and the daemon while the agent stands at a
// breakpoint.
func TestGDBKilled(t *testing.T) {
	need(t, "gcc", "gdb")
	onOne(t, func(t *testing.T, in *install) {
		in.spawnDebuggee(t)
		c, address := in.serveGDB(t, "--gdb", ":0")
		g := in.interactiveGDB(t, address)
		in.standsStill(t)
		must(t, g.Process.Kill())
		in.goesOn(t)
		// The next one is served, and one at a time.
		in.interactiveGDB(t, address)
		in.standsStill(t)
		second, err := net.Dial("tcp", address)
		must(t, err)
		if n, err := second.Read(make([]byte, 1)); err == nil {
			t.Errorf("a second gdb got %d bytes", n)
		}
		second.Close()
		c.stderr.expect(t, "another gdb is there")
		if r := in.runWith(t, strings.NewReader("+$?#3f"), "debug", "debuggee", "--gdb", "-"); r.status == 0 || !strings.Contains(string(r.stderr), "is being debugged already") {
			t.Errorf("a second debugger: %s", r)
		}
		c.signal(syscall.SIGKILL)
		c.wait()
		in.goesOn(t)

		c, address = in.serveGDB(t, "--gdb", ":0")
		in.interactiveGDB(t, address)
		in.standsStill(t)
		kill9(t, in.process(t, "serve"))
		in.goesOn(t)
		c.cmd.Process.Kill() // It has ended, or has found the next daemon before it was missing one.
		c.wait()

		c, address = in.serveGDB(t, "--gdb", ":0")
		hasAll(t, in.gdbScript(t, "target remote "+address, "break work", "continue", "detach"), "Breakpoint 1", "detached]")
		c.stderr.expect(t, "gdb has left")
		in.goesOn(t)
		c.signal(syscall.SIGINT)
		if r := c.wait(); r.status != 130 {
			t.Errorf("interrupted: %s", r)
		}
		if got := in.ps(t); len(got) != 1 || got[0].State != "running" {
			t.Errorf("the agent after all: %+v", got)
		}
	})
}

// TestGDBRefusals has those debug who may not, and what cannot be debugged.
func TestGDBRefusals(t *testing.T) {
	need(t, "gcc", "gdb")
	onOne(t, func(t *testing.T, in *install) {
		in.spawnDebuggee(t)
		in.spawn(t, "--name", "neighbour", "--", "sleep", "1000")
		for _, c := range []struct{ args, want string }{
			{"debuggee --gdb 0.0.0.0:0", "others can reach this address"},
			{"debuggee --gdb [::]:0", "others can reach this address"},
			{"debuggee --gdb nowhere", "not an address"},
			{"debuggee --gdb unix:", "the path of the socket is missing"},
			{"debuggee --gdb unix:/nonexistent/g", "no such file"},
			{"debuggee --gdb :0 --pid -3", "no process has the number -3"},
			{"nobody --gdb :0", "ps -a"},
			{"--gdb :0", "is missing"},
		} {
			in.refused(t, c.want, append([]string{"debug"}, strings.Fields(c.args)...)...)
		}
		if r := in.runWith(t, strings.NewReader("+$?#3f"), "debug", "debuggee", "--pid", "77", "--gdb", "-"); r.status == 0 || !strings.Contains(string(r.stderr), "the agent has no process 77") {
			t.Errorf("of a process that is not there: %s", r)
		}

		// Another user of the host can connect, and no more than that.
		c, address := in.serveGDB(t, "--gdb", ":0")
		if os.Getuid() == 0 {
			_, port, _ := net.SplitHostPort(address)
			cmd := exec.Command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port+"; printf '$?#3f' >&3; cat <&3")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
			if out, _ := cmd.Output(); len(out) > 0 {
				t.Errorf("another user is told %q", out)
			}
			c.stderr.expect(t, "run by user 54321")
		}
		in.goesOn(t)

		// A token must say so, and about this agent.
		at := in.listen(t)
		without, _ := in.issue(t, "--op", "inspect,list,exec", "--agent", "*")
		in.bearing(at, without).refused(t, "does not allow the operation", "debug", "debuggee", "--gdb", ":0")
		elsewhere, _ := in.issue(t, "--op", "debug", "--agent", "neighbour")
		in.bearing(at, elsewhere).refused(t, "does not extend to this agent", "debug", "debuggee", "--gdb", ":0")
		may, id := in.issue(t, "--op", "debug", "--agent", "debuggee")
		b := in.bearing(at, may)
		c, address = b.serveGDB(t, "--gdb", ":0")
		g := in.interactiveGDB(t, address)
		in.standsStill(t)
		in.ok(t, "token", "revoke", id)
		in.goesOn(t)
		if r := c.wait(); r.status == 0 || !strings.Contains(string(r.stderr), notAccepted) {
			t.Errorf("with a token that was revoked: %s", r)
		}
		must(t, g.Process.Kill())
		if got := in.audit(t, "--op", "debug.attach"); len(got) != 1 || got[0].Actor != "token:tester" {
			t.Errorf("the audit trail: %+v", got)
		}

		c, _ = in.serveGDB(t, "--gdb", ":0")
		in.ok(t, "rm", "-f", "debuggee")
		if r := c.wait(); r.status == 0 || !strings.Contains(string(r.stderr), "ended") {
			t.Errorf("of an agent that was killed: %s", r)
		}
	})
}

// TestMemory reads and writes memory of an agent.
func TestMemory(t *testing.T) {
	need(t, "gcc")
	onEach(t, func(t *testing.T, in *install) {
		f, err := elf.Open(in.spawnDebuggee(t))
		must(t, err)
		defer f.Close()
		symbols, err := f.Symbols()
		must(t, err)
		at := func(name string) string {
			for _, s := range symbols {
				if s.Name == name {
					return fmt.Sprintf("%#x", s.Value)
				}
			}
			t.Fatalf("the program has no %s", name)
			return ""
		}
		if got := string(in.ok(t, "debug", "debuggee", "--read", at("answer")+",4")); !strings.HasSuffix(got, "  )...\n") && !strings.HasSuffix(got, "  1...\n") {
			t.Errorf("the answer is neither 41 nor 49: %q", got)
		}
		if got := string(in.ok(t, "debug", "debuggee", "--read", at("work"), "--pid", "1")); strings.Count(got, "\n") != 4 || !strings.Contains(got, "55 48 89 e5") {
			t.Errorf("the code: %q", got)
		}
		in.goesOn(t)
		end := uint64(0)
		for _, m := range in.look(t, "debuggee", "maps").Maps { // Up to where nothing is.
			if end == 0 && m.What == "/src/p" || m.Start == end {
				end = m.End
			}
		}
		r := in.run(t, "debug", "debuggee", "--read", fmt.Sprintf("%#x,16", end-8))
		if r.status != 0 || strings.Count(string(r.stdout), "\n") != 1 || !strings.Contains(string(r.stderr), "only 8 of 16 bytes are there") {
			t.Errorf("at the end: %s", r)
		}
		for _, c := range []struct{ args, want string }{
			{"--read 16", "aiosctl debug debuggee maps"},
			{"--write 16=00", "aiosctl debug debuggee maps"},
			{"--read elsewhere", "not an address and a length"},
			{"--read 0x400000,0", "not an address and a length"},
			{"--read 0x400000,2000000", "not an address and a length"},
			{"--write 0x400000", "not an address and bytes"},
			{"--write 0x400000=abc", "not an address and bytes"},
			{"--read 0x400000 --write 0x400000=00", "exclude each other"},
			{"maps --read 0x400000", "exclude each other"},
			{"--read 0x400000 --pid 77", "no process 77"},
		} {
			in.refused(t, c.want, append([]string{"debug", "debuggee"}, strings.Fields(c.args)...)...)
		}
		in.goesOn(t)
		in.ok(t, "debug", "debuggee", "--write", at("go")+"=09000000")
		if exit := in.run(t, "wait", "debuggee"); exit.status != 9 {
			t.Errorf("the agent ended with %s", exit)
		}
	})
}
