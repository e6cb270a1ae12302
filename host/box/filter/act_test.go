package filter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/fabric/semantic/store"
	"aios.dev/aios/ktime"
)

// hostile is what a taken-over process may try; each must kill it.
var hostile = map[string]func() error{
	"open":    func() error { _, err := os.Open("/etc/passwd"); return err },
	"socket":  func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err },
	"connect": func() error { return unix.Connect(1, &unix.SockaddrUnix{Name: "/run/x"}) },
	"exec":    func() error { return unix.Exec("/proc/self/exe", []string{"x"}, nil) },
	"mount":   func() error { return unix.Mount("x", "/", "tmpfs", 0, "") },
	"unshare": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"kill":    func() error { return unix.Kill(1, unix.SIGKILL) },
	"setuid":  func() error { return raw(unix.SYS_SETUID) },
	"bpf":     func() error { return raw(unix.SYS_BPF) },
	"iouring": func() error { return raw(unix.SYS_IO_URING_SETUP) },
	"prctl":   func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	"fork":    func() error { return raw(unix.SYS_CLONE) },
	"execmap": func() error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_EXEC|unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
		return err
	},
}

func raw(nr uintptr) error {
	_, _, errno := unix.RawSyscall(nr, 0, 0, 0)
	return errno
}

// act does one thing as a sealed process; place is what a gofer serves.
func act(action, place string, machine platform.Platform, pair [2]int) int {
	if f := hostile[action]; f != nil {
		return fail(action, f())
	}
	switch action {
	case "nothing":
	case "work":
		if err := work(pair); err != nil {
			return fail("work", err)
		}
	case "sync":
		if err := unix.Fdatasync(pair[0]); err != unix.EINVAL { // What the host says of a socket.
			return fail("sync", err)
		}
	case "mkdir":
		if err := unix.Mkdirat(int(os.Stdout.Fd()), "x", 0o755); err != unix.ENOTDIR {
			return fail("mkdir", err)
		}
	case "write":
		if _, err := unix.Openat(int(os.Stdout.Fd()), "x", unix.O_WRONLY, 0); err != unix.ENOTDIR {
			return fail("write", err)
		}
	case "serve", "look":
		if err := serve(place, action == "look"); err != nil {
			return fail(action, err)
		}
	case "remember":
		if err := remember(place); err != nil {
			return fail(action, err)
		}
	case "systrap", "ptrace":
		// Each address space is a new stub process.
		for range 3 {
			as, err := machine.NewAddressSpace()
			if err != nil {
				return fail("address space", err)
			}
			as.Release()
		}
	default:
		return fail("act", fmt.Errorf("unknown action %q", action))
	}
	return 0
}

// work does what an honest kernel process does: threads, timers, garbage,
// files of its own, messages with descriptors, connections of package net over
// sockets that it was handed.
func work(pair [2]int) error {
	done := make(chan bool)
	for range 20 {
		go func() {
			runtime.LockOSThread()
			time.Sleep(5 * time.Millisecond)
			b := make([]byte, 1<<20)
			done <- b[0] == 0
		}()
	}
	for range 20 {
		<-done
	}
	runtime.GC()
	if time.Now().Format(time.RFC3339) == "" { // reads the time zone
		return errors.New("no time")
	}
	fd, err := unix.MemfdCreate("work", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, 8192); err != nil {
		return err
	}
	if _, err := unix.Mmap(fd, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	if err := unix.Sendmsg(pair[0], []byte("hi"), unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	file, err := receive(pair[1])
	if err != nil {
		return err
	}
	if _, err := file.WriteAt([]byte("x"), 0); err != nil {
		return err
	}
	if st, err := file.Stat(); err != nil || st.Size() != 8192 {
		return fmt.Errorf("stat: %v, %w", st, err)
	}
	conn, err := net.FileConn(os.NewFile(uintptr(pair[0]), "pair"))
	if err != nil {
		return err
	}
	go func() { _, _ = unix.Write(pair[1], []byte("ping")) }()
	if _, err := conn.Read(make([]byte, 16)); err != nil {
		return err
	}
	return conn.Close()
}

// receive takes one descriptor from a socket.
func receive(sock int) (*os.File, error) {
	buf, oob := make([]byte, 16), make([]byte, 128)
	_, n, _, _, err := unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "received"), nil
}

// remember is the life of semantic memory: a store is made, filled and searched, has
// its transactions undone and its indexes saved, and is opened again.
func remember(dir string) error {
	operator := semantic.Caller{Scopes: []semantic.Scope{semantic.Operator()}}
	for round := range 3 {
		var logged error
		s, err := store.Open(store.Options{Dir: dir, Clock: ktime.Real, Log: func(_ string, err error) { logged = err }})
		if err != nil {
			return err
		}
		for i := range 6 {
			changes := ""
			for n := range 250 {
				changes += fmt.Sprintf(`{"put":{"namespace":"n","id":"%d-%d","text":"round %d word%d","vector":[%d,%d,1]}},`, i, n, round, n, n, i)
			}
			for _, q := range [][2]string{
				{semantic.OpBatch, `{"changes":[` + changes + `{"delete":{"namespace":"n","ids":["0-0"]}}]}`},
				{semantic.OpSearch, `{"namespace":"n","text":"word7","vector":[7,1,1]}`},
				{semantic.OpList, `{"namespace":"n","vectors":true}`},
				{semantic.OpHistory, `{"namespace":"n","id":"0-1"}`},
				{semantic.OpStats, `{}`},
			} {
				if _, err := s.Do(context.Background(), &semantic.Request{Caller: operator, Op: q[0], Body: []byte(q[1])}); err != nil {
					return fmt.Errorf("%s: %w", q[0], err)
				}
			}
		}
		if err := errors.Join(s.Purge(context.Background()), s.Close(), logged); err != nil {
			return err
		}
	}
	return nil
}
