package main

import (
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/fabric/semantic/store"
	"aios.dev/aios/host/box"
	"aios.dev/aios/host/box/filter"
	"aios.dev/aios/ktime"
)

// storeBytes bounds what all items of semantic memory come to.
const storeBytes = 8 << 30

// semanticMain is the life of semanticd: close the boxes around the directory of
// the store, open it, answer until the daemon ends.
func semanticMain() error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("service", "semanticd")
	l, err := net.FileListener(os.NewFile(semantic.SocketFD, "socket"))
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "listen")
	}
	life := os.NewFile(semantic.LifeFD, "life")
	dir, reports, err := box.ApplyGofer(box.GoferOptions{
		Dir: os.NewFile(semantic.DirFD, "directory"), Keep: []int{2, semantic.SocketFD, semantic.LifeFD},
	})
	if err != nil {
		return err
	}
	for _, r := range reports {
		if !r.OK {
			log.Warn("a confinement is missing", "box", r.Box, "reason", r.Reason)
		}
	}
	syscall.Umask(0o077)
	if err := sealMemory(l, log); err != nil {
		return err
	}
	s, err := store.Open(store.Options{
		Dir: dir, Clock: ktime.Real, MaxBytes: storeBytes,
		Log: func(what string, err error) { log.Warn(what, "err", err) },
	})
	if err != nil {
		return err
	}
	end := make(chan struct{})
	go func() {
		io.Copy(io.Discard, life)
		close(end)
	}()
	err = store.Serve(l, s, end)
	if e := s.Close(); err == nil {
		err = e
	}
	return err
}

// sealMemory leaves the process the calls that a store makes, and connections from
// where it listens.
func sealMemory(l net.Listener, log *slog.Logger) error {
	listen := -1
	conn, err := l.(*net.UnixListener).SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { listen = int(fd) })
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "listen")
	}
	program, err := filter.Semantic()
	if err != nil {
		return err
	}
	r, err := box.InstallProgram(program, listen)
	if err == nil && !r.OK {
		log.Warn("a confinement is missing", "box", r.Box, "reason", r.Reason)
	}
	return err
}
