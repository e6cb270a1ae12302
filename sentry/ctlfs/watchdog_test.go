package ctlfs

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
)

func TestWatchdogFile(t *testing.T) {
	w := newWorld(t)
	w.k.dog.OnExpiry = "kill-agent"
	if got, want := w.cat(alice, "/self/watchdog"), "off on-expiry=kill-agent expired=0\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	fd := w.mustOpen(alice, "/self/watchdog", linux.O_RDWR|linux.O_TRUNC)
	defer fd.DecRef(w.ctx)
	for _, text := range []string{"30s\n", "feed", "\n", "1m30s", "off\n"} {
		if err := w.write(alice, fd, text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := fd.PWrite(w.as(alice), usermem.BytesIOSequence([]byte("feed\n")), 3, vfs.WriteOptions{}); err != nil {
		t.Errorf("at an offset: %v", err)
	}
	want := []WatchdogOrder{{Timeout: 30 * time.Second}, {Feed: true}, {Feed: true}, {Timeout: 90 * time.Second}, {}, {Feed: true}}
	if !slices.Equal(w.k.orders, want) {
		t.Errorf("orders %+v, want %+v", w.k.orders, want)
	}
	for _, bad := range []string{"0", "-1s", "999ms", "25h", "off off", "feed 3", "30", "V", strings.Repeat("1", 65)} {
		if err := w.write(alice, fd, bad); err != linuxerr.EINVAL {
			t.Errorf("%q: %v", bad, err)
		}
	}
	// Whoever it was passed to does not feed it.
	if err := w.write(bob, fd, "feed"); err != linuxerr.EPERM || !strings.Contains(w.k.takeDenied(), bob+" use /aios/self/watchdog") {
		t.Errorf("another agent: %v", err)
	}
	w.k.dog = Watchdog{Timeout: 30 * time.Second, Left: 12250 * time.Millisecond, ByOwner: true, OnExpiry: "deliver,2/1m0s:restart", Expired: 3}
	if err := w.write(alice, fd, "off"); err != linuxerr.EACCES || !strings.Contains(w.k.takeDenied(), alice+" watchdog off PERMISSION_DENIED") {
		t.Errorf("off, of one that the owner has armed: %v", err)
	}
	if _, err := fd.Seek(w.as(alice), 0, linux.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	got, err := w.read(alice, fd)
	if want := "armed timeout=30s left=12.25s by=owner on-expiry=deliver,2/1m0s:restart expired=3\n"; err != nil || got != want {
		t.Errorf("%q %v, want %q", got, err, want)
	}
}

func FuzzWatchdog(f *testing.F) {
	for _, seed := range []string{"feed", "off\n", "30s", "1h2m3.5s", "-1s", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		o, err := ParseWatchdog(text)
		if err == nil && !o.Feed && o.Timeout != 0 && (o.Timeout < abi.MinWatchdog || o.Timeout > abi.MaxWatchdog) {
			t.Errorf("%q: %+v", text, o)
		}
	})
}
