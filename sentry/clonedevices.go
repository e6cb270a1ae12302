package sentry

import (
	"maps"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// A copy's file systems are its own, and gVisor numbers them anew. Programs that have
// asked which device a file is on, and which inode it is, compare that with what they
// are told later: so those of a copy are told the numbers of the original, of files
// that have the same inodes. gVisor numbers the directories of an overlay as it comes by
// them, and the nodes of /proc: with the original's device these could be taken for
// others, so their devices are the copy's own, and what mount tables and maps say.

// deviceNumbers are the minor numbers that programs are told, by what they are. Each
// number is told for one number only.
type deviceNumbers map[uint32]uint32

// told returns the number that programs are told for one.
func (d deviceNumbers) told(minor uint32) uint32 {
	if n, ok := d[minor]; ok {
		return n
	}
	return minor
}

// permutation returns numbers of which none is told for two: what was taken by
// another one is told for one that nobody is told any more.
func (d deviceNumbers) permutation() deviceNumbers {
	told := make(map[uint32]bool)
	for _, n := range d {
		told[n] = true
	}
	var free []uint32
	for n := range d {
		if !told[n] {
			free = append(free, n)
		}
	}
	slices.Sort(free)
	out := maps.Clone(d)
	for _, n := range slices.Sorted(maps.Keys(told)) {
		if _, ok := d[n]; !ok {
			out[n], free = free[0], free[1:]
		}
	}
	return out
}

// devices finds the numbers of the original's file systems: by what is open, and by
// what nearly every root has.
func (c *copying) devices() error {
	var before deviceNumbers
	if d := c.src.devices.Load(); d != nil {
		before = *d
	}
	all, told := make(deviceNumbers), make(map[uint32]bool)
	pair := func(from, to uint32) {
		if _, ok := all[to]; from != 0 && to != 0 && !ok && !told[before.told(from)] {
			all[to] = before.told(from)
			told[all[to]] = true
		}
	}
	pair(c.upperDevice(c.src), c.upperDevice(c.dst))
	at := func(root vfs.VirtualDentry, name string) uint32 {
		return c.fileDevice(c.s.k.VFS().StatAt(c.ctx, c.s.creds, inTree(root, name), &vfs.StatOptions{Sync: linux.AT_STATX_DONT_SYNC}))
	}
	for _, name := range slices.Concat(usualFiles, c.programs()) {
		pair(at(c.files.from, name), at(c.files.to, name))
	}
	cached := vfs.StatOptions{Sync: linux.AT_STATX_DONT_SYNC}
	for old, own := range c.files.files {
		if sameInodes(old.Mount().Filesystem()) && !old.Dentry().IsDead() { // One that was removed is made anew elsewhere.
			pair(c.fileDevice(old.Stat(c.ctx, cached)), c.fileDevice(own.Stat(c.ctx, cached)))
		}
	}
	all = all.permutation()
	c.dst.devices.Store(&all)
	return nil
}

// usualFiles are files of a root's layers, if it has them.
var usualFiles = []string{"bin/sh", "etc/passwd", "etc/hostname", "usr/bin/env"}

// programs returns where the programs that run are.
func (c *copying) programs() (names []string) {
	for m := range c.images {
		exe := m.Executable()
		if exe == nil {
			continue
		}
		if name, err := c.s.k.VFS().PathnameReachable(c.ctx, c.files.from, exe.VirtualDentry()); err == nil && strings.HasPrefix(name, "/") {
			names = append(names, name[1:])
		}
		exe.DecRef(c.ctx)
	}
	return names
}

// sameInodes reports whether the copy of a file system has files by the same numbers.
func sameInodes(fs *vfs.Filesystem) bool {
	name := fs.FilesystemType().Name()
	return name == "overlay" || name == "tmpfs"
}

// fileDevice is the minor number of what a file is on, if that is none of the host's.
func (c *copying) fileDevice(stat linux.Statx, err error) uint32 {
	if err != nil || stat.DevMajor != linux.UNNAMED_MAJOR || stat.Mode&linux.S_IFMT != linux.S_IFREG {
		return 0
	}
	return stat.DevMinor
}

// upperDevice is that of files which an agent has written.
func (c *copying) upperDevice(a *Agent) uint32 {
	root := vfs.MakeVirtualDentry(a.ns.upper, a.ns.upper.Root())
	stat, err := c.s.k.VFS().StatAt(c.ctx, c.s.creds, inTree(root, ""), &vfs.StatOptions{Sync: linux.AT_STATX_DONT_SYNC})
	if err != nil {
		return 0
	}
	return stat.DevMinor
}

// statCalls are the calls that tell what device a file is on, and which argument says
// where to.
var statCalls = map[string]int{"stat": 1, "lstat": 1, "fstat": 1, "newfstatat": 2, "statx": 4}

// statxMinor is where struct statx has the minor number.
const statxMinor = 0x8c

// deviceCall returns inner with the numbers that programs are told.
func (s *Kernel) deviceCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	arg, ok := statCalls[call.Name]
	if !ok {
		return inner
	}
	tell := tellDevice
	if call.Name == "statx" {
		tell = tellStatx
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		n, ctrl, err := inner(t, sysno, args)
		if err == nil {
			if a := s.agentOf(t); a != nil {
				if d := a.devices.Load(); d != nil {
					tell(t, args[arg].Pointer(), *d)
				}
			}
		}
		return n, ctrl, err
	}
}

// tellDevice corrects a struct stat, which begins with the device. The call could
// write it; if another thread has unmapped it meanwhile there is nobody to be told.
func tellDevice(t *kernel.Task, at hostarch.Addr, d deviceNumbers) {
	var raw [8]byte
	if _, err := t.CopyInBytes(at, raw[:]); err != nil {
		return
	}
	major, minor := linux.DecodeDeviceID(uint32(hostarch.ByteOrder.Uint64(raw[:])))
	if n := d.told(minor); major == linux.UNNAMED_MAJOR && n != minor {
		hostarch.ByteOrder.PutUint64(raw[:], uint64(linux.MakeDeviceID(major, n)))
		t.CopyOutBytes(at, raw[:])
	}
}

// tellStatx corrects a struct statx.
func tellStatx(t *kernel.Task, at hostarch.Addr, d deviceNumbers) {
	var raw [8]byte // major and minor
	at += statxMinor - 4
	if _, err := t.CopyInBytes(at, raw[:]); err != nil {
		return
	}
	minor := hostarch.ByteOrder.Uint32(raw[4:])
	if n := d.told(minor); hostarch.ByteOrder.Uint32(raw[:]) == linux.UNNAMED_MAJOR && n != minor {
		hostarch.ByteOrder.PutUint32(raw[4:], n)
		t.CopyOutBytes(at, raw[:])
	}
}
