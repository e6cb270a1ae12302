package abi

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"

	"aios.dev/aios/errdefs"
)

// RegionArg is the argument of every ioctl of the file of a region.
type RegionArg struct {
	Offset   uint64 `doc:"in: where in the region the word is, a multiple of its size; map: what is mapped begins there"`
	Deadline uint64 `doc:"in: wait, lock: when to give up, in nanoseconds of CLOCK_MONOTONIC; 0 is never"`
	Expect   uint64 `doc:"in: wait: what the word is; cas: what it is to be; out: cas: what it was; commit: the number of the version; map: in: at which address, 0 for any, out: at which it is"`
	New      uint64 `doc:"in: cas: what it becomes; map: how many bytes, 0 for all that follow; out: map: how many"`
	ID       uint32 `doc:"in: lock, unlock, leave, alive: number of the member; out: join"`
	Count    uint32 `doc:"in: wake: how many at most; out: how many were woken"`
	Flags    uint32 `doc:"in: 1 AIOS_REGION_PROCESS: join as a process; 2 AIOS_REGION_TRY: lock, but do not wait; 4 AIOS_REGION_WIDE: cas of 8 bytes, not 4; 8 AIOS_REGION_WRITABLE: map it to be written, too"`
	Pad      uint32 `doc:"0"`
}

// Flags of RegionArg.
const (
	RegionProcess = 1 << iota
	RegionTry
	RegionWide
	RegionWritable
)

// RegionArgSize is the size of a RegionArg on the wire.
const RegionArgSize = 48

// RegionCall is one ioctl of the file of a region.
type RegionCall struct {
	Name    string
	flags   uint32 // those that mean something
	Meaning string
}

// The numbers of the calls: their rows in RegionCalls.
const (
	RegionJoin = iota
	RegionLeave
	RegionAlive
	RegionWait
	RegionWake
	RegionLock
	RegionUnlock
	RegionCas
	RegionCommit
	RegionMap
)

var regionCalls = [...]RegionCall{
	RegionJoin:   {"AIOS_REGION_JOIN", RegionProcess, "become a member: the calling thread, or its process; the region must be mapped"},
	RegionLeave:  {"AIOS_REGION_LEAVE", 0, "be a member no longer"},
	RegionAlive:  {"AIOS_REGION_ALIVE", 0, "whether somebody is a member under that number: `ESRCH` if not"},
	RegionWait:   {"AIOS_REGION_WAIT", 0, "sleep while a word of 4 bytes has a value, until it is woken; may return although nothing happened"},
	RegionWake:   {"AIOS_REGION_WAKE", 0, "wake those who wait for a word"},
	RegionLock:   {"AIOS_REGION_LOCK", RegionTry, "take a lock"},
	RegionUnlock: {"AIOS_REGION_UNLOCK", 0, "give it back, to who waits longest"},
	RegionCas:    {"AIOS_REGION_CAS", RegionWide, "compare and swap, for programs that cannot do it themselves"},
	RegionCommit: {"AIOS_REGION_COMMIT", 0, "have what a persistent region is at one moment kept; returns when it is on disk"},
	RegionMap:    {"AIOS_REGION_MAP", RegionWritable, "map it, as `mmap` of the file with `MAP_SHARED` does; not over anything else: `EEXIST`"},
}

// regionBase is the number of the first of them among the ioctls of type 'A'.
const regionBase = 64

// RegionRequest is the request code of a call.
func RegionRequest(call int) uint32 {
	return 3<<30 | RegionArgSize<<16 | deviceMagic<<8 | uint32(regionBase+call)
}

// RegionCallOf returns the call with that request code.
func RegionCallOf(request uint32) (call int, ok bool) {
	call = int(request&0xff) - regionBase
	if call < 0 || call >= len(regionCalls) || RegionRequest(call) != request {
		return 0, false
	}
	return call, true
}

// Decode reads the argument of a call, and refuses what no caller may send.
func (a *RegionArg) Decode(call int, wire *[RegionArgSize]byte) error {
	le := binary.LittleEndian
	*a = RegionArg{
		Offset: le.Uint64(wire[0:]), Deadline: le.Uint64(wire[8:]), Expect: le.Uint64(wire[16:]), New: le.Uint64(wire[24:]),
		ID: le.Uint32(wire[32:]), Count: le.Uint32(wire[36:]), Flags: le.Uint32(wire[40:]), Pad: le.Uint32(wire[44:]),
	}
	if a.Pad != 0 || a.Flags&^regionCalls[call].flags != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Flags has bits that mean nothing here, or Pad is not zero")
	}
	return nil
}

// Encode writes it.
func (a *RegionArg) Encode(wire *[RegionArgSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(wire[0:], a.Offset)
	le.PutUint64(wire[8:], a.Deadline)
	le.PutUint64(wire[16:], a.Expect)
	le.PutUint64(wire[24:], a.New)
	le.PutUint32(wire[32:], a.ID)
	le.PutUint32(wire[36:], a.Count)
	le.PutUint32(wire[40:], a.Flags)
	le.PutUint32(wire[44:], a.Pad)
}

// RegionReference is the reference of the ioctls of regions, in Markdown.
func RegionReference() string {
	var b strings.Builder
	b.WriteString("| call | request | what it does |\n|---|---|---|\n")
	for i, c := range regionCalls {
		fmt.Fprintf(&b, "| `%s` | `%#x` | %s |\n", c.Name, RegionRequest(i), c.Meaning)
	}
	fmt.Fprintf(&b, "\nThe argument of each, %d bytes:\n\n| offset | type | field | |\n|---:|---|---|---|\n", RegionArgSize)
	t := reflect.TypeFor[RegionArg]()
	for i := range t.NumField() {
		f := t.Field(i)
		fmt.Fprintf(&b, "| %d | `%s` | `%s` | %s |\n", f.Offset, cType(f.Type), snake(f.Name), f.Tag.Get("doc"))
	}
	return b.String()
}

// DigestPrefix is how the digest of a sealed region begins, where its name may stand,
// which has no colon.
const DigestPrefix = "blake3:"

// IsDigest reports whether s is such a digest: 64 hexadecimal digits, in small letters,
// behind the prefix.
func IsDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, DigestPrefix)
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}
