package gdbstub

import (
	"bufio"
	"io"
	"strconv"

	"aios.dev/aios/errdefs"
)

// PacketSize is the most that a packet may hold, in bytes as they are sent.
const PacketSize = 32 << 10

// eventKind is what the byte stream holds.
type eventKind uint8

const (
	eventPacket    eventKind = iota
	eventBad                 // a packet with a wrong checksum
	eventAck                 // the last packet arrived
	eventNack                // the last packet is to be sent again
	eventInterrupt           // the program is to stop
)

// event is one of them.
type event struct {
	kind    eventKind
	payload []byte // of a packet
}

// interruptByte asks the program to stop.
const interruptByte = 0x03

// packetReader takes a byte stream apart.
type packetReader struct {
	in *bufio.Reader
}

func newPacketReader(r io.Reader) *packetReader {
	return &packetReader{in: bufio.NewReaderSize(r, 4096)}
}

// next returns what comes next. Bytes that belong to nothing are passed over,
// but not without end.
func (r *packetReader) next() (event, error) {
	for range PacketSize {
		b, err := r.in.ReadByte()
		if err != nil {
			return event{}, err
		}
		switch b {
		case '+':
			return event{kind: eventAck}, nil
		case '-':
			return event{kind: eventNack}, nil
		case interruptByte:
			return event{kind: eventInterrupt}, nil
		case '$':
			return r.packet()
		}
	}
	return event{}, errdefs.New(errdefs.Protocol, "this is no client of a debugger")
}

// packet reads what follows a dollar sign.
func (r *packetReader) packet() (event, error) {
	var payload []byte
	var sum byte
	escaped := false
	for n := 0; ; n++ {
		if n > PacketSize {
			return event{}, errdefs.Newf(errdefs.Protocol, "a packet of a debugger has more than %d bytes", PacketSize)
		}
		b, err := r.in.ReadByte()
		if err != nil {
			return event{}, unexpected(err)
		}
		if b == '#' {
			break
		}
		sum += b
		switch {
		case escaped:
			payload, escaped = append(payload, b^escapeBit), false
		case b == escapeByte:
			escaped = true
		default:
			payload = append(payload, b)
		}
	}
	var digits [2]byte
	if _, err := io.ReadFull(r.in, digits[:]); err != nil {
		return event{}, unexpected(err)
	}
	want, err := strconv.ParseUint(string(digits[:]), 16, 8)
	if err != nil || byte(want) != sum || escaped {
		return event{kind: eventBad}, nil
	}
	return event{kind: eventPacket, payload: payload}, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Bytes that mean something are sent as two.
const (
	escapeByte = '}'
	escapeBit  = 0x20
)

// appendPacket appends a packet as it is sent.
func appendPacket(b []byte, payload []byte) []byte {
	b = append(b, '$')
	start := len(b)
	b = appendEscaped(b, payload)
	var sum byte
	for _, c := range b[start:] {
		sum += c
	}
	return append(b, '#', hexDigits[sum>>4], hexDigits[sum&15])
}

func appendEscaped(b, raw []byte) []byte {
	for _, c := range raw {
		switch c {
		case '#', '$', escapeByte, '*':
			b = append(b, escapeByte, c^escapeBit)
		default:
			b = append(b, c)
		}
	}
	return b
}

// escapedFit is how many of the first bytes of raw take no more than most, as
// they are sent.
func escapedFit(raw []byte, most int) (n int) {
	for size := 0; n < len(raw); n++ {
		switch raw[n] {
		case '#', '$', escapeByte, '*':
			size += 2
		default:
			size++
		}
		if size > most {
			return n
		}
	}
	return n
}

const hexDigits = "0123456789abcdef"
