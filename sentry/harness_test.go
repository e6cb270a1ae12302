package sentry

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// Options of spawn.

func withStdin(r *control.SpawnRequest) { r.Process.Stdin = true }

func withTTY(r *control.SpawnRequest) {
	r.Process.TTY, r.Process.Stdin = true, true
	r.Process.Env = append(r.Process.Env, "TERM=dumb", "PS1=")
}

func detached(r *control.SpawnRequest) { r.Attach = false }

func sh(script string) []string { return []string{"sh", "-c", script} }

// execIn starts a further process of s's agent.
func (s *spawned) execIn(argv []string, opts ...func(*control.Process)) *spawned {
	s.t.Helper()
	x, err := s.tryExec(argv, opts...)
	if err != nil {
		s.t.Fatalf("exec %q: %v", argv, err)
	}
	return x
}

func (s *spawned) tryExec(argv []string, opts ...func(*control.Process)) (*spawned, error) {
	s.t.Helper()
	req := control.ExecRequest{ID: s.id, Attach: true, Process: control.Process{Argv: argv, Env: []string{"PATH=/bin"}}}
	for _, o := range opts {
		o(&req.Process)
	}
	ours, theirs := socketpair(s.t)
	x := &spawned{t: s.t, id: s.id, stream: control.NewStream(ours)}
	reply, err := theKernel.Exec(req, []*os.File{theirs})
	if err != nil {
		ours.Close()
		return nil, err
	}
	x.exec = reply.ExecID
	s.t.Cleanup(func() { x.stream.Close() })
	return x, nil
}

// attach joins a further stream to the agent's first process.
func (s *spawned) attach(stdin bool) (*spawned, error) {
	s.t.Helper()
	ours, theirs := socketpair(s.t)
	x := &spawned{t: s.t, id: s.id, stream: control.NewStream(ours), file: ours}
	if _, err := theKernel.Attach(control.AttachRequest{ID: s.id, Stdin: stdin}, []*os.File{theirs}); err != nil {
		ours.Close()
		return nil, err
	}
	s.t.Cleanup(func() { x.stream.Close() })
	return x, nil
}

func (s *spawned) mustAttach(stdin bool) *spawned {
	s.t.Helper()
	x, err := s.attach(stdin)
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

// send gives the process input.
func (s *spawned) send(text string) {
	s.t.Helper()
	if err := s.stream.Write(control.FrameStdin, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// expected is how long what an agent says is waited for.
const expected = 3 * time.Minute

// expect reads standard output until it contains text, and returns all of it.
func (s *spawned) expect(text string) string {
	s.t.Helper()
	var got string
	watchdog := time.AfterFunc(expected, func() { panic(fmt.Sprintf("%s: no %q from agent %s within %v", s.t.Name(), text, s.id, expected)) })
	defer watchdog.Stop()
	for !strings.Contains(got, text) {
		kind, p, err := s.stream.Read()
		if err != nil || kind == control.FrameExit {
			s.t.Fatalf("ended (%v, %q) without %q, after %q", err, p, text, got)
		}
		got += string(p)
	}
	return got
}

func (s *spawned) signal(sig int32) {
	s.t.Helper()
	if _, err := theKernel.Signal(control.SignalRequest{ID: s.id, ExecID: s.exec, Signal: sig}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *spawned) wait() control.Exit {
	s.t.Helper()
	return exits.wait(s.t, s.id, s.exec)
}

func (s *spawned) pause() {
	s.t.Helper()
	if _, err := theKernel.Pause(control.AgentRequest{ID: s.id}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *spawned) resume() {
	s.t.Helper()
	if _, err := theKernel.Resume(control.AgentRequest{ID: s.id}); err != nil {
		s.t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, want errdefs.Code) {
	t.Helper()
	if got := errdefs.CodeOf(err); got != want {
		t.Errorf("error %v (%s), want %s", err, got, want)
	}
}

// eventually polls until ok holds.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass")
		}
	}
}

func inspect(t testing.TB, id string) control.AgentStatus {
	t.Helper()
	st, err := theKernel.Inspect(control.AgentRequest{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// consumption is what must not grow.
type consumption struct {
	goroutines, fds, tasks int
}

func consumed(t testing.TB) consumption {
	t.Helper()
	st, err := theKernel.Stats(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return consumption{len(goroutines()), len(descriptors(t)), st.Tasks}
}

// goroutines returns the stacks of all but those that belong to the
// platform's pool of child processes, which keeps what it once needed.
func goroutines() (out []string) {
	buf := make([]byte, 4<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if !strings.Contains(g, "newSubprocess") && !strings.Contains(g, "ptrace.(*runner).serve") && !strings.Contains(g, "ptrace.serve") {
			out = append(out, g)
		}
	}
	return out
}

func descriptors(t testing.TB) (out []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if !strings.Contains(target, "seccomp notify") { // Of the platform's pool, as above.
			out = append(out, fd.Name()+" "+target)
		}
	}
	return out
}

// slack is what may come and go by itself: shells that wait for their agents,
// a stream that a test closes later. A leak in what is done dozens of times
// shows all the same.
var slack = consumption{goroutines: 8 * shellsReady, fds: 2}

// backTo waits until the process uses no more than before.
func backTo(t testing.TB, before consumption) {
	t.Helper()
	var now consumption
	for range 500 {
		now = consumed(t)
		if now.goroutines <= before.goroutines+slack.goroutines && now.fds <= before.fds+slack.fds && now.tasks <= before.tasks+slack.tasks {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("before %+v, now %+v\n%s\n%s", before, now, strings.Join(descriptors(t), "\n"), strings.Join(goroutines(), "\n\n"))
}

// everyGrant is all that an agent can be given without a host directory.
var everyGrant = []string{
	"mem:self", "proc:self", "cpu:self", "io:self", "net:loopback",
	"sys:namespace", "sys:mount", "sys:keys", "sys:introspect", "sys:async",
}

func grants(specs ...string) []control.Grant {
	var out []control.Grant
	for _, s := range specs {
		out = append(out, control.Grant{Spec: s})
	}
	return out
}

// granted gives an agent these grants in place of everyGrant.
func granted(specs ...string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Grants = grants(specs...) }
}

// withFiles gives an agent a grant of the files under a key besides.
func withFiles(spec, key string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Grants = append(r.Grants, control.Grant{Spec: spec, Key: key}) }
}

// instead replaces the grant of the same class.
func instead(spec string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) {
		class, _, _ := strings.Cut(spec, ":")
		for i := range r.Grants {
			if strings.HasPrefix(r.Grants[i].Spec, class+":") {
				r.Grants[i].Spec = spec
			}
		}
	}
}
