package daemon

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/images"
	"aios.dev/aios/ktime"
)

// exitWait is how long the end of a stream waits for the news of why.
const exitWait = time.Second

// followEvery is how often a followed log is looked at.
const followEvery = 100 * time.Millisecond

// after is time.After on a clock.
func after(c ktime.Clock, d time.Duration) <-chan struct{} {
	ch := make(chan struct{})
	c.AfterFunc(d, func() { close(ch) })
	return ch
}

// Logs implements the RPC.
func (d *System) Logs(req *apiv1.LogsRequest, rpc grpc.ServerStreamingServer[apiv1.LogsResponse]) error {
	r, err := d.find(req.GetAgent())
	if err != nil {
		return err
	}
	f, err := os.Open(d.logPath(r.id))
	if errors.Is(err, fs.ErrNotExist) && !r.final() {
		return errdefs.New(errdefs.WrongState, "the agent is starting, and has no log yet", errdefs.Resource("%s", r.label()))
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "read log", errdefs.Resource("%s", r.label()))
	}
	defer f.Close()
	l := &logReader{f: f}
	wanted := func(rec control.LogRecord) bool {
		return req.GetStdout() == req.GetStderr() || rec.Stderr == req.GetStderr()
	}
	if n := req.GetTailLines(); n > 0 {
		if err := l.tail(int(n), wanted); err != nil {
			return err
		}
	}
	for {
		ended := r.final() // Asked first: what was written before the end is then there.
		if err := l.each(wanted, func(rec control.LogRecord) error {
			return rpc.Send(&apiv1.LogsResponse{TimeUnixNano: rec.Time.UnixNano(), Stderr: rec.Stderr, Data: rec.Data})
		}); err != nil {
			return err
		}
		if !req.GetFollow() || ended {
			return nil
		}
		select {
		case <-rpc.Context().Done():
			return nil
		case <-r.done:
		case <-after(d.clock, followEvery):
		}
	}
}

// logReader reads a log that may grow, and may lose its older half, while it
// is read.
type logReader struct {
	f     *os.File
	at    int64
	skip  int     // bytes of the first record to leave out
	first [8]byte // what the log began with: the time of its oldest record
}

// halved reports whether the older half was dropped since the last call.
func (l *logReader) halved() bool {
	var now [8]byte
	if n, _ := l.f.ReadAt(now[:], 0); n < len(now) {
		return l.at > 0 // It is being done right now.
	}
	changed := now != l.first
	l.first = now
	return changed
}

// each calls f for every complete record from the current place on. When the
// older half was dropped it shows what is left again, rather than lose some.
func (l *logReader) each(wanted func(control.LogRecord) bool, f func(control.LogRecord) error) error {
	if l.halved() {
		l.at = 0
	}
	for {
		rec, n, err := control.ReadLogRecord(io.NewSectionReader(l.f, l.at, control.MaxLogRecord+64))
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			if l.halved() {
				l.at, l.skip = 0, 0
				continue
			}
			return err
		}
		l.at += int64(n)
		if !wanted(rec) {
			continue
		}
		rec.Data = rec.Data[min(l.skip, len(rec.Data)):]
		l.skip = 0
		if len(rec.Data) == 0 {
			continue
		}
		if err := f(rec); err != nil {
			return err
		}
	}
}

// tail moves to where the last n lines begin.
func (l *logReader) tail(n int, wanted func(control.LogRecord) bool) error {
	type mark struct {
		at   int64
		skip int
	}
	var starts []mark // of the last n+1 lines
	fresh := true     // the next byte begins a line
	at := l.at
	err := l.each(wanted, func(rec control.LogRecord) error {
		for i, b := range rec.Data {
			if fresh {
				starts = append(starts, mark{l.at - int64(len(rec.Data)) - logOverhead, i})
				if len(starts) > n {
					starts = starts[1:]
				}
			}
			fresh = b == '\n'
		}
		return nil
	})
	l.at = at
	if len(starts) > 0 {
		l.at, l.skip = starts[0].at, starts[0].skip
	}
	return err
}

// logOverhead is what a record takes beside its data, in bytes.
var logOverhead = int64(len(control.AppendLogRecord(nil, control.LogRecord{})))

// configOf returns the configuration of the image that an agent runs.
func (d *System) configOf(r *record) (images.Config, error) {
	name := imageName(r.spec())
	if name == images.HostName {
		return images.Config{}, nil
	}
	img, err := d.images.Get(name)
	if errdefs.CodeOf(err) == errdefs.ImageNotFound {
		return images.Config{}, nil // Removed since; the defaults will do.
	}
	return img.Config, err
}

// residentOf returns the proportional memory of a kernel process and its
// stubs, in bytes.
func residentOf(pid int) uint64 {
	sum, err := pss(pid)
	if err != nil { // It is another user's, and the daemon lacks CAP_SYS_PTRACE.
		sum = rss(pid)
	}
	return sum + stubsOf(pid)
}

// stubsOf returns the memory of the children of a process, and theirs. What
// they share is the kernel process's.
func stubsOf(pid int) uint64 {
	var sum uint64
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, t := range tasks {
		raw, _ := os.ReadFile(t)
		for _, c := range strings.Fields(string(raw)) {
			if n, err := strconv.Atoi(c); err == nil {
				own, _ := pss(n)
				sum += own + stubsOf(n)
			}
		}
	}
	return sum
}

// pss is the memory of a process, what it shares with others divided among
// them.
func pss(pid int) (uint64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return n << 10, nil
		}
	}
	return 0, nil
}

// rss is the memory of a process, what it shares with others counted in full.
// Any user may know that of any process.
func rss(pid int) uint64 {
	raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if f := strings.Fields(string(raw)); len(f) > 1 {
		n, _ := strconv.ParseUint(f[1], 10, 64)
		return n * uint64(os.Getpagesize())
	}
	return 0
}
