package sentry

import (
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	slinux "gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/abi"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// tracedCalls are the calls that make events, by name.
var tracedCalls = func() map[string]traced {
	open := traced{types: []event.Type{event.FileOpen, event.FileCreate, event.DeviceOpen}, before: beforeOpen, tell: tellOpen}
	write := traced{types: []event.Type{event.FileWrite}, tell: tellWrite}
	create := traced{types: []event.Type{event.FileCreate}, tell: tellCreate}
	rename := traced{types: []event.Type{event.FileRename}, tell: tellRename}
	remove := traced{types: []event.Type{event.FileRemove}, tell: tellRemove}
	connect := traced{types: []event.Type{event.NetConnect, event.NetRefused, event.NetDisconnect}, tell: tellConnect}
	accept := traced{types: []event.Type{event.NetAccept, event.NetDisconnect}, tell: tellAccept}
	signal := traced{types: []event.Type{event.AgentSignal}, tell: tellSignal}
	return map[string]traced{
		"open": open, "openat": open, "openat2": open, "creat": open,
		"write": write, "pwrite64": write, "writev": write, "pwritev": write, "pwritev2": write,
		"mkdir": create, "mkdirat": create, "mknod": create, "mknodat": create,
		"symlink": create, "symlinkat": create, "link": create, "linkat": create,
		"rename": rename, "renameat": rename, "renameat2": rename,
		"unlink": remove, "unlinkat": remove, "rmdir": remove,
		"mount":   {types: []event.Type{event.FileMount}, tell: tellMount},
		"umount2": {types: []event.Type{event.FileUnmount}, tell: tellUnmount},
		"connect": connect, "accept": accept, "accept4": accept,
		"listen": {types: []event.Type{event.NetListen}, tell: tellListen},
		"kill":   signal, "tkill": signal, "tgkill": signal, "rt_sigqueueinfo": signal, "rt_tgsigqueueinfo": signal,
	}
}()

// beforeOpen returns the path of a file that the call may make, and "" if it is
// there already.
func beforeOpen(s *Kernel, t *kernel.Task, call abi.Syscall, args arch.SyscallArguments) string {
	if !s.events.Enabled(event.FileCreate) || openFlags(t, call, args)&linux.O_CREAT == 0 {
		return ""
	}
	dir, text := atArgs(call.Name)
	name := pathArg(t, args, dir, text)
	if modeAt(t, name) != 0 {
		return ""
	}
	return name
}

func tellOpen(s *Kernel, c traceCall) {
	dir, text := atArgs(c.call.Name)
	flags := openFlags(c.t, c.call, c.args)
	if c.err != nil {
		if s.events.Enabled(event.FileOpen) {
			s.emit(c.a, event.FileOpen, &eventv1.FileOpen{
				Process: processOf(c.t), Path: pathArg(c.t, c.args, dir, text), Flags: flagNames(flags), Fd: -1, Errno: errnoOf(c.err),
			})
		}
		return
	}
	fd := int32(c.n)
	name := pathOfFD(c.t, fd)
	if s.events.Enabled(event.FileOpen) {
		s.emit(c.a, event.FileOpen, &eventv1.FileOpen{Process: processOf(c.t), Path: name, Flags: flagNames(flags), Fd: fd})
	}
	st := modeOfFD(c.t, fd)
	if c.seen != "" {
		s.emit(c.a, event.FileCreate, &eventv1.FileCreate{Process: processOf(c.t), Path: name, Kind: "file", Mode: uint32(st.Mode) & 0o7777})
	}
	switch st.Mode & linux.S_IFMT {
	case linux.S_IFCHR, linux.S_IFBLK:
		if s.events.Enabled(event.DeviceOpen) {
			s.emit(c.a, event.DeviceOpen, &eventv1.DeviceOpen{
				Process: processOf(c.t), Path: pathArg(c.t, c.args, dir, text), Major: st.RdevMajor, Minor: st.RdevMinor, Flags: flagNames(flags),
			})
		}
	}
}

// flagNames writes the flags of an open as a program has them.
func flagNames(flags uint32) string {
	names := []string{"O_RDONLY"}
	switch flags & linux.O_ACCMODE {
	case linux.O_WRONLY:
		names[0] = "O_WRONLY"
	case linux.O_RDWR:
		names[0] = "O_RDWR"
	}
	for _, f := range []struct {
		bit  uint32
		name string
	}{
		{linux.O_CREAT, "O_CREAT"}, {linux.O_EXCL, "O_EXCL"}, {linux.O_TRUNC, "O_TRUNC"}, {linux.O_APPEND, "O_APPEND"},
		{linux.O_NONBLOCK, "O_NONBLOCK"}, {linux.O_DIRECTORY, "O_DIRECTORY"}, {linux.O_NOFOLLOW, "O_NOFOLLOW"},
		{linux.O_CLOEXEC, "O_CLOEXEC"}, {linux.O_PATH, "O_PATH"},
	} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, "|")
}

func tellWrite(s *Kernel, c traceCall) {
	if c.err != nil || int64(c.n) <= 0 {
		return
	}
	fd := c.args[0].Int()
	if modeOfFD(c.t, fd).Mode&linux.S_IFMT != linux.S_IFREG {
		return
	}
	s.emit(c.a, event.FileWrite, &eventv1.FileWrite{Process: processOf(c.t), Path: pathOfFD(c.t, fd), Fd: fd, Bytes: uint64(c.n)})
}

func tellCreate(s *Kernel, c traceCall) {
	if c.err != nil {
		return
	}
	dir, text := atArgs(c.call.Name)
	p := &eventv1.FileCreate{Process: processOf(c.t), Path: pathArg(c.t, c.args, dir, text)}
	switch strings.TrimSuffix(c.call.Name, "at") {
	case "symlink":
		p.Kind = "symlink"
	case "link":
		p.Kind = "link"
	case "mkdir":
		p.Kind, p.Mode = "directory", uint32(c.args[text+1].ModeT())
	default:
		mode := uint32(c.args[text+1].ModeT())
		p.Kind, p.Mode = kindOf(mode), mode&0o7777
	}
	s.emit(c.a, event.FileCreate, p)
}

// kindOf names a type of file.
func kindOf(mode uint32) string {
	switch mode & linux.S_IFMT {
	case linux.S_IFDIR:
		return "directory"
	case linux.S_IFIFO:
		return "fifo"
	case linux.S_IFSOCK:
		return "socket"
	case linux.S_IFCHR, linux.S_IFBLK:
		return "device"
	case linux.S_IFLNK:
		return "symlink"
	}
	return "file"
}

func tellRename(s *Kernel, c traceCall) {
	if c.err != nil {
		return
	}
	p := &eventv1.FileRename{Process: processOf(c.t)}
	if c.call.Name == "rename" {
		p.Path, p.NewPath = pathArg(c.t, c.args, -1, 0), pathArg(c.t, c.args, -1, 1)
	} else {
		p.Path, p.NewPath = pathArg(c.t, c.args, 0, 1), pathArg(c.t, c.args, 2, 3)
	}
	s.emit(c.a, event.FileRename, p)
}

func tellRemove(s *Kernel, c traceCall) {
	if c.err != nil {
		return
	}
	dir, text := atArgs(c.call.Name)
	s.emit(c.a, event.FileRemove, &eventv1.FileRemove{
		Process: processOf(c.t), Path: pathArg(c.t, c.args, dir, text),
		Directory: c.call.Name == "rmdir" || c.call.Name == "unlinkat" && c.args[2].Uint()&linux.AT_REMOVEDIR != 0,
	})
}

func tellMount(s *Kernel, c traceCall) {
	if c.err != nil {
		return
	}
	p := &eventv1.FileMount{Process: processOf(c.t), Target: pathArg(c.t, c.args, -1, 1), ReadOnly: c.args[3].Uint64()&linux.MS_RDONLY != 0}
	p.Source = textArg(c.t, c.args[0])
	p.Type = textArg(c.t, c.args[2])
	s.emit(c.a, event.FileMount, p)
}

func tellUnmount(s *Kernel, c traceCall) {
	if c.err == nil {
		s.emit(c.a, event.FileUnmount, &eventv1.FileMount{Process: processOf(c.t), Target: pathArg(c.t, c.args, -1, 0)})
	}
}

// textArg returns a text that an argument points to, "" for none.
func textArg(t *kernel.Task, arg arch.SyscallArgument) string {
	if arg.Pointer() == 0 {
		return ""
	}
	text, err := t.CopyInString(arg.Pointer(), linux.PATH_MAX)
	if err != nil {
		return ""
	}
	return event.Text(text)
}

// socketAt returns an open socket and its file, with a reference; nil if the
// descriptor is none.
func socketAt(t *kernel.Task, fd int32) (*vfs.FileDescription, socket.Socket) {
	file := t.GetFile(fd)
	if file == nil {
		return nil, nil
	}
	if sock, ok := file.Impl().(socket.Socket); ok {
		return file, sock
	}
	file.DecRef(t)
	return nil, nil
}

// protocolOf names what a socket speaks.
func protocolOf(sock socket.Socket) string {
	family, typ, _ := sock.Type()
	switch family {
	case linux.AF_UNIX:
		return "unix"
	case linux.AF_INET, linux.AF_INET6:
		switch typ {
		case linux.SOCK_STREAM:
			return "tcp"
		case linux.SOCK_DGRAM:
			return "udp"
		}
		return "ip"
	}
	return familyName(family)
}

// addressOf writes an address as text.
func addressOf(addr linux.SockAddr) string {
	switch a := addr.(type) {
	case *linux.SockAddrInet:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), hostOrder(a.Port)).String()
	case *linux.SockAddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), hostOrder(a.Port)).String()
	case *linux.SockAddrUnix:
		text := make([]byte, 0, len(a.Path))
		for i, b := range a.Path {
			if b == 0 && i > 0 {
				break
			}
			text = append(text, byte(b))
		}
		return event.Text(strings.Replace(string(text), "\x00", "@", 1))
	}
	return ""
}

// hostOrder is a port in the order of the host.
func hostOrder(port uint16) uint16 { return port<<8 | port>>8 }

func localOf(t *kernel.Task, sock socket.Socket) string {
	addr, _, err := sock.GetSockName(t)
	if err != nil {
		return ""
	}
	return addressOf(addr)
}

func remoteOf(t *kernel.Task, sock socket.Socket) string {
	addr, _, err := sock.GetPeerName(t)
	if err != nil {
		return ""
	}
	return addressOf(addr)
}

func tellConnect(s *Kernel, c traceCall) {
	fd := c.args[0].Int()
	file, sock := socketAt(c.t, fd)
	if sock == nil {
		return
	}
	defer file.DecRef(c.t)
	p := &eventv1.NetConnect{Process: processOf(c.t), Protocol: protocolOf(sock), Local: localOf(c.t, sock), Fd: fd, Errno: errnoOf(c.err)}
	if raw, err := slinux.CaptureAddress(c.t, c.args[1].Pointer(), c.args[2].Uint()); err == nil {
		p.Remote = remoteText(raw)
	}
	if s.events.Enabled(event.NetConnect) {
		s.emit(c.a, event.NetConnect, p)
	}
	switch {
	case c.err == nil, linuxerr.Equals(linuxerr.EINPROGRESS, c.err):
		s.watchEnd(c, file, sock, p.GetRemote())
	default:
		if s.events.Enabled(event.NetRefused) {
			by := "peer"
			if !linuxerr.Equals(linuxerr.ECONNREFUSED, c.err) && !linuxerr.Equals(linuxerr.ECONNRESET, c.err) {
				by = "unreachable"
			}
			s.emit(c.a, event.NetRefused, &eventv1.NetRefused{
				Process: p.GetProcess(), Protocol: p.GetProtocol(), Local: p.GetLocal(), Remote: p.GetRemote(), By: by, Errno: p.GetErrno(),
			})
		}
	}
}

// remoteText writes an address that a program gave.
func remoteText(raw []byte) string {
	if len(raw) > 2 && uint16(raw[0])|uint16(raw[1])<<8 == linux.AF_UNIX {
		name := string(raw[2:])
		if name[0] == 0 {
			return event.Text("@" + name[1:])
		}
		name, _, _ = strings.Cut(name, "\x00")
		return event.Text(name)
	}
	full, _, err := socket.AddressAndFamily(raw)
	if err != nil {
		return ""
	}
	if addr, ok := netip.AddrFromSlice(full.Addr.AsSlice()); ok {
		return netip.AddrPortFrom(addr, full.Port).String()
	}
	return ":" + strconv.Itoa(int(full.Port))
}

func tellListen(s *Kernel, c traceCall) {
	fd := c.args[0].Int()
	file, sock := socketAt(c.t, fd)
	if sock == nil {
		return
	}
	defer file.DecRef(c.t)
	if c.err == nil {
		s.emit(c.a, event.NetListen, &eventv1.NetListen{
			Process: processOf(c.t), Protocol: protocolOf(sock), Local: localOf(c.t, sock), Fd: fd, Backlog: c.args[1].Int(),
		})
	}
}

func tellAccept(s *Kernel, c traceCall) {
	if c.err != nil {
		return
	}
	file, sock := socketAt(c.t, int32(c.n))
	if sock == nil {
		return
	}
	defer file.DecRef(c.t)
	remote := remoteOf(c.t, sock)
	if s.events.Enabled(event.NetAccept) {
		s.emit(c.a, event.NetAccept, &eventv1.NetAccept{
			Process: processOf(c.t), Protocol: protocolOf(sock), Local: localOf(c.t, sock), Remote: remote, Fd: int32(c.n),
		})
	}
	s.watchEnd(c, file, sock, remote)
}

// ending waits for the end of a connection. It is in the queue of its socket,
// and goes with it.
type ending struct {
	s     *Kernel
	agent string
	what  eventv1.NetDisconnect
	since int64
	told  atomic.Bool
}

// watchEnd has the end of a connection told.
func (s *Kernel) watchEnd(c traceCall, file *vfs.FileDescription, sock socket.Socket, remote string) {
	if !s.events.Enabled(event.NetDisconnect) || protocolOf(sock) != "tcp" {
		return
	}
	e := &ending{s: s, agent: c.a.id, since: s.cfg.Clock.Now().UnixNano()}
	e.what.Protocol, e.what.Local, e.what.Remote = "tcp", localOf(c.t, sock), remote
	entry := new(waiter.Entry)
	entry.Init(e, waiter.EventHUp)
	// A file that cannot be waited for has no end to tell of.
	_ = file.EventRegister(entry)
}

// NotifyEvent implements waiter.EventListener. It is called with locks of the
// socket held.
func (e *ending) NotifyEvent(waiter.EventMask) {
	if !e.told.CompareAndSwap(false, true) {
		return
	}
	e.what.Reason = "closed"
	e.what.Lifetime = e.s.cfg.Clock.Now().UnixNano() - e.since
	e.s.emit(e.s.findAgent(e.agent), event.NetDisconnect, &e.what)
}

func tellSignal(s *Kernel, c traceCall) {
	if c.err != nil {
		return
	}
	at := 1
	if c.call.Name == "tgkill" || c.call.Name == "rt_tgsigqueueinfo" {
		at = 2
	}
	if sig := c.args[at].Int(); sig != 0 {
		s.emit(c.a, event.AgentSignal, &eventv1.AgentSignal{
			Signal: sig, SignalName: unix.SignalName(unix.Signal(sig)), Pid: c.args[0].Int(), FromAgent: c.a.id, From: processOf(c.t),
		})
	}
}
