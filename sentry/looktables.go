package sentry

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/control"
	"aios.dev/aios/event"
)

// maps lists what processes have mapped.
func (l *look) maps() {
	for _, a := range l.agents {
		seen := make(map[*mm.MemoryManager]bool)
		for _, t := range l.leadersOf(a) {
			m := addressSpaceOf(t)
			if m == nil || seen[m] {
				continue
			}
			seen[m] = true
			pid := int32(a.ns.pid().IDOfThreadGroup(t.ThreadGroup()))
			var rows []control.LookMap
			m.ReadMapsDataInto(l.s.dumpContext(a), func(start, end hostarch.Addr, perms hostarch.AccessType, private string, offset uint64, _, _ uint32, _ uint64, path string) {
				rows = append(rows, control.LookMap{
					Agent: a.id, PID: pid, Start: uint64(start), End: uint64(end), Perms: perms.String() + private, Offset: offset, What: event.Text(path),
				})
			})
			for _, row := range rows {
				if l.fits(control.ViewMaps, row) {
					l.out.Maps = append(l.out.Maps, row)
				}
			}
		}
	}
}

// openFile is a file that a process has open, with a reference.
type openFile struct {
	pid, tid, fd int32
	flags        kernel.FDFlags
	t            *kernel.Task
	file         *vfs.FileDescription
}

// eachFile calls f with every open file.
func (l *look) eachFile(f func(context.Context, *Agent, openFile)) {
	for _, a := range l.agents {
		ctx := l.s.dumpContext(a)
		seen := make(map[*kernel.FDTable]bool)
		ofProcess := make(map[*kernel.ThreadGroup]bool)
		for _, t := range l.tasksOf(a) {
			var table *kernel.FDTable
			t.WithMuLocked(func(t *kernel.Task) {
				if table = t.FDTable(); table != nil {
					table.IncRef()
				}
			})
			if table == nil {
				continue
			}
			o := openFile{pid: int32(a.ns.pid().IDOfThreadGroup(t.ThreadGroup())), t: t}
			if ofProcess[t.ThreadGroup()] { // It does not share the one of the others.
				o.tid = int32(a.ns.pid().IDOfTask(t))
			}
			ofProcess[t.ThreadGroup()] = true
			if !seen[table] {
				seen[table] = true
				for _, fd := range table.GetFDs(ctx) {
					if o.file, o.flags = table.Get(fd); o.file != nil {
						o.fd = fd
						f(ctx, a, o)
						o.file.DecRef(ctx)
					}
				}
			}
			table.DecRef(ctx)
		}
	}
}

// files lists tables of open files.
func (l *look) files() {
	l.eachFile(func(ctx context.Context, a *Agent, o openFile) {
		status := o.file.StatusFlags()
		row := control.LookFile{
			Agent: a.id, PID: o.pid, TID: o.tid, FD: o.fd, CloseOnExec: o.flags.CloseOnExec, Append: status&linux.O_APPEND != 0,
			NonBlocking: status&linux.O_NONBLOCK != 0, FileSystem: o.file.Mount().Filesystem().FilesystemType().Name(), Path: l.pathOf(ctx, o),
		}
		if o.file.IsReadable() {
			row.Mode += "r"
		}
		if o.file.IsWritable() {
			row.Mode += "w"
		}
		if status&linux.O_PATH != 0 {
			row.Mode = "path"
		}
		if l.fits(control.ViewFiles, row) {
			l.out.Files = append(l.out.Files, row)
		}
	})
}

// pathOf names an open file as its process would.
func (l *look) pathOf(ctx context.Context, o openFile) string {
	var fs *kernel.FSContext
	o.t.WithMuLocked(func(t *kernel.Task) { fs = t.FSContext() })
	if fs == nil {
		return ""
	}
	root := fs.RootDirectory()
	if !root.Ok() {
		return ""
	}
	defer root.DecRef(ctx)
	path, err := l.s.k.VFS().PathnameWithDeleted(ctx, root, o.file.VirtualDentry())
	if err != nil {
		return ""
	}
	return event.Text(path)
}

// sockets lists those that processes have open.
func (l *look) sockets() {
	l.eachFile(func(_ context.Context, a *Agent, o openFile) {
		s, ok := o.file.Impl().(socket.Socket)
		if !ok {
			return
		}
		family, kind, _ := s.Type()
		row := control.LookSocket{
			Agent: a.id, PID: o.pid, TID: o.tid, FD: o.fd, Family: nameIn(families, family), Type: nameIn(socketTypes, int(kind)),
		}
		if at, _, err := s.GetSockName(o.t); err == nil {
			row.Local = addressText(at)
		}
		if at, _, err := s.GetPeerName(o.t); err == nil {
			row.Remote = addressText(at)
		}
		if inet := family == linux.AF_INET || family == linux.AF_INET6; inet && kind == linux.SOCK_STREAM {
			row.State = nameIn(tcpStates, s.State())
		}
		if l.fits(control.ViewSockets, row) {
			l.out.Sockets = append(l.out.Sockets, row)
		}
	})
}

var (
	families = map[int]string{
		linux.AF_UNIX: "unix", linux.AF_INET: "inet", linux.AF_INET6: "inet6", linux.AF_NETLINK: "netlink", linux.AF_PACKET: "packet",
	}
	socketTypes = map[int]string{
		int(linux.SOCK_STREAM): "stream", int(linux.SOCK_DGRAM): "dgram", int(linux.SOCK_RAW): "raw", int(linux.SOCK_RDM): "rdm",
		int(linux.SOCK_SEQPACKET): "seqpacket",
	}
	tcpStates = map[uint32]string{
		linux.TCP_ESTABLISHED: "established", linux.TCP_SYN_SENT: "syn-sent", linux.TCP_SYN_RECV: "syn-recv", linux.TCP_FIN_WAIT1: "fin-wait-1",
		linux.TCP_FIN_WAIT2: "fin-wait-2", linux.TCP_TIME_WAIT: "time-wait", linux.TCP_CLOSE: "close", linux.TCP_CLOSE_WAIT: "close-wait",
		linux.TCP_LAST_ACK: "last-ack", linux.TCP_LISTEN: "listen", linux.TCP_CLOSING: "closing", linux.TCP_NEW_SYN_RECV: "syn-recv",
	}
)

func nameIn[K int | uint32](names map[K]string, n K) string {
	if name, ok := names[n]; ok {
		return name
	}
	return strconv.FormatInt(int64(n), 10)
}

// addressText writes the address of a socket; that of a name without a file
// begins with "@".
func addressText(a linux.SockAddr) string {
	port := func(p uint16) uint16 { return p<<8 | p>>8 }
	switch a := a.(type) {
	case *linux.SockAddrInet:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), port(a.Port)).String()
	case *linux.SockAddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), port(a.Port)).String()
	case *linux.SockAddrUnix:
		var b []byte
		for _, c := range a.Path {
			b = append(b, byte(c))
		}
		abstract := len(b) > 0 && b[0] == 0 && slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
		text := strings.TrimRight(string(b), "\x00")
		if abstract {
			text = "@" + strings.TrimPrefix(text, "\x00")
		}
		text, _, _ = strings.Cut(text, "\x00")
		return event.Text(text)
	}
	return ""
}
