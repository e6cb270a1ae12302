package sentry

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/marshal"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
)

// Terminals of an agent are made anew in the copy, under the same numbers, before
// its processes are: those get them as controlling terminals as they are made. What
// only the terminal knows, what was typed and written and not read, is taken out and
// put back, with its settings such that nothing happens to it on the way.

// terminal is one of the agent's.
type terminal struct {
	n       uint32
	master  *vfs.FileDescription // nil if nobody of the agent has it
	replica *vfs.FileDescription // one of them, or nil
	console *console             // whose it is, or nil
	own     *vfs.FileDescription // the master in the copy
	anchor  *vfs.FileDescription // a replica in the copy, for as long as that is made
}

// mostTerminals is up to which number terminals are made anew.
const mostTerminals = 1 << 14

// ptyEnd reports whether a file is an end of a terminal, and which. The types are
// gVisor's own.
func ptyEnd(file *vfs.FileDescription) (master, ok bool) {
	switch fmt.Sprintf("%T", file.Impl()) {
	case "*devpts.masterFileDescription":
		return true, true
	case "*devpts.replicaFileDescription":
		return false, true
	}
	return false, false
}

// terminals makes the terminals of the copy.
func (c *copying) terminals() error {
	var ends []*vfs.FileDescription
	consoles := make(map[*vfs.FileDescription]*console)
	ending := false
	c.src.mu.Lock()
	for id, p := range c.src.procs {
		if !p.console.tty || id != 0 && c.f.split.stays(p.tg) {
			continue
		}
		master := p.console.outs[0].fd
		if !master.TryIncRef() { // What has ended is not known to have yet.
			ending = true
			continue
		}
		defer master.DecRef(c.ctx)
		ends = append(ends, master)
		consoles[master] = p.console
	}
	c.src.mu.Unlock()
	if ending {
		return c.files.busy("a process that has a terminal is ending")
	}
	seen := make(map[*vfs.FileDescription]bool)
	numbers := make(map[uint32]bool) // of controlling terminals
	for _, tw := range c.f.twins {
		if tw.zombie {
			continue
		}
		tw.old.FDTable().ForEach(c.ctx, func(_ int32, file *vfs.FileDescription, _ kernel.FDFlags) bool {
			if _, ok := ptyEnd(file); ok && !seen[file] {
				seen[file] = true
				ends = append(ends, file)
			}
			return true
		})
		if tty := tw.group.old.TTY(); tty != nil {
			numbers[tty.Index()] = true
		}
	}
	if len(ends)+len(numbers) == 0 {
		return nil
	}
	if c.fresh != nil && len(consoles) > 0 {
		return c.f.refuse(c.f.head.old, "has a terminal of those who started it")
	}
	return c.s.onPause(func(t *kernel.Task) error {
		all := make(map[uint32]*terminal)
		of := func(n uint32) *terminal {
			if all[n] == nil {
				all[n] = &terminal{n: n}
			}
			return all[n]
		}
		for n := range numbers {
			of(n)
		}
		for _, file := range ends {
			number := make([]byte, 4)
			if err := ioctl(t, file, linux.TIOCGPTN, number); err != nil {
				return errdefs.Wrap(err, errdefs.Internal, "look at a terminal")
			}
			x := of(binary.LittleEndian.Uint32(number))
			if master, _ := ptyEnd(file); master {
				x.master = file
			} else {
				x.replica = file
			}
			if con := consoles[file]; con != nil {
				x.console = con
			}
			c.files.terminals[file] = x
		}
		var sorted []*terminal
		for _, x := range all {
			sorted = append(sorted, x)
		}
		slices.SortFunc(sorted, func(x, y *terminal) int { return cmp.Compare(x.n, y.n) })
		for _, x := range sorted {
			if x.n > mostTerminals {
				return c.f.refuse(c.f.head.old, "has more terminals than can be made anew")
			}
			c.files.byNumber[x.n] = x
			if err := c.files.makeTerminal(t, x); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeTerminal makes x in the copy. It is called as the first process of the kernel.
func (f *fileCopier) makeTerminal(t *kernel.Task, x *terminal) error {
	fail := func(err error) error { return errdefs.Wrap(err, errdefs.Internal, "make a terminal") }
	for x.own == nil { // Numbers are never given twice.
		file, err := f.openAs(t, f.to, "/dev/pts/ptmx")
		if err != nil {
			return fail(err)
		}
		number := make([]byte, 4)
		err = ioctl(t, file, linux.TIOCGPTN, number)
		if n := binary.LittleEndian.Uint32(number); err == nil && n < x.n {
			file.DecRef(t)
			continue
		} else if err == nil && n > x.n {
			err = errdefs.Newf(errdefs.Internal, "terminal %d of the copy has got the number %d", x.n, n)
		}
		if x.own = file; err != nil {
			return fail(err)
		}
	}
	var err error
	if x.anchor, err = f.openAs(t, f.to, fmt.Sprintf("/dev/pts/%d", x.n)); err != nil {
		return fail(err)
	}
	from := cmp.Or(x.replica, x.master)
	if from == nil { // It is the controlling terminal of who has nothing of it open.
		if from, err = f.openAs(t, f.from, fmt.Sprintf("/dev/pts/%d", x.n)); err != nil {
			return fail(err)
		}
		defer from.DecRef(t)
	}
	return fail(f.likeTerminal(t, x, from))
}

// openAs opens a file as task t.
func (f *fileCopier) openAs(t *kernel.Task, root vfs.VirtualDentry, name string) (*vfs.FileDescription, error) {
	return f.c.s.k.VFS().OpenAt(t, f.c.s.creds, creating(root, name), &vfs.OpenOptions{Flags: linux.O_RDWR | linux.O_NOCTTY | linux.O_NONBLOCK})
}

// likeTerminal gives the copy of x what x has, of which from is an end.
func (f *fileCopier) likeTerminal(t *kernel.Task, x *terminal, from *vfs.FileDescription) error {
	mode, err := termiosOf(t, from)
	if err != nil {
		return err
	}
	if err := mode.set(t, x.own); err != nil {
		return err
	}
	size := make([]byte, 8)
	if err := ioctl(t, from, linux.TIOCGWINSZ, size); err != nil {
		return err
	}
	if err := ioctl(t, x.own, linux.TIOCSWINSZ, size); err != nil {
		return err
	}
	if x.master == nil {
		return nil // Somebody else has the master, or nobody: nothing comes of it any more.
	}
	replica := x.replica
	if replica == nil {
		if replica, err = f.openAs(t, f.from, fmt.Sprintf("/dev/pts/%d", x.n)); err != nil {
			return err
		}
		defer replica.DecRef(t)
	}
	const who = linux.STATX_MODE | linux.STATX_UID | linux.STATX_GID
	if stat, err := replica.Stat(t, vfs.StatOptions{Mask: who}); err == nil {
		x.anchor.SetStat(t, vfs.SetStatOptions{Stat: linux.Statx{Mask: who, Mode: stat.Mode, UID: stat.UID, GID: stat.GID}})
	}
	if x.console != nil { // Who is attached types meanwhile.
		x.console.typing.Lock()
		defer x.console.typing.Unlock()
	}
	typed, err := takeTyped(t, mode, x.master, replica)
	if err != nil {
		return err
	}
	var shown *shown
	if x.console == nil { // Its output is the original's alone.
		shown = takeShown(t, x.master)
	}
	// In any case the original has its own again.
	for _, to := range []struct{ master, replica *vfs.FileDescription }{{x.master, replica}, {x.own, x.anchor}} {
		if shown != nil {
			if err2 := shown.put(t, mode, to.master, to.replica); err == nil {
				err = err2
			}
		}
		if err2 := typed.put(t, mode, to.master); err == nil {
			err = err2
		}
	}
	return err
}

// termios are a terminal's settings.
type termios struct{ linux.KernelTermios }

func termiosOf(t *kernel.Task, end *vfs.FileDescription) (m termios, err error) {
	raw := make([]byte, m.SizeBytes())
	err = ioctl(t, end, linux.TCGETS2, raw)
	m.UnmarshalBytes(raw)
	return m, err
}

func (m termios) set(t *kernel.Task, end *vfs.FileDescription) error {
	return ioctl(t, end, linux.TCSETS2, marshal.Marshal(&m.KernelTermios))
}

// quiet is m when nothing that is typed does anything; with canonical set, but end a
// line.
func (m termios) quiet(canonical bool, special byte) termios {
	m.InputFlags, m.LocalFlags = 0, 0
	if canonical {
		m.LocalFlags = linux.ICANON
	}
	for i := range m.ControlCharacters {
		m.ControlCharacters[i] = special
	}
	return m
}

// readAll reads what there is.
func readAll(t *kernel.Task, file *vfs.FileDescription) (all []byte) {
	buf := make([]byte, 64<<10)
	for {
		n, err := file.Read(t, usermem.BytesIOSequence(buf), vfs.ReadOptions{})
		if n <= 0 || err != nil {
			return all
		}
		all = append(all, buf[:n]...)
	}
}

// writeAll writes what there is room for, which is all that was there before.
func writeAll(t *kernel.Task, file *vfs.FileDescription, p []byte) error {
	for len(p) > 0 {
		n, err := file.Write(t, usermem.BytesIOSequence(p), vfs.WriteOptions{})
		if err != nil || n <= 0 {
			return errdefs.Wrap(cmp.Or(err, error(linuxerr.EAGAIN)), errdefs.Internal, "put back what was in a terminal")
		}
		p = p[n:]
	}
	return nil
}

// typed is what waits in a terminal to be read by programs: what can be read at
// once, or the part of a line, and what was typed after that and nobody has looked at.
type typed struct {
	first, rest []byte
	ready, end  bool // whether it can be read; whether it is an end of file alone
}

// takeTyped takes what waits in a terminal to be read.
func takeTyped(t *kernel.Task, mode termios, master, replica *vfs.FileDescription) (*typed, error) {
	size := make([]byte, 4)
	if err := ioctl(t, replica, linux.FIONREAD, size); err != nil {
		return nil, err
	}
	x, ready := &typed{}, int(binary.LittleEndian.Uint32(size))
	x.ready = ready > 0 || !mode.LEnabled(linux.ICANON)
	if !x.ready {
		if err := mode.quiet(true, 0).set(t, master); err != nil {
			return nil, err
		}
		n, err := replica.Read(t, usermem.BytesIOSequence(make([]byte, 1)), vfs.ReadOptions{})
		x.end = n == 0 && err == nil
	}
	if err := mode.quiet(false, 0).set(t, master); err != nil {
		return nil, err
	}
	x.first = readAll(t, replica)
	if x.end {
		x.first, x.rest = nil, x.first
	} else if ready > 0 {
		x.first, x.rest = x.first[:ready], x.first[ready:]
	}
	return x, mode.set(t, master)
}

// put types it.
func (x *typed) put(t *kernel.Task, mode termios, master *vfs.FileDescription) error {
	first, line := x.first, len(x.first) > 0 && bytes.IndexByte(x.first, '\n') == len(x.first)-1
	special := byte(0)
	for bytes.IndexByte(first, special) >= 0 && special < 255 {
		special++
	}
	as := mode.quiet(mode.LEnabled(linux.ICANON) && (!x.ready || line), special)
	if x.end {
		first, as.ControlCharacters[linux.VEOF] = []byte{4}, 4
	}
	if err := as.set(t, master); err != nil {
		return err
	}
	err := writeAll(t, master, first)
	if err2 := mode.set(t, master); err == nil {
		err = err2
	}
	if err == nil {
		err = writeAll(t, master, x.rest)
	}
	return err
}

// shown is what waits in a terminal to be read from its master.
type shown struct {
	data   []byte
	packet byte // of TIOCPKT
	status byte // what is said in the next packet
}

func takeShown(t *kernel.Task, master *vfs.FileDescription) *shown {
	x := &shown{}
	on := make([]byte, 4)
	if err := ioctl(t, master, linux.TIOCGPKT, on); err == nil && on[0] != 0 {
		x.packet = 1
		if master.Readiness(waiter.EventPri)&waiter.EventPri != 0 {
			one := make([]byte, 1)
			master.Read(t, usermem.BytesIOSequence(one), vfs.ReadOptions{})
			x.status = one[0]
		}
		ioctl(t, master, linux.TIOCPKT, make([]byte, 4))
	}
	x.data = readAll(t, master)
	return x
}

// put writes it, when nothing is in the terminal.
func (x *shown) put(t *kernel.Task, mode termios, master, replica *vfs.FileDescription) error {
	if x.packet != 0 {
		if err := ioctl(t, master, linux.TIOCPKT, []byte{1, 0, 0, 0}); err != nil {
			return err
		}
		queue := uint32(linux.TCIOFLUSH)
		switch x.status {
		case linux.TIOCPKT_FLUSHREAD:
			queue = linux.TCIFLUSH
		case linux.TIOCPKT_FLUSHWRITE:
			queue = linux.TCOFLUSH
		}
		if x.status != 0 { // To flush it is what says so.
			if _, err := replica.Ioctl(t, t.MemoryManager(), 16 /* SYS_ioctl */, arch.SyscallArguments{{}, {Value: linux.TCFLSH}, {Value: uintptr(queue)}}); err != nil {
				return err
			}
		}
	}
	// It needs no more room than before if it is written as it was.
	const newlines = linux.OPOST | linux.ONLCR
	if n := bytes.Count(x.data, []byte("\r\n")); mode.OutputFlags == newlines && n == bytes.Count(x.data, []byte("\n")) {
		return writeAll(t, replica, bytes.ReplaceAll(x.data, []byte("\r\n"), []byte("\n")))
	}
	plain := mode
	plain.OutputFlags &^= linux.OPOST
	if err := plain.set(t, master); err != nil {
		return err
	}
	err := writeAll(t, replica, x.data)
	if err2 := mode.set(t, master); err == nil {
		err = err2
	}
	return err
}

// copyTerminal copies an end of a terminal; ok is false if old is none.
func (f *fileCopier) copyTerminal(old *vfs.FileDescription) (file *vfs.FileDescription, ok bool, err error) {
	master, ok := ptyEnd(old)
	if !ok {
		return nil, false, nil
	}
	x := f.terminals[old]
	switch {
	case x == nil:
		return nil, true, f.refuse(old, "it is an end of a terminal that is on its way to another process")
	case master:
		x.own.IncRef()
		return x.own, true, nil
	}
	name := fmt.Sprintf("/dev/pts/%d", x.n)
	t := f.creator(old)
	if tty := t.ThreadGroup().TTY(); tty != nil && tty.Index() == x.n {
		if p, err := f.path(old); err == nil && p == "/dev/tty" {
			name = p
		}
	}
	file, err = f.c.s.k.VFS().OpenAt(asTask{f.ctx, t}, f.c.s.creds, creating(f.to, name), &vfs.OpenOptions{
		Flags: old.StatusFlags()&(linux.O_ACCMODE|linux.O_NONBLOCK) | linux.O_NOCTTY,
	})
	return file, true, errdefs.Wrap(err, errdefs.Internal, "open a terminal", errdefs.Resource("%s", name))
}

// control gives a session that g leads in the copy its controlling terminal.
func (c *copying) control(g *twinGroup) error {
	tty := c.ttyOf(g)
	if tty == nil {
		return nil
	}
	x := c.files.byNumber[tty.Index()]
	if x == nil {
		return errdefs.New(errdefs.Internal, "a controlling terminal is not known", errdefs.Op("clone"))
	}
	_, err := x.anchor.Ioctl(asTask{c.ctx, g.leader.new}, nil, 16 /* SYS_ioctl */, arch.SyscallArguments{{}, {Value: linux.TIOCSCTTY}, {}})
	return errdefs.Wrap(err, errdefs.Internal, "set a controlling terminal")
}

// ttyOf returns the controlling terminal of a process in the original; of one that
// has ended and led a session, that of who is left of it.
func (c *copying) ttyOf(g *twinGroup) *kernel.TTY {
	if g.old != nil && !g.leader.zombie {
		return g.old.TTY()
	}
	if kernel.ThreadID(g.sid) != g.leader.tid {
		return nil
	}
	for _, o := range c.f.groups {
		if o.sid == g.sid && !o.leader.zombie {
			if tty := o.old.TTY(); tty != nil {
				return tty
			}
		}
	}
	return nil
}

// heir returns a task of the copy from which a process inherits its controlling
// terminal as it is made, or nil.
func (c *copying) heir(g *twinGroup) *kernel.Task {
	tty := c.ttyOf(g)
	if tty == nil {
		return nil
	}
	for _, o := range c.f.all() {
		if o.new == nil || o.leader.new == nil {
			continue
		}
		if own := o.new.TTY(); own != nil && own.Index() == tty.Index() {
			return o.leader.new
		}
	}
	return nil
}

// hears reports whether a task is interrupted by SIGHUP as its terminal is hung up,
// and its call is not made again.
func (c *copying) hears(tw *twin) bool {
	tg := tw.group.old
	tty := tg.TTY()
	if tty == nil {
		return false
	}
	if x := c.files.byNumber[tty.Index()]; x == nil || x.master != nil {
		return false
	}
	act, err := tg.SetSigAction(linux.SIGHUP, nil)
	id, err2 := tg.ForegroundProcessGroupID(tty)
	return err == nil && err2 == nil && id == tw.group.pgid && tw.old.SignalMask()&linux.SignalSetOf(linux.SIGHUP) == 0 &&
		act.Handler != linux.SIG_IGN && act.Handler != linux.SIG_DFL && act.Flags&linux.SA_RESTART == 0
}

// foregrounds says which process groups are in the foreground of their terminals.
func (c *copying) foregrounds() {
	for _, g := range c.f.groups {
		if g.leader.zombie {
			continue
		}
		old, own := g.old.TTY(), g.new.TTY()
		if old == nil || own == nil {
			continue
		}
		if id, err := g.old.ForegroundProcessGroupID(old); err == nil {
			g.new.SetForegroundProcessGroupID(c.ctx, own, id) // If it is there still.
		}
	}
}
