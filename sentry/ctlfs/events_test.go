package ctlfs

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/ctlfs/command"
)

// exec publishes that an agent runs a program.
func (w *world) exec(agent, path string) {
	w.k.bus.Publish(event.Event{Type: event.AgentExec, Agent: agent, Payload: &eventv1.AgentExec{Path: path}})
}

// settle waits until everything that was published is with its subscribers.
func (w *world) settle() {
	w.t.Helper()
	sub, err := w.k.bus.Subscribe(event.Options{Topics: []string{"daemon.stop"}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer sub.Close(nil)
	w.k.bus.Publish(event.Event{Type: event.DaemonStop})
	if _, err := sub.Next(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

// readOnce reads once, into a buffer of that size.
func (w *world) readOnce(agent string, fd *vfs.FileDescription, size int) (string, error) {
	buf := make([]byte, size)
	n, err := fd.Read(w.as(agent), usermem.BytesIOSequence(buf), vfs.ReadOptions{})
	return string(buf[:n]), err
}

// line is what the tests look at of a line.
type line struct {
	Type, Subject, ID string
	Data              map[string]any
}

// parse reads whole lines.
func parse(t *testing.T, text string) (out []line) {
	t.Helper()
	for l := range strings.Lines(text) {
		var got line
		if err := json.Unmarshal([]byte(l), &got); err != nil || !strings.HasSuffix(l, "\n") {
			t.Fatalf("not a line of JSON: %q: %v", l, err)
		}
		out = append(out, got)
	}
	return out
}

func paths(lines []line) string {
	var out []string
	for _, l := range lines {
		if l.Type == "dev.aios.bus.lost" {
			out = append(out, fmt.Sprint("lost:", l.Data["count"]))
			continue
		}
		out = append(out, fmt.Sprint(l.Data["path"]))
	}
	return strings.Join(out, " ")
}

func TestEventsAreReadAsWholeLines(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/events", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	if _, err := w.readOnce(alice, fd, 100); err != linuxerr.ErrWouldBlock {
		t.Errorf("with nothing there: %v", err)
	}
	for i := range 20 {
		w.exec(alice, fmt.Sprint("/bin/", i))
		w.exec(bob, "/bin/secret")
	}
	w.settle()
	var all string
	for {
		text, err := w.readOnce(alice, fd, 1000)
		if err == linuxerr.ErrWouldBlock {
			break
		}
		if err != nil || text == "" || !strings.HasSuffix(text, "}\n") {
			t.Fatalf("%q, %v", text, err)
		}
		all += text
	}
	lines := parse(t, all)
	if len(lines) != 20 || strings.Contains(all, "secret") {
		t.Fatalf("%d lines\n%s", len(lines), all)
	}
	for i, l := range lines {
		if l.Type != "dev.aios.agent.exec" || l.Subject != alice || l.Data["path"] != fmt.Sprint("/bin/", i) {
			t.Errorf("line %d is %+v", i, l)
		}
	}

	// What is larger than the buffer comes in parts, and nothing is lost.
	w.exec(alice, "/"+strings.Repeat("x", 4000))
	w.exec(alice, "/after")
	w.settle()
	all = ""
	for {
		text, err := w.readOnce(alice, fd, 777)
		if err == linuxerr.ErrWouldBlock {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all += text
	}
	if lines := parse(t, all); len(lines) != 2 || len(lines[0].Data["path"].(string)) != 4001 || lines[1].Data["path"] != "/after" {
		t.Errorf("in parts: %q", all)
	}
}

func TestEventsAreChosenByWriting(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/events", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	w.exec(alice, "/before")
	w.settle()
	if err := w.write(alice, fd, "topics=agent.exec,agent.exit severity=info filter=data.path.startsWith(\"/bin/\") && agent_name == \"alice\"\n"); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxLook { // More than one call looks at.
		w.exec(alice, fmt.Sprint("/tmp/", i))
	}
	w.exec(alice, "/bin/true")
	w.k.bus.Publish(event.Event{Type: event.AgentPause, Agent: alice})
	w.exec(alice, "/bin/false")
	w.settle()
	var all string
	for tries := 0; tries < 10 && strings.Count(all, "\n") < 2; tries++ {
		text, err := w.readOnce(alice, fd, 10000)
		if err != nil && err != linuxerr.ErrWouldBlock {
			t.Fatal(err)
		}
		all += text
	}
	if got := paths(parse(t, all)); got != "/bin/true /bin/false" {
		t.Errorf("got %s", got)
	}
}

func TestEventsRefusals(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/events", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	w.exec(alice, "/kept")
	w.settle()
	for text, want := range map[string]struct {
		errno            error
		says, deniedCode string
	}{
		"topics=agnt.exec":                    {linuxerr.EINVAL, "error INVALID_ARGUMENT: ", ""},
		"topics=*\nseverity=x":                {linuxerr.EINVAL, "error INVALID_ARGUMENT: ", ""},
		"filter=nothing == 1":                 {linuxerr.EINVAL, "column 1", ""},
		"topics=agent.*@bob":                  {linuxerr.EPERM, "error CAPABILITY_DENIED: ", alice + " subscribe event:agent.*@bob CAPABILITY_DENIED"},
		strings.Repeat("x", command.MaxLen+2): {linuxerr.E2BIG, "", ""},
	} {
		if err := w.write(alice, fd, text); err != want.errno {
			t.Errorf("%.40q: %v, want %v", text, err, want.errno)
		}
		if got := w.k.takeDenied(); got != want.deniedCode {
			t.Errorf("%.40q: reported %q", text, got)
		}
		if want.says == "" {
			continue
		}
		if r := fd.Readiness(waiter.ReadableEvents); r == 0 {
			t.Errorf("%.40q: the explanation cannot be waited for", text)
		}
		var got string
		for !strings.Contains(got, "fix: ") || !strings.HasSuffix(got, "\n") {
			text, err := w.readOnce(alice, fd, 30)
			if err != nil {
				t.Fatal(err)
			}
			got += text
		}
		if !strings.Contains(got, want.says) || strings.Count(got, "\n") != 2 || strings.Contains(got, "{") {
			t.Errorf("%.40q is explained by %q", text, got)
		}
	}
	if text, err := w.readOnce(alice, fd, 1000); err != nil || !strings.Contains(text, "/kept") {
		t.Errorf("after refusals it is not as it was: %q, %v", text, err)
	}
	if _, err := w.open(alice, "/events", linux.O_WRONLY); err != linuxerr.EINVAL {
		t.Errorf("open for writing: %v", err)
	}
	if _, err := w.open(bob, "/events", linux.O_RDONLY); err != linuxerr.EPERM {
		t.Errorf("bob opens it: %v", err)
	}
	if got := w.k.takeDenied(); got != bob+" open /aios/events CAPABILITY_DENIED" {
		t.Errorf("reported: %q", got)
	}
	if _, err := w.open(nobody, "/events", linux.O_RDONLY); err != linuxerr.EPERM {
		t.Errorf("a task of no agent opens it: %v", err)
	}
	if _, err := fd.Seek(w.as(alice), 0, linux.SEEK_SET); err != linuxerr.ESPIPE {
		t.Errorf("seek: %v", err)
	}
	ro := w.mustOpen(alice, "/events", linux.O_RDONLY)
	defer ro.DecRef(w.ctx)
	if err := w.write(alice, ro, "topics=*"); err != linuxerr.EBADF {
		t.Errorf("write to what was opened for reading: %v", err)
	}
}

func TestEventsServeTheirAgentAlone(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/events", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	w.exec(alice, "/private")
	w.settle()
	if text, err := w.readOnce(bob, fd, 1000); err != linuxerr.EPERM || text != "" {
		t.Errorf("bob reads %q, %v", text, err)
	}
	if err := w.write(bob, fd, "topics=*"); err != linuxerr.EPERM {
		t.Errorf("bob writes: %v", err)
	}
	if got := w.k.takeDenied(); got != bob+" use /aios/events CAPABILITY_DENIED; "+bob+" use /aios/events CAPABILITY_DENIED" {
		t.Errorf("reported: %s", got)
	}
	if text, err := w.readOnce(alice, fd, 1000); err != nil || !strings.Contains(text, "/private") {
		t.Errorf("alice reads %q, %v", text, err)
	}
}

// waits registers for what a blocked read or a poll waits for.
func waits(t *testing.T, fd *vfs.FileDescription, mask waiter.EventMask) <-chan struct{} {
	t.Helper()
	e, ch := waiter.NewChannelEntry(mask)
	if err := fd.EventRegister(&e); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fd.EventUnregister(&e) })
	return ch
}

func woken(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(time.Minute):
		t.Fatal("nobody was woken")
	}
}

func TestEventsWakeWhoWaits(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/events", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	const all = waiter.ReadableEvents | waiter.WritableEvents | waiter.EventHUp | waiter.EventErr
	if r := fd.Readiness(all); r != waiter.WritableEvents {
		t.Errorf("with nothing there it is ready for %b", r)
	}
	if !fd.Epollable() {
		t.Error("it cannot be used with epoll")
	}
	ch := waits(t, fd, waiter.EventIn)
	w.exec(alice, "/x")
	woken(t, ch)
	if r := fd.Readiness(all); r != waiter.WritableEvents|waiter.ReadableEvents {
		t.Errorf("with an event it is ready for %b", r)
	}
	w.exec(alice, "/y")
	w.settle()
	hup := waits(t, fd, waiter.EventHUp|waiter.EventErr)
	w.k.watch.revoke(errdefs.New(errdefs.CapabilityRevoked, "it was revoked by operator"))
	woken(t, hup)
	if r := fd.Readiness(all); r != waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr {
		t.Errorf("after the end it is ready for %b", r)
	}
	for range 2 {
		if text, err := w.readOnce(alice, fd, 1000); err != linuxerr.EACCES || text != "" {
			t.Errorf("read after the end: %q, %v", text, err)
		}
		if err := w.write(alice, fd, "topics=*"); err != linuxerr.EACCES {
			t.Errorf("write after the end: %v", err)
		}
	}
	other := w.mustOpen(alice, "/events", linux.O_RDONLY)
	watch := w.k.watch
	other.DecRef(w.ctx)
	if !watch.closed {
		t.Error("the end of the file does not end the subscription")
	}
}

// TestNothingIsReadAfterTheEnd revokes while lines are read in small parts.
func TestNothingIsReadAfterTheEnd(t *testing.T) {
	for range 50 {
		w := newWorld(t)
		fd := w.mustOpen(alice, "/events", linux.O_RDWR)
		for i := range 100 {
			w.exec(alice, fmt.Sprint("/bin/", i))
		}
		w.settle()
		var over sync.WaitGroup
		revoked := make(chan struct{})
		over.Go(func() {
			for {
				select {
				case <-revoked:
					if text, err := w.readOnce(alice, fd, 50); err != linuxerr.EACCES || text != "" {
						t.Errorf("%q, %v", text, err)
					}
					return
				default:
					w.readOnce(alice, fd, 50)
				}
			}
		})
		w.k.watch.revoke(errdefs.New(errdefs.LeaseExpired, "its lease has ended"))
		close(revoked)
		over.Wait()
		fd.DecRef(w.ctx)
	}
}

func TestGapsAreAnnounced(t *testing.T) {
	for policy, want := range map[string]string{
		"drop-oldest": "lost:7 7 8 9 10",
		"drop-newest": "0 1 2 lost:7 10",
		"disconnect":  "0 1 2 lost:1",
	} {
		w := newWorld(t)
		fd := w.mustOpen(alice, "/events", linux.O_RDWR)
		if err := w.write(alice, fd, "topics=agent.exec queue=3 policy="+policy); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			w.exec(alice, fmt.Sprint(i))
			w.settle() // One by one.
		}
		text, err := w.readOnce(alice, fd, 10000)
		if err != nil {
			t.Fatal(err)
		}
		w.exec(alice, "10")
		w.settle()
		rest, err := w.readOnce(alice, fd, 10000)
		if policy == "disconnect" {
			if err != linuxerr.ENOBUFS || fd.Readiness(waiter.EventHUp) == 0 {
				t.Errorf("after it was disconnected: %q, %v", rest, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", policy, err)
		}
		if got := paths(parse(t, text+rest)); got != want {
			t.Errorf("%s: got %s, want %s", policy, got, want)
		}
		fd.DecRef(w.ctx)
	}
}

// TestTheBusDropsSome: a reader is told that some may be missing, not how many
// of others.
func TestTheBusDropsSome(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/events", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	w.k.watch.mu.Lock()
	w.k.watch.dropped = true
	w.k.watch.mu.Unlock()
	w.exec(alice, "/x")
	w.settle()
	text, err := w.readOnce(alice, fd, 10000)
	if err != nil {
		t.Fatal(err)
	}
	lines := parse(t, text)
	if len(lines) != 2 || lines[0].Type != "dev.aios.bus.lost" || lines[0].Data["where"] != "ring" || lines[0].Data["count"] != nil || lines[1].Data["path"] != "/x" {
		t.Errorf("%+v", lines)
	}
}
