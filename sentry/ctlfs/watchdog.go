package ctlfs

import (
	"fmt"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// maxOrder is the longest text that can be meant for a watchdog.
const maxOrder = 64

// Watchdog is an agent's watchdog as it stands.
type Watchdog struct {
	// Timeout is 0 while it is not armed; Left is until it expires.
	Timeout, Left time.Duration
	// ByOwner says that the agent cannot disarm it.
	ByOwner bool
	// OnExpiry is the rule of what happens then.
	OnExpiry string
	// Expired counts how often it has expired.
	Expired uint64
}

// String is the text of /aios/self/watchdog.
func (w Watchdog) String() string {
	if w.Timeout == 0 {
		return fmt.Sprintf("off on-expiry=%s expired=%d\n", w.OnExpiry, w.Expired)
	}
	by := "agent"
	if w.ByOwner {
		by = "owner"
	}
	return fmt.Sprintf("armed timeout=%v left=%v by=%s on-expiry=%s expired=%d\n", w.Timeout, w.Left, by, w.OnExpiry, w.Expired)
}

// WatchdogOrder is what an agent writes: Feed, or a timeout to arm it with, 0
// to disarm it.
type WatchdogOrder struct {
	Feed    bool
	Timeout time.Duration
}

// ParseWatchdog reads "feed" or nothing, "off", or a duration.
func ParseWatchdog(text string) (WatchdogOrder, error) {
	switch text = strings.TrimSuffix(text, "\n"); text {
	case "", "feed":
		return WatchdogOrder{Feed: true}, nil
	case "off":
		return WatchdogOrder{}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < abi.MinWatchdog || d > abi.MaxWatchdog {
		return WatchdogOrder{}, errdefs.New(errdefs.InvalidArgument, "it is nothing to tell a watchdog", errdefs.Resource("%q", text),
			errdefs.Fix("write feed, off, or a time from %v to %v such as 30s", abi.MinWatchdog, abi.MaxWatchdog))
	}
	return WatchdogOrder{Timeout: d}, nil
}

func (s *session) watchdog() ([]byte, error) {
	w, err := s.auth.Watchdog(s.agent)
	return []byte(w.String()), err
}

// watchdogFile is /aios/self/watchdog. It is read like any file, and takes
// orders.
type watchdogFile struct{ inode }

var _ kernfs.Inode = (*watchdogFile)(nil)

func (fs *filesystem) newWatchdogFile(ctx context.Context, e *entry) *watchdogFile {
	f := &watchdogFile{}
	f.init(ctx, fs, e)
	return f
}

// Open implements kernfs.Inode.
func (f *watchdogFile) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd := &watchdogFD{}
	vfsfd, err := f.open(ctx, &fd.openFile, fd, rp, d, opts, vfs.FileDescriptionOptions{})
	if err != nil {
		return nil, err
	}
	fd.text.Init(vfsfd, fd)
	return vfsfd, nil
}

// watchdogFD is an open watchdogFile.
type watchdogFD struct{ readFile }

// Write implements vfs.FileDescriptionImpl. Each write is one order.
func (f *watchdogFD) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	return f.order(ctx, src)
}

// PWrite implements vfs.FileDescriptionImpl.
func (f *watchdogFD) PWrite(ctx context.Context, src usermem.IOSequence, _ int64, _ vfs.WriteOptions) (int64, error) {
	return f.order(ctx, src)
}

func (f *watchdogFD) order(ctx context.Context, src usermem.IOSequence) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	if src.NumBytes() == 0 {
		return 0, nil
	}
	if src.NumBytes() > maxOrder {
		return 0, linuxerr.EINVAL
	}
	text := make([]byte, src.NumBytes())
	if _, err := src.CopyIn(ctx, text); err != nil {
		return 0, err
	}
	o, err := ParseWatchdog(string(text))
	if err == nil {
		err = f.session.auth.SetWatchdog(f.session.agent, o)
	}
	if err != nil {
		f.session.report("watchdog", strings.TrimSpace(string(text)), err)
		return 0, errnoOf(err)
	}
	return int64(len(text)), nil
}
