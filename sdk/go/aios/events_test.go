package aios

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/ctlfs/command"
)

// pipeFile is a pipe in the place of /aios/events.
type pipeFile struct {
	*os.File
	lines   []string
	refuse  error
	readErr error
}

func (p *pipeFile) Write(b []byte) (int, error) {
	p.lines = append(p.lines, string(b))
	if p.refuse != nil {
		return 0, p.refuse
	}
	return len(b), nil
}

func (p *pipeFile) Read(b []byte) (int, error) {
	if p.readErr != nil {
		return 0, p.readErr
	}
	return p.File.Read(b)
}

func useEvents(t *testing.T) (f *pipeFile, kernel *os.File) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	f = &pipeFile{File: r}
	old := listen
	listen = func() (eventsFile, error) { return f, nil }
	t.Cleanup(func() {
		listen = old
		r.Close()
		w.Close()
	})
	return f, w
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// What the kernel writes is read back.
func TestEventsAreReadAsWritten(t *testing.T) {
	_, kernel := useEvents(t)
	events, err := Watch(Choice{})
	if err != nil {
		t.Fatal(err)
	}
	e := event.Event{
		Seq: 7, Source: "k1", Wall: 1e18 + 5, Domain: "default", Agent: "a0123456789ab", Correlation: "r1", Type: event.AgentExec,
		Severity: event.Notice, Payload: &eventv1.AgentExec{Path: "/bin/\"x\"\n"},
	}
	lost := event.Event{Seq: 1, Source: "k1.1", Type: event.BusLost, Severity: event.Warning, Domain: "d", Payload: &eventv1.BusLost{Count: 3}}
	text := string(e.AppendJSON(nil)) + "\n" + string(lost.AppendJSON(nil)) + "\n"
	write(t, kernel, text[:30])
	go func() {
		time.Sleep(10 * time.Millisecond)
		kernel.WriteString(text[30:])
	}()
	got, err := events.Next(t.Context())
	if err != nil || got.ID != "k1-7" || got.Topic != "agent.exec" || got.Time.UnixNano() != 1e18+5 || got.Severity != "notice" || got.Domain != "default" ||
		got.Agent != "a0123456789ab" || got.Correlation != "r1" || string(got.Data) != `{"path":"/bin/\"x\"\n"}` {
		t.Errorf("%+v, %v", got, err)
	}
	for got, err := range events.All(t.Context()) {
		if err != nil || got.Topic != "bus.lost" || got.Agent != "" || string(got.Data) != `{"count":3}` {
			t.Errorf("%+v, %v", got, err)
		}
		break
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := events.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with nothing there: %+v, %v", got, err)
	}
	write(t, kernel, text)
	if got, err := events.Next(t.Context()); err != nil || got.ID != "k1-7" {
		t.Errorf("after it had waited in vain: %+v, %v", got, err)
	}
	if err := events.Close(); err != nil {
		t.Error(err)
	}
}

// TestChoiceIsUnderstood has the kernel's parser read what is written.
func TestChoiceIsUnderstood(t *testing.T) {
	f, _ := useEvents(t)
	for want, c := range map[string]Choice{
		"queue=1024 policy=drop-oldest":                                              {Severity: ""},
		"queue=9 policy=disconnect topics=agent.*@worker,net.* severity=notice":      {Topics: []string{"agent.*@worker", "net.*"}, Severity: "notice", Policy: "disconnect", Queue: 9},
		"queue=1024 policy=drop-oldest topics=*@self filter=data.code != 0 && true ": {Topics: []string{"*@self"}, Filter: "data.code != 0 && true "},
	} {
		f.lines = []string{""}
		if _, err := Watch(c); err != nil {
			t.Error(err)
			continue
		}
		line := f.lines[len(f.lines)-1]
		w, err := command.ParseWatch(line)
		if err != nil || w.String() != want {
			t.Errorf("%+v is written %q, which is %+v, %v", c, line, w, err)
		}
	}
	f.lines = nil
	for _, c := range []Choice{{Topics: []string{""}}, {Topics: []string{"a,b"}}, {Topics: []string{"a b"}}, {Severity: "x y"}, {Policy: "\n"}, {Filter: "a\nqueue=1"}} {
		if _, err := Watch(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	if len(f.lines) != 0 {
		t.Errorf("written: %q", f.lines)
	}
}

func TestEventsRefused(t *testing.T) {
	f, kernel := useEvents(t)
	f.refuse = &os.PathError{Op: "write", Path: "/aios/events", Err: syscall.EPERM}
	write(t, kernel, "error CAPABILITY_DENIED: it holds nothing\nfix: ask for event:*\n")
	_, err := Watch(Choice{Topics: []string{"*@other"}})
	var e *Error
	if !errors.As(err, &e) || e.Code != "CAPABILITY_DENIED" || e.Fix != "ask for event:*" || !errors.Is(err, syscall.EPERM) {
		t.Errorf("%+v", err)
	}
	for errno, says := range map[syscall.Errno]string{syscall.EACCES: "listen anew", syscall.ENOBUFS: "read faster"} {
		f, _ := useEvents(t)
		events, err := Watch(Choice{})
		if err != nil {
			t.Fatal(err)
		}
		f.readErr = &os.PathError{Op: "read", Path: "/aios/events", Err: errno}
		for range 2 {
			if _, err := events.Next(t.Context()); !errors.Is(err, errno) || !strings.Contains(err.Error(), says) {
				t.Errorf("%v: %v", errno, err)
			}
		}
	}
	for _, line := range []string{"", "{}", "[]", "error X: y", `{"id":"x","type":"other","source":"/aios/d"}`} {
		if e, err := ParseEvent([]byte(line)); err == nil {
			t.Errorf("%q is read as %+v", line, e)
		}
	}
}
