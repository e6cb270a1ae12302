package aios

import (
	"encoding/binary"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// Ring is a bounded queue of messages in a region, for any number of senders and
// receivers, in order. In memory, little-endian, from its offset on, which is a
// multiple of 64:
//
//	  0  u32 magic, u32 version, u32 slots, u32 bytes of a slot
//	 64  u64 where senders begin to look
//	128  u64 where receivers begin to look
//	192  u32 how often receivers were woken, u32 that one waits
//	256  u32 how often senders were woken, u32 that one waits
//	320  the slots: u64 state, u32 type, u32 length, payload
//
// The state of a slot says all that counts: in bits 32 to 63 how often the ring
// has gone round, in bits 2 to 31 which member writes there, in bits 0 and 1
// whether it is free, being written or full. A slot goes from one to the next with
// one compare-and-swap; a sender that dies while it writes leaves a slot that
// receivers skip, when the kernel has told them that it is no member any more.
type Ring struct {
	r     *Region
	off   uint64
	slots uint64
	size  uint64 // of a slot, with what comes before the payload
	spins int
}

const (
	ringMagic   = 0x52494f41 // "AOIR"
	ringVersion = 1
	ringTail    = 64
	ringHead    = 128
	ringGets    = 192
	ringPuts    = 256
	ringSlots   = 320
	slotHead    = 16

	slotFree    = 0
	slotWriting = 1
	slotFull    = 2

	// spanFlag in a length: the payload is where the message lies in the region.
	spanFlag = 1 << 31
	maxSlot  = 1 << 20
	maxSlots = 1 << 24
	// spins is how often it is looked before somebody sleeps, if nothing is said.
	spins = 2000
)

// RingSize is what a ring of so many slots, each for a payload of at most so many
// bytes, takes up. The number of slots is a power of two, and at least 2.
func RingSize(slots, payload int) uint64 { return ringSlots + uint64(slots)*slotSize(payload) }

func slotSize(payload int) uint64 { return (slotHead + uint64(payload) + 63) &^ 63 }

// MakeRing makes an empty ring at off. Nobody may be using what was there.
func (r *Region) MakeRing(off uint64, slots, payload int) (g *Ring, err error) {
	if slots < 2 || slots > maxSlots || slots&(slots-1) != 0 || payload < 0 || payload > maxSlot-slotHead {
		return nil, invalid("a ring of %d slots of %d bytes", slots, payload)
	}
	if err := r.has(off, RingSize(slots, payload), 64); err != nil {
		return nil, err
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	clear(r.mem[off : off+RingSize(slots, payload)])
	le := binary.LittleEndian
	le.PutUint32(r.mem[off+4:], ringVersion)
	le.PutUint32(r.mem[off+8:], uint32(slots))
	le.PutUint32(r.mem[off+12:], uint32(slotSize(payload)))
	atomic.StoreUint32(r.word(off), ringMagic)
	return r.Ring(off)
}

// Ring returns the ring that was made at off.
func (r *Region) Ring(off uint64) (g *Ring, err error) {
	if err := r.has(off, ringSlots, 64); err != nil {
		return nil, err
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	le := binary.LittleEndian
	if atomic.LoadUint32(r.word(off)) != ringMagic || le.Uint32(r.mem[off+4:]) != ringVersion {
		return nil, &Error{Code: "INVALID_ARGUMENT", Message: "region: there is no ring", Errno: syscall.EINVAL, Fix: "make it first"}
	}
	// Read once: from here on nobody can make it larger.
	g = &Ring{r: r, off: off, spins: spins, slots: uint64(le.Uint32(r.mem[off+8:])), size: uint64(le.Uint32(r.mem[off+12:]))}
	if g.slots < 2 || g.slots > maxSlots || g.slots&(g.slots-1) != 0 || g.size < 64 || g.size%64 != 0 || g.size > maxSlot {
		return nil, broken()
	}
	return g, r.has(off, ringSlots+g.slots*g.size, 64)
}

func broken() *Error {
	return &Error{Message: "region: the ring is broken: somebody has written to it", Errno: syscall.EBADMSG, Fix: "make it anew"}
}

// Message is what a ring carries.
type Message struct {
	Type uint32
	// Data is the payload: a copy, or, if it was sent with SendSpan, where it lies
	// in the region, at Offset.
	Data   []byte
	Span   bool
	Offset uint64
}

// Spin sets how often it is looked whether there is something before the caller
// sleeps: it costs a CPU that long, and who is looking notices a message some
// hundred nanoseconds after it was sent. It must not be called while others use g.
func (g *Ring) Spin(looks int) { g.spins = looks }

// Payload is how long the payload of a message may be.
func (g *Ring) Payload() int { return int(g.size) - slotHead }

// slot is where the slot of a position is, and how often the ring has gone round.
func (g *Ring) slot(pos uint64) (at uint64, lap uint64) {
	return g.off + ringSlots + (pos&(g.slots-1))*g.size, pos / g.slots & (1<<32 - 1)
}

// Send appends a message. It waits while the ring is full; with a time-out of 0 it
// does not (EAGAIN), and when the time is over that is ETIMEDOUT.
func (g *Ring) Send(kind uint32, payload []byte, timeout time.Duration) (err error) {
	if len(payload) > g.Payload() {
		return &Error{Code: "INVALID_ARGUMENT", Message: "region: the message is longer than a slot", Errno: syscall.EMSGSIZE, Fix: "put it into the region, and send where it lies"}
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	at, lap, err := g.claim(timeout)
	if err != nil {
		return err
	}
	copy(g.r.mem[at+slotHead:], payload)
	return g.publish(at, lap, kind, uint32(len(payload)))
}

// SendSpan appends a message whose payload lies in the region already: nothing is
// copied. Who receives it may use it until the two agree on something else.
func (g *Ring) SendSpan(kind uint32, off, n uint64, timeout time.Duration) (err error) {
	if err := g.r.has(off, n, 1); err != nil {
		return err
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	at, lap, err := g.claim(timeout)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(g.r.mem[at+slotHead:], off)
	binary.LittleEndian.PutUint64(g.r.mem[at+slotHead+8:], n)
	return g.publish(at, lap, kind, 16|spanFlag)
}

// claim makes a slot ours to write.
func (g *Ring) claim(timeout time.Duration) (at, lap uint64, err error) {
	if g.r.id == 0 {
		return 0, 0, refused("send", syscall.EBADF)
	}
	var until uint64
	tail := g.r.long(g.off + ringTail)
	for spun, tries := 0, uint64(0); ; tries++ {
		if err := g.enough(tries, timeout, &until); err != nil {
			return 0, 0, err
		}
		pos := atomic.LoadUint64(tail)
		at, lap = g.slot(pos)
		state := g.r.long(at)
		s := atomic.LoadUint64(state)
		switch s {
		case lap<<32 | slotFree:
			if atomic.CompareAndSwapUint64(state, s, lap<<32|uint64(g.r.id)<<2|slotWriting) {
				atomic.CompareAndSwapUint64(tail, pos, pos+1)
				return at, lap, nil
			}
			continue
		}
		switch {
		case s>>32 == lap && s&3 != slotFree, s>>32 == (lap+1)&(1<<32-1) && s&3 == slotFree:
			atomic.CompareAndSwapUint64(tail, pos, pos+1) // For one who did not come to it.
			continue
		case atomic.LoadUint64(tail) != pos:
			continue
		case (s>>32+1)&(1<<32-1) != lap || s&3 == slotFree:
			return 0, 0, broken()
		}
		// It is full.
		switch {
		case timeout == 0:
			return 0, 0, refused("send", syscall.EAGAIN)
		case spun < g.spins:
			spun++
			continue
		case until == 0:
			until = deadline(timeout)
		}
		err := g.await(ringPuts, until, func() bool { return atomic.LoadUint64(state) != s || atomic.LoadUint64(tail) != pos })
		if err != nil {
			return 0, 0, err
		}
	}
}

// enough ends what goes on and on without a sleep because somebody keeps writing
// what nobody should.
func (g *Ring) enough(tries uint64, timeout time.Duration, until *uint64) error {
	if tries&4095 != 4095 {
		return nil
	}
	if *until == 0 && timeout > 0 {
		*until = deadline(timeout)
	}
	if over(*until) {
		return refused("wait", syscall.ETIMEDOUT)
	}
	if timeout == 0 && tries > 4*g.slots {
		return refused("wait", syscall.EAGAIN)
	}
	return nil
}

// publish lets receivers have what was written.
func (g *Ring) publish(at, lap uint64, kind, length uint32) error {
	le := binary.LittleEndian
	le.PutUint32(g.r.mem[at+8:], kind)
	le.PutUint32(g.r.mem[at+12:], length)
	if !atomic.CompareAndSwapUint64(g.r.long(at), lap<<32|uint64(g.r.id)<<2|slotWriting, lap<<32|slotFull) {
		return broken()
	}
	return g.notify(ringGets)
}

// notify wakes those who wait for the other side.
func (g *Ring) notify(side uint64) error {
	waits := g.r.word(g.off + side + 4)
	if atomic.LoadUint32(waits) == 0 || atomic.SwapUint32(waits, 0) == 0 {
		return nil
	}
	atomic.AddUint32(g.r.word(g.off+side), 1)
	return g.r.wake(g.off + side)
}

// await sleeps until something is so, or may be.
func (g *Ring) await(side, until uint64, so func() bool) error {
	seen := atomic.LoadUint32(g.r.word(g.off + side))
	atomic.StoreUint32(g.r.word(g.off+side+4), 1)
	if so() {
		return nil
	}
	if over(until) { // Somebody may keep the word changing.
		return refused("wait", syscall.ETIMEDOUT)
	}
	return g.r.sleep(g.off+side, seen, until)
}

// Receive takes the next message; Data is in buf unless that is too short, or the
// message is where it lies in the region. It waits while there is none; with a
// time-out of 0 it does not (EAGAIN), and when the time is over that is ETIMEDOUT.
func (g *Ring) Receive(buf []byte, timeout time.Duration) (m Message, err error) {
	if g.r.id == 0 {
		return m, refused("receive", syscall.EBADF)
	}
	defer guarded(debug.SetPanicOnFault(true), &err)
	var until uint64
	head := g.r.long(g.off + ringHead)
	for spun, tries := 0, uint64(0); ; tries++ {
		if err := g.enough(tries, timeout, &until); err != nil {
			return m, err
		}
		pos := atomic.LoadUint64(head)
		at, lap := g.slot(pos)
		state := g.r.long(at)
		s := atomic.LoadUint64(state)
		next := (lap + 1) & (1<<32 - 1)
		switch {
		case s == lap<<32|slotFull:
			m, ok, err := g.take(at, buf)
			if !atomic.CompareAndSwapUint64(state, s, next<<32|slotFree) {
				continue // Another has it.
			}
			atomic.CompareAndSwapUint64(head, pos, pos+1)
			if err == nil {
				err = g.notify(ringPuts)
			}
			if !ok {
				err = broken()
			}
			return m, err
		case s>>32 == next && s&3 == slotFree, s>>32 == next && s&3 == slotWriting, s>>32 == next && s&3 == slotFull:
			atomic.CompareAndSwapUint64(head, pos, pos+1) // For one who did not come to it.
			continue
		case atomic.LoadUint64(head) != pos:
			continue
		case s>>32 != lap || s&3 > slotWriting || s&3 == slotFree && s != lap<<32:
			return m, broken()
		}
		switch {
		case timeout == 0 && s&3 == slotFree:
			return m, refused("receive", syscall.EAGAIN)
		case spun < g.spins:
			spun++
			continue
		case until == 0:
			until = deadline(timeout)
		}
		if s&3 == slotWriting {
			a := regionArg{id: uint32(s >> 2 & (1<<30 - 1))}
			switch err := g.r.sys.call(regionAlive, &a); err {
			case nil:
			case syscall.ESRCH: // What it was to send is not sent.
				if atomic.CompareAndSwapUint64(state, s, next<<32|slotFree) {
					if err := g.notify(ringPuts); err != nil {
						return m, err
					}
				}
				continue
			default:
				return m, refused("receive", err)
			}
			if timeout == 0 {
				return m, refused("receive", syscall.EAGAIN)
			}
		}
		err := g.await(ringGets, until, func() bool { return atomic.LoadUint64(state) != s || atomic.LoadUint64(head) != pos })
		if err != nil {
			return m, err
		}
	}
}

// take reads the message in a slot; ok is false if no member can have put it
// there.
func (g *Ring) take(at uint64, buf []byte) (m Message, ok bool, err error) {
	le := binary.LittleEndian
	m.Type = le.Uint32(g.r.mem[at+8:])
	n := le.Uint32(g.r.mem[at+12:])
	slot := g.r.mem[at+slotHead : at+g.size]
	if n == 16|spanFlag {
		m.Span, m.Offset = true, le.Uint64(slot)
		length := le.Uint64(slot[8:])
		if g.r.has(m.Offset, length, 1) != nil {
			return Message{}, false, nil
		}
		m.Data = g.r.mem[m.Offset : m.Offset+length]
		return m, true, nil
	}
	if uint64(n) > uint64(len(slot)) {
		return Message{}, false, nil
	}
	if int(n) > len(buf) {
		buf = make([]byte, n)
	}
	m.Data = buf[:copy(buf, slot[:n])]
	return m, true, nil
}
