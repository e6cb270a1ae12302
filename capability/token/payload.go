package token

import (
	"encoding/binary"
	"slices"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// Block is what one block of a token says. In a block that attenuates, a list
// that is nil or a time that is zero restricts nothing; a list that is empty
// allows nothing.
type Block struct {
	ID ID
	// Issuer, Issued and Subject are the authority block's alone.
	Issuer  KeyID
	Issued  time.Time
	Subject string
	// NotBefore and Expires bound when the token is valid: from the first,
	// until the last.
	NotBefore, Expires time.Time
	// Audience are the names of daemons that accept the token; "*": any.
	Audience []string
	// Ops are the names of operations; "*": any.
	Ops []string
	// Agents are patterns of the agents that it may touch.
	Agents []string
	// Grants are what it may give to agents, as capability.ParseSpec reads them.
	Grants []string
	// MaxAgents is how many agents that were spawned with it may live at once;
	// 0: no bound of this block.
	MaxAgents uint32
}

// A payload is a sequence of fields: one byte of tag, two of length, the value.
// Tags ascend. A list is a sequence of items: two bytes of length, the text;
// items ascend. So what a block says has one form.
const (
	tagID = 1 + iota
	tagIssuer
	tagIssued
	tagSubject
	tagNotBefore
	tagExpires
	tagAudience
	tagOps
	tagAgents
	tagGrants
	tagMaxAgents
)

// required are the fields without which no token is issued.
const required = 1<<tagID | 1<<tagIssuer | 1<<tagIssued | 1<<tagSubject | 1<<tagExpires | 1<<tagAudience

// maxItems bounds a list.
const maxItems = 256

// encode writes the payload.
func (b *Block) encode(authority bool) []byte {
	var out []byte
	field := func(tag byte, value []byte) {
		out = append(out, tag, byte(len(value)>>8), byte(len(value)))
		out = append(out, value...)
	}
	moment := func(tag byte, t time.Time) {
		if !t.IsZero() {
			field(tag, binary.BigEndian.AppendUint64(nil, uint64(t.Unix())))
		}
	}
	list := func(tag byte, items []string) {
		if items == nil {
			return
		}
		var value []byte
		for _, s := range items {
			value = append(value, byte(len(s)>>8), byte(len(s)))
			value = append(value, s...)
		}
		field(tag, value)
	}
	if authority {
		field(tagID, b.ID[:])
		field(tagIssuer, b.Issuer[:])
		moment(tagIssued, b.Issued)
		field(tagSubject, []byte(b.Subject))
	}
	moment(tagNotBefore, b.NotBefore)
	moment(tagExpires, b.Expires)
	list(tagAudience, b.Audience)
	list(tagOps, b.Ops)
	list(tagAgents, b.Agents)
	list(tagGrants, b.Grants)
	if b.MaxAgents > 0 {
		field(tagMaxAgents, binary.BigEndian.AppendUint32(nil, b.MaxAgents))
	}
	return out
}

// parsePayload reads what encode writes, and nothing else.
func parsePayload(payload []byte, authority bool) (Block, error) {
	var b Block
	var seen uint16 // a bit for each tag
	r := reader{rest: payload}
	for last := byte(0); len(r.rest) > 0; {
		tag := r.byte()
		value := r.bytes(int(r.uint16()))
		if r.short || tag <= last {
			return b, malformed("a block of it is damaged")
		}
		last = tag
		if err := b.set(tag, value, authority); err != nil {
			return b, err
		}
		seen |= 1 << tag // set knows tags up to tagMaxAgents.
	}
	if authority && (seen&required != required || len(b.Audience) == 0) {
		return b, malformed("its first block does not say who it is for, where, and until when")
	}
	return b, nil
}

// set takes one field.
func (b *Block) set(tag byte, value []byte, authority bool) error {
	if tag <= tagSubject && !authority {
		return malformed("a block that attenuates has a field of the first block")
	}
	fixed := map[byte]int{tagID: IDLen, tagIssuer: len(KeyID{}), tagIssued: 8, tagNotBefore: 8, tagExpires: 8, tagMaxAgents: 4}
	if n, ok := fixed[tag]; ok && len(value) != n {
		return malformed("a field of it has the wrong length")
	}
	var err error
	switch tag {
	case tagID:
		b.ID = ID(value)
	case tagIssuer:
		b.Issuer = KeyID(value)
	case tagIssued:
		b.Issued, err = moment(value)
	case tagSubject:
		b.Subject = string(value)
		if !validSubject(b.Subject) {
			err = malformed("its subject is not one")
		}
	case tagNotBefore:
		b.NotBefore, err = moment(value)
	case tagExpires:
		b.Expires, err = moment(value)
	case tagAudience:
		b.Audience, err = parseList(value, validAudience)
	case tagOps:
		b.Ops, err = parseList(value, validOp)
	case tagAgents:
		b.Agents, err = parseList(value, validPattern)
	case tagGrants:
		b.Grants, err = parseList(value, validGrant)
	case tagMaxAgents:
		if b.MaxAgents = binary.BigEndian.Uint32(value); b.MaxAgents == 0 {
			err = malformed("a bound of it is zero")
		}
	default:
		err = errdefs.New(errdefs.TokenInvalid, "it has a restriction that this version does not know", errdefs.Op("read token"),
			errdefs.Fix("upgrade AIOS here, or have it issued by the version that runs here"))
	}
	return err
}

// maxUnix is the end of the year 9999.
const maxUnix = 253402300799

func moment(value []byte) (time.Time, error) {
	n := binary.BigEndian.Uint64(value)
	if n == 0 || n > maxUnix {
		return time.Time{}, malformed("a time of it is out of range")
	}
	return time.Unix(int64(n), 0).UTC(), nil
}

func parseList(value []byte, valid func(string) bool) ([]string, error) {
	out := []string{}
	r := reader{rest: value}
	for len(r.rest) > 0 {
		s := string(r.bytes(int(r.uint16())))
		if r.short || len(out) == maxItems || len(out) > 0 && s <= out[len(out)-1] {
			return nil, malformed("a list of it is damaged")
		}
		if !valid(s) {
			return nil, malformed("an item of it is not known here")
		}
		out = append(out, s)
	}
	return out, nil
}

// canonical sorts a list; nil stays nil and empty stays empty.
func canonical(items []string) []string {
	if items == nil {
		return nil
	}
	out := append([]string{}, items...)
	slices.Sort(out)
	return slices.Compact(out)
}

// word reports whether s has 1 to max bytes, all out of letters, digits and
// extra.
func word(s string, max int, extra string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && !slices.Contains([]byte(extra), c) {
			return false
		}
	}
	return s != "" && len(s) <= max
}

// printable reports whether s has at most max bytes, all printable ASCII.
func printable(s string, max int) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= max
}

func validSubject(s string) bool  { return s != "" && printable(s, 128) }
func validAudience(s string) bool { return s == "*" || word(s, 128, "._/:@-") }
func validOp(s string) bool       { return s == "*" || word(s, 32, ".-") }

func validGrant(s string) bool {
	spec, err := capability.ParseSpec(s)
	return err == nil && spec.String() == s
}

// maxPattern bounds a pattern of agents.
const maxPattern = 2*abi.MaxNameLen + 128
