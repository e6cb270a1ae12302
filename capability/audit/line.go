package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"aios.dev/aios/errdefs"
)

// Hash is the SHA-256 of a line and, through the line before, of everything
// above it. The zero Hash is above the first line.
type Hash [sha256.Size]byte

// String is the hash in 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText makes a Hash its hexadecimal text in JSON.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText accepts what MarshalText writes and nothing else.
func (h *Hash) UnmarshalText(text []byte) error {
	got, err := ParseHash(string(text))
	if err == nil {
		*h = got
	}
	return err
}

// ParseHash reads 64 lower-case hexadecimal digits.
func ParseHash(text string) (Hash, error) {
	var h Hash
	n, err := hex.Decode(h[:], []byte(text[:min(len(text), 2*len(h))]))
	if err != nil || n != len(h) || h.String() != text {
		return Hash{}, errdefs.New(errdefs.InvalidArgument, "not a hash",
			errdefs.Fix("a hash has 64 digits of 0-9 and a-f"))
	}
	return h, nil
}

// A line is BODY without its last '}', then hashMember, the hash, hashEnd. The
// hash is that of the hash of the line before, in hexadecimal, and of BODY, so
// that a shell can check it: printf %s%s PREV BODY | sha256sum.
const (
	hashMember = `,"hash":"`
	hashEnd    = `"}`
	suffixLen  = len(hashMember) + 2*sha256.Size + len(hashEnd)
)

// hasher makes and checks lines with little garbage.
type hasher struct {
	buf  []byte
	text bytes.Buffer
}

func (h *hasher) sum(prev Hash, body []byte) Hash {
	h.buf = hex.AppendEncode(h.buf[:0], prev[:])
	h.buf = append(h.buf, body...)
	return sha256.Sum256(h.buf)
}

// appendLine encodes v, a struct with at least one member, as the line after
// the one with hash prev, and appends it and a newline to dst.
func (h *hasher) appendLine(dst []byte, prev Hash, v any) ([]byte, Hash, error) {
	h.text.Reset()
	enc := json.NewEncoder(&h.text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, prev, errdefs.Wrap(err, errdefs.InvalidArgument, "encode audit entry")
	}
	body := bytes.TrimSuffix(h.text.Bytes(), []byte("\n"))
	sum := h.sum(prev, body)
	dst = append(dst, body[:len(body)-1]...)
	dst = append(dst, hashMember...)
	dst = hex.AppendEncode(dst, sum[:])
	dst = append(dst, hashEnd...)
	return append(dst, '\n'), sum, nil
}

// splitLine takes a line without its newline apart. The body it returns is a
// copy in h and valid until h is used for the next line; check says whether
// the hash fits to the one before.
func (h *hasher) splitLine(line []byte) (body []byte, sum Hash, check func(prev Hash) bool, err error) {
	n := len(line) - suffixLen
	if n < 2 || line[0] != '{' || line[n-1] == '{' ||
		string(line[n:n+len(hashMember)]) != hashMember ||
		string(line[len(line)-len(hashEnd):]) != hashEnd {
		return nil, Hash{}, nil, errdefs.New(errdefs.AuditBroken, "the line is not an object that ends with its hash")
	}
	digits := line[n+len(hashMember) : len(line)-len(hashEnd)]
	if sum, err = ParseHash(string(digits)); err != nil {
		return nil, Hash{}, nil, errdefs.New(errdefs.AuditBroken, "the line's hash is not one")
	}
	// prev is put in place by check.
	h.buf = append(h.buf[:0], make([]byte, 2*sha256.Size)...)
	h.buf = append(h.buf, line[:n]...)
	h.buf = append(h.buf, '}')
	return h.buf[2*sha256.Size:], sum, func(prev Hash) bool {
		hex.Encode(h.buf, prev[:])
		return sha256.Sum256(h.buf) == sum
	}, nil
}

// ParseLine reads one line of a segment, without its newline. It checks the
// form, not the chain: that takes the line before, and is Verify's business.
func ParseLine(line []byte) (Entry, error) {
	var h hasher
	body, sum, _, err := h.splitLine(line)
	if err != nil {
		return Entry{}, err
	}
	return parseEntry(body, sum, line)
}

func parseEntry(body []byte, sum Hash, line []byte) (Entry, error) {
	var e Entry
	if err := parseBody(body, &e, &e.Seq, &e.Op); err != nil {
		return Entry{}, err
	}
	e.Hash, e.Line = sum, string(line)
	return e, nil
}

// parseBody decodes an entry into v, which has seq and op in it.
func parseBody(body []byte, v any, seq *uint64, op *string) error {
	if err := json.Unmarshal(body, v); err != nil {
		return errdefs.New(errdefs.AuditBroken, "the line is not JSON", errdefs.Cause(err))
	}
	if *seq == 0 || *op == "" {
		return errdefs.New(errdefs.AuditBroken, "the line is not an entry: it has no sequence number or no operation")
	}
	return nil
}
