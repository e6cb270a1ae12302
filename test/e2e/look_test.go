package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lookedAt has a thread that waits for a lock that another holds, one that
// computes, files, sockets, and says from time to time that it goes on.
const lookedAt = `
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
pthread_mutex_t lock;
__attribute__((noinline)) void compute(void) { for (volatile unsigned long n = 0;;) n++; }
static void *waiter(void *p) { pthread_mutex_lock(&lock); return p; }
static void *computer(void *p) { compute(); return p; }
int main(void) {
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
  pthread_mutex_init(&lock, &attr);
  pthread_mutex_lock(&lock);
  pthread_t t;
  pthread_create(&t, 0, waiter, 0);
  pthread_create(&t, 0, computer, 0);
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_UNIX, SOCK_DGRAM, 0);
  struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "\0here"};
  if (bind(l, (void *)&in, sizeof in) || listen(l, 1) || connect(c, (void *)&in, sizeof in)) perror("tcp");
  if (bind(u, (void *)&un, sizeof un.sun_family + 5)) perror("unix");
  if (open("/tmp/log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) < 0) perror("open");
  puts("ready");
  for (;;) { fflush(stdout); usleep(20000); putchar('.'); }
}
`

// looked is what debug -o json prints, as far as the test looks at it.
type looked struct {
	Tasks []struct {
		PID, TID          int
		Agent, Name, Call string
		State             string
		Registers         map[string]string
		Stack             []string
	}
	Queues []struct {
		Agent            string
		Weight           int
		Running, Waiting []int
		Quota            int `json:"quota_millicpu"`
	}
	Locks struct {
		Kernel []struct {
			Name string
			Held bool
		}
		Futexes []struct {
			PID, Owner int
			Waiting    []int
		}
	}
	Caps  []struct{ Agent, Spec string }
	Maps  []lookedMap
	Files []struct {
		FD          int
		Mode, Path  string
		FileSystem  string `json:"file_system"`
		Append      bool
		CloseOnExec bool `json:"close_on_exec"`
	}
	Sockets []struct {
		FD                                 int
		Family, Type, State, Local, Remote string
	}
	Names map[string]string
}

type lookedMap struct {
	Start, End  uint64
	Perms, What string
}

func (in *install) look(t *testing.T, args ...string) (l looked) {
	t.Helper()
	must(t, json.Unmarshal(in.ok(t, append([]string{"debug", "-o", "json"}, args...)...), &l))
	return l
}

// TestLook looks into an agent that goes on: every view, for people and for
// programs, and who may.
func TestLook(t *testing.T) {
	need(t, "gcc")
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"p.c": []byte(lookedAt)})
		program := filepath.Join(dir, "p")
		if out, err := exec.Command("gcc", "-g", "-O0", "-static", "-pthread", "-o", program, filepath.Join(dir, "p.c")).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		must(t, os.Chmod(program, 0o755))
		id := in.spawn(t, "--name", "debuggee", "--mount", dir+":/src", "--grant", "net:loopback", "--limit", "cpu=0.8", "--", "/src/p")
		in.spawn(t, "--name", "neighbour", "--", "sleep", "1000")
		eventually(t, "the program is ready", patience, func() (bool, string) {
			got := string(in.ok(t, "logs", "debuggee"))
			return strings.HasPrefix(got, "ready\n."), got
		})
		var l looked
		eventually(t, "the thread that computes is caught", patience, func() (bool, string) {
			l = in.look(t, "debuggee", "all")
			raw, _ := json.Marshal(l.Tasks)
			return len(l.Tasks) == 3 && (l.Tasks[2].State == "runs" || l.Tasks[2].State == "queued") && l.Tasks[2].Registers["rip"] != "" &&
				l.Tasks[0].Call == "clock_nanosleep", string(raw)
		})
		if w := l.Tasks[1]; w.State != "waits" || w.Call != "futex" || w.TID != 2 || w.Name != "p" || w.Agent != id || w.Registers["orig_rax"] != "0xca" ||
			!slices.ContainsFunc(w.Stack, func(f string) bool { return strings.HasPrefix(f, "linux.Futex sys_futex.go:") }) {
			t.Errorf("the thread that waits: %+v", w)
		}
		// Its instruction pointer is in the function that computes.
		if out, err := exec.Command("addr2line", "-f", "-e", program, l.Tasks[2].Registers["rip"]).CombinedOutput(); err == nil && !strings.HasPrefix(string(out), "compute\n") {
			t.Errorf("the thread that computes is in %s", out)
		}
		if q := l.Queues; len(q) != 1 || q[0].Agent != id || q[0].Weight != 100 || q[0].Quota != 800 {
			t.Errorf("queues: %+v", q)
		}
		if len(l.Locks.Kernel) < 5 || l.Locks.Kernel[0].Held {
			t.Errorf("locks of the kernel: %+v", l.Locks.Kernel)
		}
		if f := l.Locks.Futexes; len(f) != 1 || f[0].PID != 1 || f[0].Owner != 1 || !slices.Equal(f[0].Waiting, []int{2}) {
			t.Errorf("futexes: %+v", f)
		}
		if !slices.ContainsFunc(l.Caps, func(c struct{ Agent, Spec string }) bool { return c.Agent == id && c.Spec == "net:loopback" }) {
			t.Errorf("capabilities: %+v", l.Caps)
		}
		if !slices.ContainsFunc(l.Maps, func(m lookedMap) bool { return m.Perms == "r-xp" && m.What == "/src/p" }) {
			t.Errorf("maps: %+v", l.Maps)
		}
		found := 0
		for _, f := range l.Files {
			if f.Path == "/tmp/log" && f.Mode == "w" && f.Append && f.CloseOnExec && f.FD == 6 && f.FileSystem != "" {
				found++
			}
		}
		if found != 1 {
			t.Errorf("files: %+v", l.Files)
		}
		if s := l.Sockets; len(s) != 3 || s[0].FD != 3 || s[0].State != "listen" || s[0].Local != "127.0.0.1:8080" || s[0].Remote != "" ||
			s[1].State != "established" || s[1].Remote != "127.0.0.1:8080" || s[1].Type != "stream" || s[1].Family != "inet" ||
			s[2].Family != "unix" || s[2].Local != "@here" || s[2].Type != "dgram" {
			t.Errorf("sockets: %+v", s)
		}
		in.goesOn(t)

		// Of the whole domain, and for people.
		all := in.look(t, "default")
		if len(all.Tasks) != 4 || len(all.Queues) != 2 || all.Names[id] != "debuggee" || len(all.Files) != 0 {
			t.Errorf("the domain: %+v", all)
		}
		got := string(in.ok(t, "debug", "default"))
		for _, want := range []string{"tasks\nAGENT", "queues\nAGENT", "locks\nLOCK OF THE KERNEL", "neighbour", "clock_nanosleep", "FUTEX"} {
			if !strings.Contains(got, want) {
				t.Errorf("debug default does not say %q:\n%s", want, got)
			}
		}
		if got := string(in.ok(t, "debug", id, "sockets")); !strings.HasPrefix(got, "AGENT ") || strings.Count(got, "\n") != 4 {
			t.Errorf("debug AGENT sockets:\n%s", got)
		}
		if got := string(in.ok(t, "debug", "debuggee", "stacks", "--pid", "1")); !strings.Contains(got, "thread 2 (p): waits in futex, goroutine") || !strings.Contains(got, "rip ") {
			t.Errorf("debug AGENT stacks:\n%s", got)
		}

		for _, c := range []struct{ args, want string }{
			{"debuggee nothing", "name some of tasks"},
			{"debuggee --pid 77", "no process 77"},
			{"default --pid 1", "name an agent"},
			{"nobody", "ps -a"},
			{"debuggee --once", "is about --gdb"},
			{"debuggee tasks --gdb :0", "exclude each other"},
		} {
			in.refused(t, c.want, append([]string{"debug"}, strings.Fields(c.args)...)...)
		}
		at := in.listen(t)
		may, _ := in.issue(t, "--op", "debug", "--agent", "debuggee")
		b := in.bearing(at, may)
		if l := b.look(t, "debuggee", "maps"); len(l.Maps) == 0 || len(l.Names) != 1 {
			t.Errorf("the bearer of a token sees %+v", l)
		}
		b.refused(t, "does not extend to this agent", "debug", "neighbour")
		b.refused(t, "does not extend to this agent", "debug", "default")
		without, _ := in.issue(t, "--op", "inspect,list", "--agent", "*")
		in.bearing(at, without).refused(t, "does not allow the operation", "debug", "debuggee")
		if got := in.audit(t, "--op", "debug.look"); len(got) == 0 || got[len(got)-1].Actor != "token:tester" || got[len(got)-1].Agent != id {
			t.Errorf("the audit trail: %+v", got)
		}
	})
}
