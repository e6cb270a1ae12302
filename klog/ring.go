package klog

import (
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// The file of a ring is a page of header and then slots of slotSize bytes, all
// numbers little-endian. A record begins at a slot and takes as many as it
// needs; one that does not fit before the end begins at the first slot.
//
//	header  0 magic "AIOSKLOG"   8 version      12 slot size  16 bytes of slots
//	       24 opened, wall time 32 process     40 name, 64 bytes
//	      128 number of the last record
//
//	record  0 magic   4 length       8 number   16 wall   24 mono   32 level
//	       36 lengths: subsystem 1, agent 1, message 2, attributes 2
//	       44 suppressed              60 CRC-32C of what follows the magic, but
//	          of itself, and of the texts, which come at 64
//
// The first byte of a record's magic does not occur in UTF-8, which texts are:
// nothing that is logged can look like a record at a slot. A record whose
// writer was killed in the middle, or that is half overwritten, fails its
// checksum; the others stay.
const (
	ringHeader    = 4096
	ringVersion   = 1
	slotSize      = 64
	recordHeader  = 64
	recordMagic   = 0x4c4bfeff // FF FE 'K' 'L'
	offLast       = 128
	maxName       = 63
	maxRingSize   = 4 << 20
	minRingSize   = ringHeader + 4*MaxRecord
	checksumStart = 4
	checksumAt    = 60
)

var (
	ringMagic  = [8]byte{'A', 'I', 'O', 'S', 'K', 'L', 'O', 'G'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// RingSize is how large the file of a ring is.
const RingSize = 512 << 10

// Create makes the file of a ring, or empties it. Its blocks are allocated: a
// disk that is full later does not touch whoever writes into the ring.
func Create(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, RingSize)
		if err != nil {
			f.Close()
			os.Remove(path)
		}
	}
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "create the ring of the kernel log", errdefs.Resource("%s", path))
	}
	return f, nil
}

// Ring keeps the last records of one log. One process writes it.
type Ring struct {
	mu   sync.Mutex
	mem  []byte // +checklocks:mu
	last uint64 // +checklocks:mu
	// Where the next record begins.
	pos int // +checklocks:mu
	// The memory went away: the file was made shorter.
	dead atomic.Bool
}

// Map makes a ring in the memory of f, which Create made. It does not keep f.
func Map(f *os.File, name string, wall int64) (*Ring, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "map the kernel log")
	}
	if fi.Size() < minRingSize || fi.Size() > maxRingSize {
		return nil, errdefs.Newf(errdefs.HostIO, "the ring of the kernel log has %d bytes", fi.Size())
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "map the kernel log")
	}
	return NewRing(mem, name, wall), nil
}

// NewRing makes a ring in mem, which is zeros, and of which a whole number of slots
// is used. name says whose log it is; wall is when it was opened.
func NewRing(mem []byte, name string, wall int64) *Ring {
	mem = mem[:ringHeader+(len(mem)-ringHeader)/slotSize*slotSize]
	copy(mem, ringMagic[:])
	le := binary.LittleEndian
	le.PutUint32(mem[8:], ringVersion)
	le.PutUint32(mem[12:], slotSize)
	le.PutUint64(mem[16:], uint64(len(mem)-ringHeader))
	le.PutUint64(mem[24:], uint64(wall))
	le.PutUint32(mem[32:], uint32(os.Getpid()))
	mem[40] = byte(copy(mem[41:41+maxName], cut(name, maxName)))
	return &Ring{mem: mem}
}

// Write keeps r and gives it its number. It never fails: a ring whose memory
// has gone away keeps nothing.
func (g *Ring) Write(r *Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	r.Seq = g.last
	if !g.dead.Load() {
		g.tryWrite(r)
	}
}

// tryWrite writes, unless the memory has gone away. The caller has g.mu.
//
// +checklocksignore
func (g *Ring) tryWrite(r *Record) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			g.dead.Store(true)
		}
	}()
	g.writeLocked(r)
}

// +checklocks:g.mu
func (g *Ring) writeLocked(r *Record) {
	sub, agent, msg := cut(r.Subsystem, maxSubsystem), cut(r.Agent, maxAgent), cut(r.Message, maxMessage)
	attrs := r.Attrs
	if len(attrs) > maxAttrs {
		attrs = `"attributes":"too long"`
	}
	n := recordHeader + len(sub) + len(agent) + len(msg) + len(attrs)
	slots := g.mem[ringHeader:]
	if g.pos+n > len(slots) {
		if g.pos < len(slots) {
			clear(slots[g.pos : g.pos+recordHeader])
		}
		g.pos = 0
	}
	b := slots[g.pos : g.pos+n]
	le := binary.LittleEndian
	le.PutUint32(b, 0)
	le.PutUint32(b[4:], uint32(n))
	le.PutUint64(b[8:], r.Seq)
	le.PutUint64(b[16:], uint64(r.Wall))
	le.PutUint64(b[24:], uint64(r.Mono))
	le.PutUint32(b[32:], uint32(int32(r.Level)))
	b[36], b[37] = byte(len(sub)), byte(len(agent))
	le.PutUint16(b[38:], uint16(len(msg)))
	le.PutUint16(b[40:], uint16(len(attrs)))
	le.PutUint16(b[42:], 0)
	le.PutUint32(b[44:], r.Suppressed)
	clear(b[48:recordHeader])
	at := recordHeader
	for _, s := range [...]string{sub, agent, msg, attrs} {
		at += copy(b[at:], s)
	}
	le.PutUint32(b[checksumAt:], checksum(b))
	le.PutUint32(b, recordMagic)
	g.pos += (n + slotSize - 1) / slotSize * slotSize
	// The header is page-aligned where it is mapped; elsewhere nobody else looks.
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&g.mem[offLast])), r.Seq)
}

// checksum is that of the record b.
func checksum(b []byte) uint32 {
	sum := crc32.Update(0, castagnoli, b[checksumStart:checksumAt])
	return crc32.Update(sum, castagnoli, b[recordHeader:])
}

// parseRecord reads the record at the start of b and returns its length.
func parseRecord(b []byte) (Record, int, bool) {
	le := binary.LittleEndian
	if len(b) < recordHeader || le.Uint32(b) != recordMagic {
		return Record{}, 0, false
	}
	n := int64(le.Uint32(b[4:]))
	if n < recordHeader || n > MaxRecord || n > int64(len(b)) {
		return Record{}, 0, false
	}
	b = b[:n]
	sub, agent, msg, attrs := int(b[36]), int(b[37]), int(le.Uint16(b[38:])), int(le.Uint16(b[40:]))
	if recordHeader+sub+agent+msg+attrs != len(b) || checksum(b) != le.Uint32(b[checksumAt:]) {
		return Record{}, 0, false
	}
	r := Record{
		Seq: le.Uint64(b[8:]), Wall: int64(le.Uint64(b[16:])), Mono: int64(le.Uint64(b[24:])),
		Level:      slog.Level(int32(le.Uint32(b[32:]))),
		Suppressed: le.Uint32(b[44:]),
	}
	text := b[recordHeader:]
	for _, f := range []struct {
		to *string
		n  int
	}{{&r.Subsystem, sub}, {&r.Agent, agent}, {&r.Message, msg}, {&r.Attrs, attrs}} {
		*f.to, text = string(text[:f.n]), text[f.n:]
	}
	return r, int(n), true
}
