package main

import (
	"flag"
	"os"
	"os/signal"
	"syscall"

	"aios.dev/aios/control"
	"aios.dev/aios/gofer"
)

// goferMain is the life of a gofer: prepare, close the box, serve until the
// kernel process goes away.
func goferMain() error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	flags := flag.NewFlagSet("aiosd gofer", flag.ExitOnError)
	readonly := flags.Bool("readonly", true, "serve for reading only")
	flags.Parse(os.Args[2:])
	dir := os.NewFile(control.GoferDirFD, "directory")
	sock := os.NewFile(control.GoferSocketFD, "socket")
	s, err := gofer.Open(dir, sock, *readonly, false)
	if err != nil {
		return err
	}
	return s.Serve()
}
