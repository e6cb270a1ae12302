package sentry

import (
	"encoding/binary"
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/control"
)

// openTerminal makes a terminal in the agent's /dev/pts: the kernel holds the
// master, the process gets the replica as its standard files.
func (c *console) openTerminal(ctx context.Context, ns *namespaces, fds *kernel.FDTable) error {
	v := c.s.k.VFS()
	root := ns.mnt.Root(ctx)
	defer root.DecRef(ctx)
	master, err := v.OpenAt(ctx, c.s.creds, at(root, "/dev/pts/ptmx"), &vfs.OpenOptions{Flags: linux.O_RDWR | linux.O_NONBLOCK | linux.O_NOCTTY})
	if err != nil {
		return err
	}
	c.in = master // +checklocksignore: nobody else knows c yet.
	c.outs = []*output{{c: c, fd: master, kind: control.FrameStdout}}
	// Only a task may ask a terminal for its number, or open its replica.
	var replica *vfs.FileDescription
	if err := c.s.onPause(func(t *kernel.Task) error {
		number := make([]byte, 4)
		if err := ioctl(t, master, linux.TIOCGPTN, number); err != nil {
			return err
		}
		name := fmt.Sprintf("/dev/pts/%d", binary.LittleEndian.Uint32(number))
		var err error
		replica, err = v.OpenAt(t, c.s.creds, at(root, name), &vfs.OpenOptions{Flags: linux.O_RDWR | linux.O_NOCTTY})
		return err
	}); err != nil {
		return err
	}
	replica.IncRef()
	replica.IncRef()
	for n := range int32(3) {
		if err := install(ctx, fds, replica, n); err != nil {
			return err
		}
	}
	return nil
}

// adoptTerminal makes the console the controlling terminal of the new process
// t, which has not run yet, and sets its size.
func (c *console) adoptTerminal(t *kernel.Task, rows, cols uint16) {
	w := &taskWork{done: make(chan error, 1), f: func(t *kernel.Task) error {
		replica, _ := t.FDTable().Get(0)
		if replica == nil {
			return nil
		}
		defer replica.DecRef(t)
		if rows != 0 && cols != 0 {
			ioctl(t, replica, linux.TIOCSWINSZ, winsize(rows, cols))
		}
		return ioctl(t, replica, linux.TIOCSCTTY, make([]byte, 8))
	}}
	t.RegisterWork(w)
}

// resize tells the terminal its new size; the foreground programs get
// SIGWINCH.
func (c *console) resize(rows, cols uint16) {
	c.mu.Lock()
	master := c.in
	if master != nil {
		master.IncRef()
	}
	c.mu.Unlock()
	if master == nil {
		return
	}
	defer master.DecRef(c.s.k.SupervisorContext())
	c.s.onPause(func(t *kernel.Task) error {
		return ioctl(t, master, linux.TIOCSWINSZ, winsize(rows, cols))
	})
}

// winsize is struct winsize of Linux.
func winsize(rows, cols uint16) []byte {
	b := binary.LittleEndian.AppendUint16(nil, rows)
	b = binary.LittleEndian.AppendUint16(b, cols)
	return append(b, 0, 0, 0, 0) // The size in pixels, which nobody knows.
}
