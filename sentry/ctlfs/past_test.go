package ctlfs

import (
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/waiter"
)

func TestTemplateFile(t *testing.T) {
	w := newWorld(t)
	w.k.past.Job = []byte("{}\n")
	for _, x := range []struct {
		past Past
		want string
	}{{Past{}, "none\n"}, {Past{Warming: true}, "warming\n"}, {Past{Template: "py"}, "from py\n"}} {
		w.k.past = x.past
		if got := w.cat(alice, "/self/template"); got != x.want {
			t.Errorf("%+v: %q, want %q", x.past, got, x.want)
		}
	}
	fd := w.mustOpen(alice, "/self/template", linux.O_RDWR|linux.O_TRUNC)
	defer fd.DecRef(w.ctx)
	for _, bad := range []string{"", "warm", "ready ready", "ready\n\n", strings.Repeat("r", 65), "\x00"} {
		if err := w.write(alice, fd, bad); err != linuxerr.EINVAL {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if w.k.ready != 0 {
		t.Errorf("it was said %d times that the program is warm", w.k.ready)
	}
	if err := w.write(alice, fd, "ready\n"); err != nil || w.k.ready != 1 {
		t.Errorf("where no template is made: %v, said %d times", err, w.k.ready)
	}
	w.k.past = Past{Warming: true}
	for range 2 {
		if err := w.write(alice, fd, "ready"); err != linuxerr.ErrWouldBlock {
			t.Errorf("where one is made: %v", err)
		}
	}
	if got := fd.Readiness(waiter.ReadableEvents | waiter.WritableEvents); got&waiter.WritableEvents != 0 {
		t.Errorf("readiness %#x", got)
	}
	w.k.past = Past{Template: "py"}
	if got := fd.Readiness(waiter.WritableEvents); got == 0 {
		t.Error("a copy cannot write")
	}
	if err := w.write(bob, fd, "ready"); err != linuxerr.EPERM || !strings.Contains(w.k.takeDenied(), bob+" use /aios/self/template") {
		t.Errorf("another agent: %v", err)
	}
}

func TestJobFile(t *testing.T) {
	w := newWorld(t)
	w.k.past.Job = []byte(`{"args":["a"],"env":{}}` + "\n")
	if got := w.cat(alice, "/self/job"); got != string(w.k.past.Job) {
		t.Errorf("%q", got)
	}
	if _, err := w.open(alice, "/self/job", linux.O_RDWR); err == nil {
		t.Error("it can be written to")
	}
}

func TestClonesFile(t *testing.T) {
	w := newWorld(t)
	fd := w.mustOpen(alice, "/self/clones", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	if fd.Readiness(waiter.ReadableEvents) == 0 {
		t.Error("it was not read, and is not ready")
	}
	for _, want := range []string{"0 -\n", "", ""} {
		if got, err := w.read(alice, fd); got != want || err != nil {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	}
	if fd.Readiness(waiter.ReadableEvents) != 0 {
		t.Error("it was read, and is ready")
	}
	w.k.past = Past{Copies: 3, From: alice}
	if got, _ := w.read(alice, fd); got != "" {
		t.Errorf("%q of a description that was read", got)
	}
	if got, want := w.cat(alice, "/self/clones"), "3 "+alice+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := w.write(alice, fd, "signal\n"); err != nil || !w.k.wants {
		t.Errorf("signal: %v", err)
	}
	if err := w.write(alice, fd, "off"); err != nil || w.k.wants {
		t.Errorf("off: %v", err)
	}
	for _, bad := range []string{"44", "signal off", "", strings.Repeat("s", 65)} {
		if err := w.write(alice, fd, bad); err != linuxerr.EINVAL {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := w.write(bob, fd, "signal"); err != linuxerr.EPERM {
		t.Errorf("another agent: %v", err)
	}
	if _, err := w.read(bob, fd); err != linuxerr.EPERM {
		t.Errorf("another agent reads: %v", err)
	}
	if _, err := fd.Seek(w.as(alice), 0, linux.SEEK_SET); err != linuxerr.ESPIPE {
		t.Errorf("seek: %v", err)
	}
}
