package kdb

import (
	"bytes"
	"encoding/binary"
	"io"

	"aios.dev/aios/errdefs"
)

// Sizes of what a core holds of the registers of a thread on amd64.
const (
	RegsSize   = 27 * 8 // user_regs_struct: r15 … gs, as ptrace orders them
	FPRegsSize = 512    // FXSAVE
)

// Signal is why a thread stopped: the head of a siginfo_t.
type Signal struct {
	Number, Errno, Code int32
	// Info is the whole siginfo_t, at most 128 bytes, or nil.
	Info []byte
}

// Thread is one thread of a process, as it stopped.
type Thread struct {
	TID              int32
	Signal           Signal // Number 0: none
	Pending, Blocked uint64
	// Regs are RegsSize bytes, FP FPRegsSize bytes or none, XState what XSAVE
	// stores, or none.
	Regs, FP, XState []byte
	// UserTime and SystemTime are CPU time in microseconds.
	UserTime, SystemTime int64
}

// Mapping is a range of a process's addresses.
type Mapping struct {
	Start, End          uint64
	Read, Write, Exec   bool
	Shared              bool
	File                string // or the name of an anonymous one, or ""
	Offset              uint64 // in File
	Resident, Anonymous uint64 // bytes: in memory; of these not the file's any more
	// Keep is how many bytes from Start on go into the core; Plan sets it.
	Keep uint64
}

// Size is the length in bytes.
func (m *Mapping) Size() uint64 { return m.End - m.Start }

// Process is what a core is made of. The first thread is the one that the
// others are shown beside: whose fault ended or stopped the process.
type Process struct {
	PID, PPID, PGID, SID int32
	UID, GID             uint32
	Nice                 int8
	Name                 string // of the program, as its thread calls itself
	Args                 string // its arguments, as ps shows them
	Auxv                 []byte
	Threads              []Thread
	Mappings             []Mapping
}

// Memory reads what a process had in memory. A short read is an error.
type Memory interface {
	ReadMemory(addr uint64, p []byte) error
}

// Numbers of the ELF format.
const (
	elfHeaderSize  = 64
	progHeaderSize = 56
	pageSize       = 4096

	ptLoad, ptNote = 1, 4

	ntPRStatus  = 1
	ntFPRegSet  = 2
	ntPRPSInfo  = 3
	ntAuxv      = 6
	ntXState    = 0x202
	ntSigInfo   = 0x53494749
	ntFile      = 0x46494c45
	prStatusLen = 336
	prPSInfoLen = 136
	sigInfoLen  = 128
)

// MaxMappings is how many mappings a core holds: the program header's count is
// 16 bits wide.
const MaxMappings = 65000

var le = binary.LittleEndian

// Core is an ELF core about to be written: its size is known before.
type Core struct {
	p      *Process
	notes  []byte
	header int64 // bytes before the first segment, page aligned
	size   int64
}

// NewCore prepares the core of p.
func NewCore(p *Process) (*Core, error) {
	if len(p.Threads) == 0 {
		return nil, errdefs.New(errdefs.InvalidArgument, "a core needs a thread")
	}
	if len(p.Mappings) > MaxMappings {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "%d mappings do not fit into a core", len(p.Mappings))
	}
	for i := range p.Threads {
		if len(p.Threads[i].Regs) != RegsSize {
			return nil, errdefs.Newf(errdefs.InvalidArgument, "thread %d has %d bytes of registers", p.Threads[i].TID, len(p.Threads[i].Regs))
		}
	}
	c := &Core{p: p, notes: p.notes()}
	c.header = roundUp(elfHeaderSize + int64(1+len(p.Mappings))*progHeaderSize + int64(len(c.notes)))
	c.size = c.header
	for i := range p.Mappings {
		c.size += int64(p.Mappings[i].Keep)
	}
	return c, nil
}

// Size is how many bytes Write will write.
func (c *Core) Size() int64 { return c.size }

func roundUp(n int64) int64 { return (n + pageSize - 1) &^ (pageSize - 1) }

// Write writes the core. Memory that cannot be read is written as zeros, and
// counted. buf is what memory passes through.
func (c *Core) Write(w io.Writer, mem Memory, buf []byte) (unreadable uint64, err error) {
	if _, err := w.Write(c.headers()); err != nil {
		return 0, err
	}
	for i := range c.p.Mappings {
		m := &c.p.Mappings[i]
		for addr, end := m.Start, m.Start+m.Keep; addr < end; {
			p := buf[:min(uint64(len(buf)), end-addr)]
			unreadable += readPages(mem, addr, p)
			if _, err := w.Write(p); err != nil {
				return unreadable, err
			}
			addr += uint64(len(p))
		}
	}
	return unreadable, nil
}

// readPages fills p, and what cannot be read with zeros. It returns how many
// bytes that were.
func readPages(mem Memory, addr uint64, p []byte) uint64 {
	if mem.ReadMemory(addr, p) == nil {
		return 0
	}
	var lost uint64
	for len(p) > 0 { // Page by page, to lose no more than is bad.
		n := min(pageSize-addr%pageSize, uint64(len(p)))
		if mem.ReadMemory(addr, p[:n]) != nil {
			clear(p[:n])
			lost += n
		}
		addr += n
		p = p[n:]
	}
	return lost
}

// headers are the bytes before the first segment.
func (c *Core) headers() []byte {
	b := make([]byte, c.header)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 4)  // ET_CORE
	le.PutUint16(b[18:], 62) // EM_X86_64
	le.PutUint32(b[20:], 1)  // EV_CURRENT
	le.PutUint64(b[32:], elfHeaderSize)
	le.PutUint16(b[52:], elfHeaderSize)
	le.PutUint16(b[54:], progHeaderSize)
	le.PutUint16(b[56:], uint16(1+len(c.p.Mappings)))
	p := b[elfHeaderSize:]
	notesAt := uint64(elfHeaderSize + (1+len(c.p.Mappings))*progHeaderSize)
	put := func(kind, flags uint32, offset, addr, filesz, memsz, align uint64) {
		le.PutUint32(p[0:], kind)
		le.PutUint32(p[4:], flags)
		le.PutUint64(p[8:], offset)
		le.PutUint64(p[16:], addr)
		le.PutUint64(p[32:], filesz)
		le.PutUint64(p[40:], memsz)
		le.PutUint64(p[48:], align)
		p = p[progHeaderSize:]
	}
	put(ptNote, 0, notesAt, 0, uint64(len(c.notes)), 0, 4)
	at := uint64(c.header)
	for i := range c.p.Mappings {
		m := &c.p.Mappings[i]
		put(ptLoad, m.flags(), at, m.Start, m.Keep, m.Size(), pageSize)
		at += m.Keep
	}
	copy(b[notesAt:], c.notes)
	return b
}

func (m *Mapping) flags() (f uint32) {
	if m.Exec {
		f |= 1
	}
	if m.Write {
		f |= 2
	}
	if m.Read {
		f |= 4
	}
	return f
}

// notes are the contents of PT_NOTE: what is about the process comes between
// the first thread's status and its registers, as Linux writes it.
func (p *Process) notes() []byte {
	var b bytes.Buffer
	for i := range p.Threads {
		t := &p.Threads[i]
		note(&b, "CORE", ntPRStatus, p.prStatus(t))
		if i == 0 {
			note(&b, "CORE", ntPRPSInfo, p.prPSInfo())
			note(&b, "CORE", ntSigInfo, t.sigInfo())
			if len(p.Auxv) > 0 {
				note(&b, "CORE", ntAuxv, p.Auxv)
			}
			if files := p.fileNote(); files != nil {
				note(&b, "CORE", ntFile, files)
			}
		}
		if len(t.FP) == FPRegsSize {
			note(&b, "CORE", ntFPRegSet, t.FP)
		}
		if len(t.XState) > 0 {
			note(&b, "LINUX", ntXState, commonXState(t.XState))
		}
	}
	return b.Bytes()
}

func note(b *bytes.Buffer, name string, kind uint32, desc []byte) {
	var head [12]byte
	le.PutUint32(head[0:], uint32(len(name)+1))
	le.PutUint32(head[4:], uint32(len(desc)))
	le.PutUint32(head[8:], kind)
	b.Write(head[:])
	pad := func(p []byte) {
		b.Write(p)
		for n := len(p); n%4 != 0; n++ {
			b.WriteByte(0)
		}
	}
	pad(append([]byte(name), 0))
	pad(desc)
}

// prStatus is a struct elf_prstatus.
func (p *Process) prStatus(t *Thread) []byte {
	b := make([]byte, prStatusLen)
	le.PutUint32(b[0:], uint32(t.Signal.Number))
	le.PutUint32(b[4:], uint32(t.Signal.Code))
	le.PutUint32(b[8:], uint32(t.Signal.Errno))
	le.PutUint16(b[12:], uint16(t.Signal.Number))
	le.PutUint64(b[16:], t.Pending)
	le.PutUint64(b[24:], t.Blocked)
	le.PutUint32(b[32:], uint32(t.TID))
	le.PutUint32(b[36:], uint32(p.PPID))
	le.PutUint32(b[40:], uint32(p.PGID))
	le.PutUint32(b[44:], uint32(p.SID))
	timeval(b[48:], t.UserTime)
	timeval(b[64:], t.SystemTime)
	copy(b[112:], t.Regs)
	if len(t.FP) == FPRegsSize {
		le.PutUint32(b[112+RegsSize:], 1)
	}
	return b
}

func timeval(b []byte, us int64) {
	le.PutUint64(b[0:], uint64(us/1e6))
	le.PutUint64(b[8:], uint64(us%1e6))
}

// prPSInfo is a struct elf_prpsinfo.
func (p *Process) prPSInfo() []byte {
	b := make([]byte, prPSInfoLen)
	b[1] = 'R'
	b[3] = byte(p.Nice)
	le.PutUint32(b[16:], p.UID)
	le.PutUint32(b[20:], p.GID)
	le.PutUint32(b[24:], uint32(p.PID))
	le.PutUint32(b[28:], uint32(p.PPID))
	le.PutUint32(b[32:], uint32(p.PGID))
	le.PutUint32(b[36:], uint32(p.SID))
	copy(b[40:40+15], p.Name)
	copy(b[56:56+79], p.Args)
	return b
}

func (t *Thread) sigInfo() []byte {
	b := make([]byte, sigInfoLen)
	if t.Signal.Info != nil {
		copy(b, t.Signal.Info)
		return b
	}
	le.PutUint32(b[0:], uint32(t.Signal.Number))
	le.PutUint32(b[4:], uint32(t.Signal.Errno))
	le.PutUint32(b[8:], uint32(t.Signal.Code))
	return b
}

// fileNote lists the mappings of files, by which debuggers find programs and
// libraries.
func (p *Process) fileNote() []byte {
	var ranges, names bytes.Buffer
	count := uint64(0)
	for i := range p.Mappings {
		m := &p.Mappings[i]
		if m.File == "" || m.File[0] != '/' {
			continue
		}
		count++
		for _, v := range []uint64{m.Start, m.End, m.Offset / pageSize} {
			binary.Write(&ranges, le, v)
		}
		names.WriteString(m.File)
		names.WriteByte(0)
	}
	if count == 0 {
		return nil
	}
	var b bytes.Buffer
	binary.Write(&b, le, count)
	binary.Write(&b, le, uint64(pageSize))
	b.Write(ranges.Bytes())
	b.Write(names.Bytes())
	return b.Bytes()
}
