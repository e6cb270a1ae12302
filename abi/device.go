package abi

import (
	"bytes"
	"encoding/binary"

	"aios.dev/aios/errdefs"
)

// DeviceVersion is the version of what /dev/aios speaks. A structure never
// changes under one number: a changed one has another size, and so another
// number.
const DeviceVersion = 1

// Lengths of the texts in the structures of /dev/aios, with the zero byte that
// ends them.
const (
	DeviceIDLen   = 16
	DeviceNameLen = 64
	DeviceToLen   = 2 * DeviceNameLen
	DevicePathLen = 4096
)

// DeviceMaxHandles is how many handles one DeviceList carries.
const DeviceMaxHandles = 62

// Flags of DeviceCap.
const (
	DeviceCapSealed = 1 << iota // it cannot be delegated
	DeviceCapLeased             // LeaseLeft says how long it still lives
	DeviceCapRemote             // it stands for one that an agent of another domain holds
)

// What a DeviceChange sets.
const (
	DeviceSetObject = 1 << iota
	DeviceSetRights
	DeviceSetBytes
	DeviceSetCount
	DeviceSetMilliCPU
	DeviceSetWeight
	DeviceSetBytesPerSec
	DeviceSetOpsPerSec
	DeviceSetAt
	DeviceSetLease
	DeviceSetBadge
	DeviceSetSealed
	deviceSetAll = 1<<iota - 1
)

// DeviceSetLimits is every limit that a DeviceChange may set.
const DeviceSetLimits = DeviceSetBytes | DeviceSetCount | DeviceSetMilliCPU | DeviceSetWeight | DeviceSetBytesPerSec | DeviceSetOpsPerSec

// DeviceMove is a flag of DeviceChange: the giver no longer has the capability.
const DeviceMove = 1

// DeviceChildrenOnly is a flag of DeviceRef: it spares the capability itself.
const DeviceChildrenOnly = 1

// DeviceLimits are the limits of a capability; 0 is none.
type DeviceLimits struct {
	Bytes       uint64 // fs: space; mem: memory
	Count       uint64 // fs: inodes; mem: mappings; proc: tasks
	MilliCPU    uint64 // thousandths of a CPU
	Weight      uint64 // 1 to 10000
	BytesPerSec uint64
	OpsPerSec   uint64
}

// DeviceInfo answers AIOS_IOC_INFO.
type DeviceInfo struct {
	Version uint32              `doc:"out: 1"`
	Pad     uint32              `doc:"0"`
	Agent   [DeviceIDLen]byte   `doc:"out: the caller's agent ID"`
	Name    [DeviceNameLen]byte `doc:"out: its name"`
	Domain  [DeviceNameLen]byte `doc:"out: its domain"`
}

// DeviceList asks for handles.
type DeviceList struct {
	After   uint64                   `doc:"in: handles above this one; 0 to begin"`
	Count   uint32                   `doc:"out: how many of Handles are filled"`
	More    uint32                   `doc:"out: 1 if there are more"`
	Handles [DeviceMaxHandles]uint64 `doc:"out: ascending"`
}

// DeviceCap describes a capability.
type DeviceCap struct {
	Handle    uint64              `doc:"in: which"`
	Badge     uint64              `doc:"out: the number its giver marked it with"`
	LeaseLeft uint64              `doc:"out: nanoseconds, if AIOS_CAP_LEASED"`
	Limits    DeviceLimits        `doc:"out: its own limits; 0 is none"`
	Left      DeviceLimits        `doc:"out: what it has not handed on of them"`
	Class     uint32              `doc:"out: number of the class"`
	Rights    uint32              `doc:"out: bits of that class"`
	Flags     uint32              `doc:"out: 1 AIOS_CAP_SEALED, 2 AIOS_CAP_LEASED, 4 AIOS_CAP_REMOTE"`
	Pad       uint32              `doc:"0"`
	ID        [DeviceIDLen]byte   `doc:"out: its ID"`
	Parent    [DeviceIDLen]byte   `doc:"out: what it was derived from; empty if it was granted"`
	Object    [DevicePathLen]byte `doc:"out: the object"`
	At        [DevicePathLen]byte `doc:"out: fs: where it appears"`
}

// DeviceChange says what a derived capability is to be.
type DeviceChange struct {
	Handle uint64              `doc:"in: which; out, from delegate: the handle in the receiver's table, 0 if it is in another domain"`
	Set    uint32              `doc:"in: bits of the fields to set, the rest stays: 1 Object, 2 Rights, 4 Bytes, 8 Count, 16 MilliCPU, 32 Weight, 64 BytesPerSec, 128 OpsPerSec, 256 At, 512 Lease, 1024 Badge, 2048 seal it"`
	Flags  uint32              `doc:"in: 1 AIOS_MOVE: the giver loses it; delegate only"`
	Rights uint32              `doc:"in: a subset"`
	Pad    uint32              `doc:"0"`
	Limits DeviceLimits        `doc:"in: smaller ones"`
	Lease  uint64              `doc:"in: nanoseconds, at most what the parent has left"`
	Badge  uint64              `doc:"in"`
	ID     [DeviceIDLen]byte   `doc:"out: the ID"`
	To     [DeviceToLen]byte   `doc:"in: delegate: name or ID of the receiver; out: its ID, with its domain if that is another"`
	Object [DevicePathLen]byte `doc:"in: the same or below"`
	At     [DevicePathLen]byte `doc:"in: fs: absolute path"`
}

// DeviceRef points at a capability.
type DeviceRef struct {
	Handle uint64            `doc:"in: one of the caller's own; or 0 and"`
	ID     [DeviceIDLen]byte `doc:"in: one that was derived from the caller's (renew, revoke)"`
	Lease  uint64            `doc:"in: renew: nanoseconds from now"`
	Flags  uint32            `doc:"in: revoke: 1 AIOS_CHILDREN_ONLY"`
	Pad    uint32            `doc:"0"`
	Count  uint64            `doc:"out: revoke: how many died"`
}

// DeviceText is text either way.
type DeviceText struct {
	Allowed uint32              `doc:"out: explain: 1 if it would be allowed"`
	Errno   uint32              `doc:"out: error: the errno of the last refusal, 0 if there was none"`
	Text    [DevicePathLen]byte `doc:"in: explain: the operation; hint: the hint, or nothing to ask for it; out: the explanation, cut if it is longer, or the hint"`
}

// DeviceStruct is an argument of an ioctl of /dev/aios. On the wire its fields
// follow one another, little-endian, without gaps.
type DeviceStruct interface {
	fields(*deviceCodec)
	// check refuses what no caller may send.
	check() error
}

// DeviceCall is one ioctl of /dev/aios.
type DeviceCall struct {
	Name    string
	Nr      uint8
	Meaning string
	New     func() DeviceStruct
}

var deviceCalls = []DeviceCall{
	{"AIOS_IOC_INFO", 0, "who the caller is, and the version of this interface", func() DeviceStruct { return new(DeviceInfo) }},
	{"AIOS_IOC_LIST", 1, "the handles of the caller's capabilities", func() DeviceStruct { return new(DeviceList) }},
	{"AIOS_IOC_INSPECT", 2, "describe one", func() DeviceStruct { return new(DeviceCap) }},
	{"AIOS_IOC_DELEGATE", 3, "give one, narrowed, to an agent", func() DeviceStruct { return new(DeviceChange) }},
	{"AIOS_IOC_ATTENUATE", 4, "narrow one in place", func() DeviceStruct { return new(DeviceChange) }},
	{"AIOS_IOC_SEAL", 5, "forbid that one is delegated further", func() DeviceStruct { return new(DeviceRef) }},
	{"AIOS_IOC_RENEW", 6, "extend the lease of one that the caller gave", func() DeviceStruct { return new(DeviceRef) }},
	{"AIOS_IOC_REVOKE", 7, "end one and all that was derived from it", func() DeviceStruct { return new(DeviceRef) }},
	{"AIOS_IOC_EXPLAIN", 8, "what would happen, and why", func() DeviceStruct { return new(DeviceText) }},
	{"AIOS_IOC_ERROR", 9, "why the last call on this open file was refused, and what helps", func() DeviceStruct { return new(DeviceText) }},
	{"AIOS_IOC_HINT", 10, "say what the agent does, for the scheduler, or ask what it has said", func() DeviceStruct { return new(DeviceText) }},
}

// DeviceCalls returns every ioctl of /dev/aios, in order of number. The caller
// must not change what it is given.
func DeviceCalls() []DeviceCall { return deviceCalls }

// The numbers of the calls: their rows in DeviceCalls.
const (
	DeviceCallInfo uint8 = iota
	DeviceCallList
	DeviceCallInspect
	DeviceCallDelegate
	DeviceCallAttenuate
	DeviceCallSeal
	DeviceCallRenew
	DeviceCallRevoke
	DeviceCallExplain
	DeviceCallError
	DeviceCallHint
)

// deviceMagic is the type of the ioctls.
const deviceMagic = 'A'

// deviceSizes are the sizes of the arguments, by number.
var deviceSizes = func() (sizes []int) {
	for _, c := range deviceCalls {
		sizes = append(sizes, DeviceSize(c.New()))
	}
	return sizes
}()

// Size is the size of the call's argument in bytes.
func (c DeviceCall) Size() int { return deviceSizes[c.Nr] }

// Request is the request code of the call, _IOWR('A', Nr, argument).
func (c DeviceCall) Request() uint32 {
	return 3<<30 | uint32(c.Size())<<16 | deviceMagic<<8 | uint32(c.Nr)
}

// DeviceCallOf returns the call with that request code: direction, size, type
// and number must all be right.
func DeviceCallOf(request uint32) (DeviceCall, bool) {
	nr := int(request & 0xff)
	if nr >= len(deviceCalls) || deviceCalls[nr].Request() != request {
		return DeviceCall{}, false
	}
	return deviceCalls[nr], true
}

// DeviceSize is the size of s on the wire.
func DeviceSize(s DeviceStruct) int {
	var c deviceCodec
	s.fields(&c)
	return c.off
}

// EncodeDevice returns s as it is on the wire.
func EncodeDevice(s DeviceStruct) []byte {
	c := deviceCodec{buf: make([]byte, DeviceSize(s))}
	s.fields(&c)
	return c.buf
}

// DecodeDevice reads s from the wire, where it takes DeviceSize bytes.
func DecodeDevice(s DeviceStruct, wire []byte) error {
	if len(wire) != DeviceSize(s) {
		return errdefs.New(errdefs.InvalidArgument, "the structure has the wrong size")
	}
	s.fields(&deviceCodec{buf: wire, decode: true})
	return nil
}

// CheckDevice refuses what no caller may send: flags and bits that mean
// nothing, padding that is not zero, texts that do not end or go on after
// their end.
func CheckDevice(s DeviceStruct) error { return s.check() }

// A deviceCodec goes over the fields of a structure: it counts when it has no
// buffer, else it writes them to the buffer or reads them from it.
type deviceCodec struct {
	buf    []byte
	off    int
	decode bool
}

func (c *deviceCodec) next(n int) []byte {
	c.off += n
	if c.buf == nil {
		return nil
	}
	return c.buf[c.off-n : c.off]
}

func (c *deviceCodec) u64(vs ...*uint64) {
	for _, v := range vs {
		switch b := c.next(8); {
		case b == nil:
		case c.decode:
			*v = binary.LittleEndian.Uint64(b)
		default:
			binary.LittleEndian.PutUint64(b, *v)
		}
	}
}

func (c *deviceCodec) u32(vs ...*uint32) {
	for _, v := range vs {
		switch b := c.next(4); {
		case b == nil:
		case c.decode:
			*v = binary.LittleEndian.Uint32(b)
		default:
			binary.LittleEndian.PutUint32(b, *v)
		}
	}
}

func (c *deviceCodec) text(vs ...[]byte) {
	for _, v := range vs {
		switch b := c.next(len(v)); {
		case b == nil:
		case c.decode:
			copy(v, b)
		default:
			copy(b, v)
		}
	}
}

func (c *deviceCodec) limits(l *DeviceLimits) {
	c.u64(&l.Bytes, &l.Count, &l.MilliCPU, &l.Weight, &l.BytesPerSec, &l.OpsPerSec)
}

func (d *DeviceInfo) fields(c *deviceCodec) {
	c.u32(&d.Version, &d.Pad)
	c.text(d.Agent[:], d.Name[:], d.Domain[:])
}

func (d *DeviceList) fields(c *deviceCodec) {
	c.u64(&d.After)
	c.u32(&d.Count, &d.More)
	for i := range d.Handles {
		c.u64(&d.Handles[i])
	}
}

func (d *DeviceCap) fields(c *deviceCodec) {
	c.u64(&d.Handle, &d.Badge, &d.LeaseLeft)
	c.limits(&d.Limits)
	c.limits(&d.Left)
	c.u32(&d.Class, &d.Rights, &d.Flags, &d.Pad)
	c.text(d.ID[:], d.Parent[:], d.Object[:], d.At[:])
}

func (d *DeviceChange) fields(c *deviceCodec) {
	c.u64(&d.Handle)
	c.u32(&d.Set, &d.Flags, &d.Rights, &d.Pad)
	c.limits(&d.Limits)
	c.u64(&d.Lease, &d.Badge)
	c.text(d.ID[:], d.To[:], d.Object[:], d.At[:])
}

func (d *DeviceRef) fields(c *deviceCodec) {
	c.u64(&d.Handle)
	c.text(d.ID[:])
	c.u64(&d.Lease)
	c.u32(&d.Flags, &d.Pad)
	c.u64(&d.Count)
}

func (d *DeviceText) fields(c *deviceCodec) {
	c.u32(&d.Allowed, &d.Errno)
	c.text(d.Text[:])
}

func (d *DeviceInfo) check() error {
	if d.Pad != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Pad is not zero")
	}
	return nil
}

func (d *DeviceList) check() error { return nil } // Every After is one.

func (d *DeviceCap) check() error {
	if d.Handle == 0 || d.Pad != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Handle is zero or Pad is not")
	}
	return nil
}

func (d *DeviceChange) check() error {
	if d.Handle == 0 || d.Pad != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Handle is zero or Pad is not")
	}
	if d.Set&^deviceSetAll != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Set has bits that mean nothing")
	}
	if d.Flags&^DeviceMove != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Flags has bits that mean nothing")
	}
	return checkTexts(d.To[:], d.Object[:], d.At[:])
}

func (d *DeviceRef) check() error {
	if d.Pad != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Pad is not zero")
	}
	if d.Flags&^DeviceChildrenOnly != 0 {
		return errdefs.New(errdefs.InvalidArgument, "Flags has bits that mean nothing")
	}
	if (d.Handle == 0) == (d.ID[0] == 0) {
		return errdefs.New(errdefs.InvalidArgument, "either Handle or ID must say which capability is meant, and not both")
	}
	return checkTexts(d.ID[:])
}

func (d *DeviceText) check() error { return checkTexts(d.Text[:]) }

func checkTexts(fields ...[]byte) error {
	for _, f := range fields {
		end := bytes.IndexByte(f, 0)
		if end < 0 {
			return errdefs.New(errdefs.InvalidArgument, "a text has no zero byte at its end")
		}
		if len(bytes.TrimLeft(f[end:], "\x00")) != 0 {
			return errdefs.New(errdefs.InvalidArgument, "a text goes on after its zero byte; clear the structure first")
		}
	}
	return nil
}

// DeviceString returns the text in field, up to its zero byte.
func DeviceString(field []byte) string {
	if end := bytes.IndexByte(field, 0); end >= 0 {
		field = field[:end]
	}
	return string(field)
}

// SetDeviceString puts text into field and clears the rest. Text that is too
// long is cut, and ok is false.
func SetDeviceString(field []byte, text string) (ok bool) {
	n := copy(field[:len(field)-1], text)
	clear(field[n:])
	return n == len(text)
}
