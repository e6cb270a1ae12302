package main

import (
	"flag"
	"os"
	"os/signal"
	"syscall"

	"aios.dev/aios/control"
	"aios.dev/aios/gofer"
	"aios.dev/aios/host/box"
	"aios.dev/aios/host/box/filter"
)

// goferMain is the life of a gofer: close the boxes, serve until the kernel
// process goes away. A box that the host refuses is noted in the domain's log.
func goferMain() error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE)
	flags := flag.NewFlagSet("aiosd gofer", flag.ExitOnError)
	readonly := flags.Bool("readonly", true, "serve for reading only")
	flags.Parse(os.Args[2:])
	sock := os.NewFile(control.GoferSocketFD, "socket")
	path, _, err := box.ApplyGofer(box.GoferOptions{
		Dir:        os.NewFile(control.GoferDirFD, "directory"),
		Keep:       []int{2, control.GoferSocketFD},
		ReadOnly:   *readonly,
		BeforeRoot: gofer.OpenSelfFD,
	})
	if err != nil {
		return err
	}
	return gofer.Serve(sock, path, *readonly, func() error {
		program, err := filter.Gofer(filter.GoferOptions{ReadOnly: *readonly, KeepOwner: os.Getuid() != 0})
		if err != nil {
			return err
		}
		_, err = box.InstallProgram(program, -1)
		return err
	})
}
