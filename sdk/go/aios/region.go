package aios

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Region is memory that agents share, open and mapped: its bytes, and what is
// kept in them together: locks, counters and rings. docs/fabric.md says what they
// are in memory. All who take part must be trusted with what is in it; none of
// them, whatever he writes, has another wait beyond the time that it said.
//
// What is taken back is gone from memory: Bytes and what is made of them must not
// be touched any more. The methods here say so with an error.
type Region struct {
	mem []byte
	sys regionCalls
	// id is the process as a member; 0 if the region is only to be read.
	id    uint32
	close func() error
}

// regionCalls is the kernel; tests have another way to it.
type regionCalls interface {
	call(nr uintptr, a *regionArg) error
}

// regionArg is the argument of the ioctls of a region.
type regionArg struct {
	offset, deadline, expect, new uint64
	id, count, flags, pad         uint32
}

// The ioctls of a region; abi.RegionRequest has them.
const (
	regionIoctl = 3<<30 | unsafe.Sizeof(regionArg{})<<16 | 'A'<<8 | 64

	regionJoin   = regionIoctl + 0
	regionLeave  = regionIoctl + 1
	regionAlive  = regionIoctl + 2
	regionWait   = regionIoctl + 3
	regionWake   = regionIoctl + 4
	regionLock   = regionIoctl + 5
	regionUnlock = regionIoctl + 6
	regionCommit = regionIoctl + 8

	regionProcess = 1
	regionTry     = 2
)

type regionFile struct{ *os.File }

func (f regionFile) call(nr uintptr, a *regionArg) error {
	_, _, n := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), nr, uintptr(unsafe.Pointer(a)))
	if n != 0 {
		return n
	}
	return nil
}

// OpenRegion opens and maps the region of that name, to be written, too, if the
// agent may.
func OpenRegion(name string) (*Region, error) {
	path := filepath.Join(root, "fabric", name)
	prot := syscall.PROT_READ | syscall.PROT_WRITE
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		prot = syscall.PROT_READ
		if f, err = os.Open(path); err != nil {
			return nil, outside(err)
		}
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, outside(err)
	}
	mem, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), prot, syscall.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, outside(&os.PathError{Op: "mmap", Path: path, Err: err})
	}
	r, err := newRegion(mem, regionFile{f}, prot&syscall.PROT_WRITE != 0)
	if err != nil {
		syscall.Munmap(mem)
		f.Close()
		return nil, err
	}
	r.close = func() error {
		err := syscall.Munmap(mem)
		f.Close()
		return err
	}
	return r, nil
}

func newRegion(mem []byte, sys regionCalls, writable bool) (*Region, error) {
	r := &Region{mem: mem, sys: sys, close: func() error { return nil }}
	if writable {
		a := regionArg{flags: regionProcess}
		if err := sys.call(regionJoin, &a); err != nil {
			return nil, refused("join", err)
		}
		r.id = a.id
	}
	return r, nil
}

// Bytes is the memory itself.
func (r *Region) Bytes() []byte { return r.mem }

// Close unmaps it. Nothing that was made of it may be used any more.
func (r *Region) Close() error { return r.close() }

// refused is the error for a call that failed.
func refused(op string, err error) *Error {
	n := errnoOf(err)
	return &Error{Message: "region: " + op + ": " + n.Error(), Errno: n}
}

// probe, unless nil, is called before everything that others could see: tests end
// a participant there.
var probe func(r *Region)

func (r *Region) word(off uint64) *uint32 {
	if probe != nil {
		probe(r)
	}
	return (*uint32)(unsafe.Pointer(&r.mem[off : off+4][0]))
}

func (r *Region) long(off uint64) *uint64 {
	if probe != nil {
		probe(r)
	}
	return (*uint64)(unsafe.Pointer(&r.mem[off : off+8][0]))
}

// has refuses what does not lie in the region.
func (r *Region) has(off, n, align uint64) error {
	if off%align != 0 || off > uint64(len(r.mem)) || n > uint64(len(r.mem))-off {
		return invalid("offset %#x is not a multiple of %d within the region", off, align)
	}
	return nil
}

// guarded returns, deferred, a fault in memory that was taken back as an error:
//
//	defer guarded(debug.SetPanicOnFault(true), &err)
func guarded(old bool, err *error) {
	debug.SetPanicOnFault(old)
	switch p := recover().(type) {
	case nil:
	case interface{ Addr() uintptr }:
		*err = &Error{Message: "region: it was taken back", Errno: syscall.EACCES}
	default:
		panic(p)
	}
}

// Forever is a time-out that there is not.
const Forever time.Duration = -1

// monotonic is the kernel's clock, by which it is said when to give up. It is
// asked by who is about to sleep only.
func monotonic() int64 {
	var ts syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

// deadline is when a time-out is over; 0 is never.
func deadline(timeout time.Duration) uint64 {
	if timeout < 0 {
		return 0
	}
	return uint64(monotonic() + int64(timeout))
}

func over(deadline uint64) bool {
	return deadline != 0 && uint64(monotonic()) >= deadline
}

// sleep waits while a word has a value. That it had another, or that a signal
// came, is not told: who waits looks again.
func (r *Region) sleep(off uint64, value uint32, deadline uint64) error {
	a := regionArg{offset: off, expect: uint64(value), deadline: deadline}
	switch err := r.sys.call(regionWait, &a); err {
	case nil, syscall.EAGAIN, syscall.EINTR:
		return nil
	default:
		return refused("wait", err)
	}
}

func (r *Region) wake(off uint64) error {
	a := regionArg{offset: off, count: 1<<32 - 1}
	if err := r.sys.call(regionWake, &a); err != nil {
		return refused("wake", err)
	}
	return nil
}

// Wait waits while the word of 4 bytes at off has a value. It returns nil when it
// is woken, or had another, and ETIMEDOUT when the time is over; it may return
// although nothing has happened.
func (r *Region) Wait(off uint64, value uint32, timeout time.Duration) error {
	return r.sleep(off, value, deadline(timeout))
}

// Wake wakes all who wait for the word at off.
func (r *Region) Wake(off uint64) error { return r.wake(off) }

// Commit has what a persistent region is at one moment kept, and returns the number
// of that version: when it returns, it is on disk.
func (r *Region) Commit() (version uint64, err error) {
	var a regionArg
	if err := r.sys.call(regionCommit, &a); err != nil {
		return 0, refused("commit", err)
	}
	return a.expect, nil
}

// CounterSize is what a counter takes up in a region.
const CounterSize = 16

// Counter is a number that only grows, and that others wait for. At off there are
// the number, of 8 bytes, and a word that says that somebody waits.
type Counter struct {
	r   *Region
	off uint64
}

// Counter returns the counter at off, a multiple of 8.
func (r *Region) Counter(off uint64) (*Counter, error) {
	if err := r.has(off, CounterSize, 8); err != nil {
		return nil, err
	}
	return &Counter{r, off}, nil
}

// Value is what it is now.
func (c *Counter) Value() (n uint64, err error) {
	defer guarded(debug.SetPanicOnFault(true), &err)
	return atomic.LoadUint64(c.r.long(c.off)), nil
}

// Advance adds n, and wakes those who wait.
func (c *Counter) Advance(n uint64) (is uint64, err error) {
	defer guarded(debug.SetPanicOnFault(true), &err)
	is = atomic.AddUint64(c.r.long(c.off), n)
	if atomic.LoadUint32(c.r.word(c.off+8)) != 0 && atomic.SwapUint32(c.r.word(c.off+8), 0) != 0 {
		err = c.r.wake(c.off)
	}
	return is, err
}

// Await waits until it is n or more, and returns what it is.
func (c *Counter) Await(n uint64, timeout time.Duration) (is uint64, err error) {
	defer guarded(debug.SetPanicOnFault(true), &err)
	var until uint64
	for first := true; ; first = false {
		if is = atomic.LoadUint64(c.r.long(c.off)); is >= n {
			return is, nil
		}
		if first {
			until = deadline(timeout)
		}
		if c.r.id != 0 { // Else it cannot be said: it is looked now and then.
			atomic.StoreUint32(c.r.word(c.off+8), 1)
			if is = atomic.LoadUint64(c.r.long(c.off)); is >= n {
				return is, nil
			}
		}
		if err := c.r.nap(c.off, uint32(is), until); err != nil {
			return is, err
		}
	}
}

// nap is sleep; one that may not write is not woken, and looks again every 10 ms.
func (r *Region) nap(off uint64, value uint32, until uint64) error {
	if r.id != 0 {
		return r.sleep(off, value, until)
	}
	short := deadline(10 * time.Millisecond)
	if until != 0 && until < short {
		return r.sleep(off, value, until)
	}
	if err := r.sleep(off, value, short); err != nil && err.(*Error).Errno != syscall.ETIMEDOUT {
		return err
	}
	return nil
}
