package klog

import (
	"cmp"
	"encoding/binary"
	"io"
	"slices"
	"strings"

	"aios.dev/aios/errdefs"
)

// Contents is what a ring held when it was read.
type Contents struct {
	// Name says whose log it is, PID which process wrote it, Opened when, as
	// Unix time in nanoseconds.
	Name   string
	PID    int
	Opened int64
	// Last is the number of the last record, as the writer says.
	Last uint64
	// Records are those that are whole, the oldest first.
	Records []Record
}

// Last returns the number of the last record in a ring, without reading it.
func Last(f io.ReaderAt) uint64 {
	var b [8]byte
	if _, err := f.ReadAt(b[:], offLast); err != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b[:])
}

// Read reads a ring. Its writer may be at work, or may have been killed at any
// moment, or be hostile: records that are not whole are left out, and what
// cannot be true is not believed. A file that was never a ring is an error.
func Read(f io.ReaderAt) (Contents, error) {
	damaged := func(why string) (Contents, error) {
		return Contents{}, errdefs.New(errdefs.HostIO, why, errdefs.Op("read the kernel log"))
	}
	head := make([]byte, ringHeader)
	if n, err := f.ReadAt(head, 0); n < ringHeader {
		if err != nil && err != io.EOF {
			return Contents{}, errdefs.Wrap(err, errdefs.HostIO, "read the kernel log")
		}
		return damaged("it is too short")
	}
	le := binary.LittleEndian
	size := le.Uint64(head[16:])
	switch {
	case [8]byte(head) != ringMagic:
		return damaged("nothing was logged yet, or it is no log")
	case le.Uint32(head[8:]) != ringVersion:
		return damaged("it is of another version")
	case le.Uint32(head[12:]) != slotSize || size > maxRingSize || size%slotSize != 0:
		return damaged("its header is damaged")
	}
	slots := make([]byte, size)
	n, err := f.ReadAt(slots, ringHeader)
	if err != nil && err != io.EOF {
		return Contents{}, errdefs.Wrap(err, errdefs.HostIO, "read the kernel log")
	}
	name := head[41 : 41+min(int(head[40]), maxName)]
	return Contents{
		Name: strings.ToValidUTF8(string(name), "\uFFFD"), PID: int(int32(le.Uint32(head[32:]))),
		Opened: int64(le.Uint64(head[24:])), Last: le.Uint64(head[offLast:]),
		Records: scan(slots[:n]),
	}, nil
}

// scan finds the records in slots, in the order of their numbers.
func scan(slots []byte) []Record {
	var out []Record
	for at := 0; at+recordHeader <= len(slots); {
		r, n, ok := parseRecord(slots[at:])
		if !ok {
			at += slotSize
			continue
		}
		r.Message, r.Subsystem = strings.ToValidUTF8(r.Message, "\uFFFD"), strings.ToValidUTF8(r.Subsystem, "\uFFFD")
		r.Agent, r.Attrs = strings.ToValidUTF8(r.Agent, "\uFFFD"), strings.ToValidUTF8(r.Attrs, "\uFFFD")
		out = append(out, r)
		at += (n + slotSize - 1) / slotSize * slotSize
	}
	slices.SortStableFunc(out, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(out, func(a, b Record) bool { return a.Seq == b.Seq })
}
