package grantfs

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	fslock "gvisor.dev/gvisor/pkg/sentry/fsimpl/lock"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/abi"
)

// blocked starts do on another goroutine and returns when it has begun; what it
// comes to is sent.
func (u user) blocked(do func(u user) error) <-chan error {
	begun, done := make(chan struct{}), make(chan error, 1)
	go func() {
		close(begun)
		done <- do(u.another())
	}()
	<-begun
	time.Sleep(10 * time.Millisecond) // It may block now, or a little later: both must do.
	return done
}

func wantWoken(t *testing.T, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		wantErrno(t, what, err, unix.EACCES)
	case <-time.After(time.Minute):
		t.Fatalf("%s: it is not woken", what)
	}
}

// readBlocking reads as the system call does: it waits until it can.
func (u user) readBlocking(fd *vfs.FileDescription) error {
	e, ch := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	if err := fd.EventRegister(&e); err != nil {
		return err
	}
	defer fd.EventUnregister(&e)
	for {
		_, err := fd.Read(u.ctx, usermem.BytesIOSequence(make([]byte, 1)), vfs.ReadOptions{})
		if err != linuxerr.ErrWouldBlock {
			return err
		}
		if err := u.ctx.Block(ch); err != nil {
			return err
		}
	}
}

// TestBlockedAreWoken revokes under everything that can block.
func TestBlockedAreWoken(t *testing.T) {
	w := newWorld(t)
	raw, agent := w.raw(), w.agent()
	must(t, raw.writeFile("/f", "text"))
	for _, name := range []string{"/open", "/read"} {
		must(t, raw.mknod(name, linux.S_IFIFO|0o666))
	}
	fs := w.grant("/g", "/", Options{Rights: allRights})

	fifo := agent.mustOpen("/g/read", linux.O_RDWR)
	opening := agent.blocked(func(u user) error { return u.opens("/g/open", linux.O_RDONLY) })
	openingW := agent.blocked(func(u user) error { return u.opens("/g/open", linux.O_WRONLY|linux.O_NONBLOCK) })
	<-openingW // It met the reader, or not: both are over.
	reading := agent.blocked(func(u user) error { return u.readBlocking(fifo) })

	other := raw.mustOpen("/f", linux.O_RDWR)
	must(t, other.LockBSD(raw.ctx, 1, fslock.WriteLock, false))
	must(t, other.LockPOSIX(raw.ctx, "other", 1, fslock.WriteLock, fslock.LockRange{Start: 0, End: 10}, false))
	mine := agent.mustOpen("/g/f", linux.O_RDWR)
	flock := agent.blocked(func(u user) error { return mine.LockBSD(u.ctx, 2, fslock.WriteLock, true) })
	fcntl := agent.blocked(func(u user) error {
		return mine.LockPOSIX(u.ctx, "mine", 2, fslock.ReadLock, fslock.LockRange{Start: 5, End: 6}, true)
	})

	var polled atomic.Uint64
	e := waiter.NewFunctionEntry(waiter.EventHUp|waiter.EventErr, func(m waiter.EventMask) { polled.Or(uint64(m)) })
	must(t, fifo.EventRegister(&e))
	defer fifo.EventUnregister(&e)
	polled.Store(0)

	fs.Revoke()
	if polled.Load() == 0 {
		t.Error("who polls is not told before Revoke returns")
	}
	if got := fifo.Readiness(waiter.ReadableEvents); got&waiter.EventErr == 0 || got&waiter.EventHUp == 0 {
		t.Errorf("the FIFO is ready for %#x, want an error and a hang-up", got)
	}
	select {
	case err := <-opening:
		if err != nil { // It may have met the writer.
			wantErrno(t, "open a FIFO", err, unix.EACCES)
		}
	case <-time.After(time.Minute):
		t.Fatal("open a FIFO: it is not woken")
	}
	wantWoken(t, "read a FIFO", reading)
	wantWoken(t, "flock", flock)
	wantWoken(t, "fcntl", fcntl)
}

// TestOpenOfFIFOIsWoken revokes while the opening of a FIFO waits for its other
// end, at each end.
func TestOpenOfFIFOIsWoken(t *testing.T) {
	for _, flags := range []uint32{linux.O_RDONLY, linux.O_WRONLY} {
		w := newWorld(t)
		agent := w.agent()
		fs := w.grant("/g", "/", Options{Rights: allRights})
		must(t, agent.mknod("/g/p", linux.S_IFIFO|0o666))
		opening := agent.blocked(func(u user) error { return u.opens("/g/p", flags) })
		fs.Revoke()
		wantWoken(t, "open a FIFO", opening)
	}
}

// TestBlockedWhileNarrowed takes rights away from who is blocked: those it needs,
// and others.
func TestBlockedWhileNarrowed(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	fs := w.grant("/g", "/", Options{Rights: allRights})
	must(t, agent.mknod("/g/p", linux.S_IFIFO|0o666))
	opening := agent.blocked(func(u user) error { return u.opens("/g/p", linux.O_RDONLY) })
	fs.SetRights(allRights &^ abi.FSDelete)
	select {
	case err := <-opening:
		t.Fatalf("the loss of another right ended it: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	fs.SetRights(abi.FSExec)
	wantWoken(t, "open a FIFO without the right to read it", opening)
	// Without a change it opens when the other end does.
	must(t, w.raw().mknod("/q", linux.S_IFIFO|0o666))
	w.grant("/h", "/", Options{Rights: allRights})
	opening = agent.blocked(func(u user) error {
		fd, err := u.openFile("/h/q", linux.O_RDONLY, 0)
		if err == nil {
			t.Cleanup(func() { fd.DecRef(u.ctx) }) // Not before the writer has met it.
		}
		return err
	})
	w.raw().mustOpen("/q", linux.O_WRONLY)
	if err := <-opening; err != nil {
		t.Errorf("open a FIFO with a writer: %v", err)
	}
}

// TestLocksMeet checks that grants of one file lock the same thing, and that a
// revocation unlocks.
func TestLocksMeet(t *testing.T) {
	w := newWorld(t)
	must(t, w.raw().writeFile("/f", "text"))
	fs := w.grant("/g", "/", Options{Rights: allRights})
	w.grant("/h", "/", Options{Rights: allRights})
	agent := w.agent()
	a, b := agent.mustOpen("/g/f", linux.O_RDWR), agent.mustOpen("/h/f", linux.O_RDWR)
	all := fslock.LockRange{Start: 0, End: fslock.LockEOF}
	flock := func() error { return b.LockBSD(agent.ctx, 2, fslock.WriteLock, false) }
	fcntl := func() error { return b.LockPOSIX(agent.ctx, "b", 2, fslock.WriteLock, all, false) }
	must(t, a.LockBSD(agent.ctx, 1, fslock.WriteLock, false))
	must(t, a.LockPOSIX(agent.ctx, "a", 1, fslock.ReadLock, all, false))
	if flock() != linuxerr.ErrWouldBlock || fcntl() != linuxerr.ErrWouldBlock {
		t.Error("locks of one file through two grants do not meet")
	}
	if got, err := b.TestPOSIX(agent.ctx, "b", fslock.WriteLock, all); err != nil || got.PID != 1 {
		t.Errorf("F_GETLK: %+v, %v", got, err)
	}
	fs.Revoke()
	wantErrno(t, "flock after the revocation of its holder", flock(), 0)
	wantErrno(t, "fcntl after the revocation of its holder", fcntl(), 0)
	must(t, a.UnlockPOSIX(agent.ctx, "a", all))
	must(t, a.UnlockBSD(agent.ctx))
}

// TestWatchesEnd checks what inotify tells through a grant.
func TestWatchesEnd(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	fs := w.grant("/g", "/", Options{Rights: allRights})
	must(t, agent.mkdir("/g/d"))
	fd, err := vfs.NewInotifyFD(agent.ctx, w.vfs, 0)
	must(t, err)
	defer fd.DecRef(agent.ctx)
	in := fd.Impl().(*vfs.Inotify)
	vd, err := w.vfs.GetDentryAt(agent.ctx, w.creds, agent.pop("/g/d"), &vfs.GetDentryOptions{})
	must(t, err)
	in.AddWatch(vd.Dentry(), linux.IN_ALL_EVENTS)
	vd.DecRef(agent.ctx) // The watch alone keeps it.
	next := func() (events []uint32) {
		buf := make([]byte, 4096)
		n, err := fd.Read(agent.ctx, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
		if err != nil {
			return nil
		}
		for b := buf[:n]; len(b) > 0; b = b[16+hostarch.ByteOrder.Uint32(b[12:]):] {
			events = append(events, hostarch.ByteOrder.Uint32(b[4:]))
		}
		return events
	}
	must(t, agent.writeFile("/g/d/f", "text"))
	must(t, agent.rename("/g/d/f", "/g/d/h", 0))
	must(t, agent.unlink("/g/d/h"))
	want := []uint32{linux.IN_CREATE, linux.IN_OPEN, linux.IN_MODIFY, linux.IN_CLOSE_WRITE, linux.IN_MOVED_FROM, linux.IN_MOVED_TO, linux.IN_DELETE}
	if got := next(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("events %#x, want %#x", got, want)
	}
	fs.Revoke()
	if got := next(); len(got) == 0 || got[len(got)-1] != linux.IN_IGNORED {
		t.Errorf("after the revocation: %#x, want IN_IGNORED at the end", got)
	}
	must(t, w.raw().writeFile("/d/later", ""))
	if got := next(); got != nil {
		t.Errorf("still told: %#x", got)
	}
}

// ids implements uniqueid.Provider.
type ids struct{ atomic.Uint64 }

func (i *ids) UniqueID() uint64 { return i.Add(1) }

var _ uniqueid.Provider = (*ids)(nil)

// TestConnectionsEnd revokes under a connection made by a socket file.
func TestConnectionsEnd(t *testing.T) {
	w := newWorld(t)
	raw, agent := w.raw(), w.agent()
	provider := &ids{}
	server := transport.NewConnectioned(raw.ctx, linux.SOCK_STREAM, provider)
	must(t, w.vfs.MknodAt(raw.ctx, w.creds, raw.pop("/s"), &vfs.MknodOptions{Mode: linux.S_IFSOCK | 0o666, Endpoint: server.(transport.BoundEndpoint)}))
	if err := server.Bind(transport.Address{Addr: "/s"}); err != nil {
		t.Fatal(err)
	}
	if err := server.Listen(raw.ctx, 5); err != nil {
		t.Fatal(err)
	}
	fs := w.grant("/g", "/", Options{Rights: allRights})
	bound, err := w.vfs.BoundEndpointAt(agent.ctx, w.creds, agent.pop("/g/s"), &vfs.BoundEndpointOptions{Addr: "/g/s"})
	must(t, err)
	client := transport.NewConnectioned(agent.ctx, linux.SOCK_STREAM, provider)
	if err := client.Connect(agent.ctx, bound); err != nil {
		t.Fatal(err)
	}
	accepted, serr := server.Accept(raw.ctx, nil)
	if serr != nil {
		t.Fatal(serr)
	}
	send := func(from transport.Endpoint) error {
		if _, _, err := from.SendMsg(agent.ctx, [][]byte{[]byte("x")}, transport.ControlMessages{}, nil); err != nil {
			return err.ToError()
		}
		return nil
	}
	recv := func(to transport.Endpoint) error {
		if _, _, err := to.RecvMsg(agent.ctx, [][]byte{make([]byte, 1)}, transport.RecvArgs{}); err != nil {
			return err.ToError()
		}
		return nil
	}
	wantErrno(t, "send", send(client), 0)
	wantErrno(t, "receive", recv(accepted), 0)
	wantErrno(t, "send back", send(accepted), 0)
	wantErrno(t, "send back", send(accepted), 0)
	wantErrno(t, "receive", recv(client), 0)
	if len(fs.links) != 1 {
		t.Errorf("%d connections are known, want 1", len(fs.links))
	}
	fs.Revoke()
	wantErrno(t, "receive what is queued", recv(client), unix.EACCES)
	wantErrno(t, "send", send(client), unix.EACCES)
	wantErrno(t, "send to the revoked", send(accepted), unix.EPIPE)
	if got := client.Readiness(waiter.ReadableEvents); got&waiter.ReadableEvents == 0 {
		t.Errorf("the client is ready for %#x, and does not notice", got)
	}
	bound2, err := w.vfs.BoundEndpointAt(agent.ctx, w.creds, agent.pop("/g/s"), &vfs.BoundEndpointOptions{})
	wantErrno(t, "connect", err, unix.EACCES)
	if bound2 != nil {
		t.Error("there is an endpoint all the same")
	}
	late := transport.NewConnectioned(agent.ctx, linux.SOCK_STREAM, provider)
	if err := late.Connect(agent.ctx, bound); err == nil {
		t.Error("an endpoint looked up before the revocation can be connected to after it")
	}
	for _, e := range []transport.Endpoint{client, accepted, late, server} {
		e.Close(agent.ctx)
	}
	if len(fs.links) != 0 {
		t.Errorf("%d connections are still known", len(fs.links))
	}
}

// TestRevokeRaces does operations of all kinds on many goroutines while the grant
// is revoked. None that began after Revoke returned may succeed, and the files
// below may not change any more.
func TestRevokeRaces(t *testing.T) {
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		w := newWorld(t)
		raw, agent := w.raw(), w.agent()
		must(t, raw.mkdir("/d"))
		must(t, raw.writeFile("/f", "text"))
		must(t, raw.writeFile("/counted", ""))
		fs := w.grant("/g", "/", Options{Rights: allRights})
		fd := agent.mustOpen("/g/counted", linux.O_RDWR|linux.O_APPEND)
		shared := agent.mustOpen("/g/f", linux.O_RDWR)
		m := agent.memory()
		addr := m.mustMmap(shared, hostarch.ReadWrite, false)

		var revoked atomic.Bool
		var late, done atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		work := func(do func(u user, i int) error) {
			u := agent.another()
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					after := revoked.Load()
					if do(u, i) == nil {
						done.Add(1)
						if after {
							late.Add(1)
						}
					}
				}
			}()
		}
		work(func(u user, _ int) error { _, err := write(u.ctx, fd, "x"); return err })
		work(func(u user, _ int) error {
			_, err := fd.PRead(u.ctx, usermem.BytesIOSequence(make([]byte, 1)), 0, vfs.ReadOptions{})
			return err
		})
		work(func(u user, i int) error {
			return u.writeFile(fmt.Sprintf("/g/d/%d", i%8), "x")
		})
		work(func(u user, i int) error {
			return u.rename(fmt.Sprintf("/g/d/%d", i%8), fmt.Sprintf("/g/d/%d", (i+1)%8), 0)
		})
		work(func(u user, i int) error { return u.opens("/g/f", linux.O_RDWR) })
		work(func(u user, i int) error { return u.reopens(shared, linux.O_RDWR) })
		work(func(u user, _ int) error {
			if i, err := m.CopyOut(u.ctx, addr, []byte("m"), usermem.IOOpts{}); err != nil || i != 1 {
				return linuxerr.EFAULT
			}
			return nil
		})
		work(func(u user, _ int) error { return maps(u, shared, hostarch.ReadWrite, false) })
		work(func(u user, i int) error {
			if err := shared.LockBSD(u.ctx, 1, fslock.WriteLock, false); err != nil {
				return err
			}
			return shared.UnlockBSD(u.ctx)
		})

		for done.Load() < int64(50*(round%4)) {
			time.Sleep(100 * time.Microsecond)
		}
		if round%3 == 0 {
			fs.SetRights(allRights &^ abi.FSDelete)
		}
		fs.Revoke()
		revoked.Store(true)
		size := func() uint64 {
			st, err := raw.stat("/counted")
			must(t, err)
			return st.Size
		}
		before := size()
		time.Sleep(2 * time.Millisecond)
		if now := size(); now != before {
			t.Errorf("the file grew from %d to %d after the revocation", before, now)
		}
		close(stop)
		wg.Wait()
		if n := late.Load(); n > 0 {
			t.Fatalf("round %d: %d operations that began after Revoke had returned succeeded", round, n)
		}
	}
}

// TestNarrowRaces takes the right to write away while many write.
func TestNarrowRaces(t *testing.T) {
	rounds := 50
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		w := newWorld(t)
		agent := w.agent()
		fs := w.grant("/g", "/", Options{Rights: allRights})
		must(t, agent.writeFile("/g/f", ""))
		fd := agent.mustOpen("/g/f", linux.O_RDWR|linux.O_APPEND)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		var written atomic.Int64
		for range 4 {
			u := agent.another()
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if n, err := write(u.ctx, fd, "x"); err == nil {
							written.Add(n)
						}
					}
				}
			})
		}
		for written.Load() < 20 {
			time.Sleep(50 * time.Microsecond)
		}
		fs.SetRights(abi.FSRead)
		st, err := w.raw().stat("/f")
		must(t, err)
		time.Sleep(time.Millisecond)
		close(stop)
		wg.Wait()
		if n := uint64(written.Load()); n != st.Size {
			t.Fatalf("%d bytes were there when the right was gone, %d were written in all", st.Size, n)
		}
		if _, err := read(agent.ctx, agent.mustOpen("/g/f", linux.O_RDONLY), 1); err != nil {
			t.Errorf("read: %v", err)
		}
	}
}

// TestRevokeTwice revokes from two sides, and after everything is released.
func TestRevokeTwice(t *testing.T) {
	w := newWorld(t)
	agent := w.agent()
	fs := w.grant("/g", "/", Options{Rights: allRights})
	done := make(chan struct{})
	go func() { fs.Revoke(); close(done) }()
	fs.Revoke()
	within(t, "a second revocation", done)
	must(t, w.vfs.UmountAt(agent.ctx, w.creds, agent.pop("/g"), &vfs.UmountOptions{}))
	fs.Revoke()
	fs.SetRights(allRights)
	if got := fs.Rights(); got != 0 {
		t.Errorf("a revoked grant has rights %v", got)
	}
}
