// Package token makes and checks bearer tokens: authority in a string, for the
// API and for another host.
//
// A token is a chain of blocks in the manner of Biscuit. The first, the
// authority block, is signed with the issuer's Ed25519 key. Each block
// announces a public key, made for it alone, whose secret signs the next one.
// The token carries the last secret, so that its holder can append a block
// that restricts it, without the issuer and without a connection, and cannot
// remove one. Seal uses the secret for a last signature and drops it.
//
// Why so. A macaroon does the same with a shared key: whoever can verify it
// can forge it, which does not do for a token that another host verifies.
// Biscuit has the chain, but carries a Datalog program in each block and
// Protocol Buffers around it; here a block is a list of restrictions of fixed
// kinds, small enough to be read by a person and bounded in time. A JWT cannot
// be attenuated at all.
//
// What a token allows is the intersection of what its blocks allow: a block
// that claims more than the ones before changes nothing. What a block does not
// mention it does not restrict, but the authority block gives only what it
// mentions. A restriction that this version does not know makes the token
// invalid.
//
// A Token is a secret: String leaves it out, Text has it. Values are immutable
// and safe for concurrent use; only Revocations has a lock. Times are whole
// seconds of the wall clock. The package imports abi, errdefs, ktime,
// capability and the standard library. Docs: docs/tokens.md.
package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"aios.dev/aios/errdefs"
)

// Prefix begins the text of every token.
const Prefix = "aios1."

// Bounds of a token.
const (
	// MaxText is the longest text, in bytes.
	MaxText = 4096
	// MaxBlocks is the highest number of blocks, the authority block included.
	MaxBlocks = 16
)

// IDLen is the length of an ID in bytes.
const IDLen = 16

// ID names a block, and with it the token that ends there and every token that
// was made from that. The authority block's is random; that of any other block
// is a digest of its signature.
type ID [IDLen]byte

// String is "t" and 32 hexadecimal digits.
func (id ID) String() string { return "t" + hex.EncodeToString(id[:]) }

// MarshalText makes an ID its String in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (id *ID) UnmarshalText(text []byte) error {
	got, err := ParseID(string(text))
	if err == nil {
		*id = got
	}
	return err
}

// ParseID reads what String writes.
func ParseID(text string) (ID, error) {
	var id ID
	if len(text) == 1+2*IDLen && text[0] == 't' {
		if _, err := hex.Decode(id[:], []byte(text[1:])); err == nil && id.String() == text {
			return id, nil
		}
	}
	return ID{}, errdefs.New(errdefs.InvalidArgument, "not the ID of a token",
		errdefs.Fix("an ID is t and 32 digits of 0-9 and a-f"))
}

// Token is a token that was taken apart, not verified. The zero Token is not
// one.
type Token struct {
	blocks []signed
	// secret is the seed of the last block's key; nil when sealed.
	secret []byte
	// seal is the last signature of a sealed token.
	seal []byte
}

// signed is a block as it travels.
type signed struct {
	payload []byte
	block   Block
	next    ed25519.PublicKey // whose secret signs what follows
	sig     []byte
}

// The binary form, integers big endian:
//
//	1   version: 1
//	1   number of blocks
//	    of each block:
//	2     length of the payload
//	n     payload, see payload.go
//	32    public key for what follows
//	64    signature
//	1   0: open, 1: sealed
//	32  open: the secret of the last public key
//	64  sealed: a signature by it
//
// Every token has one binary form, and every binary form one text.
const (
	formatVersion = 1
	kindOpen      = 0
	kindSealed    = 1
)

// encoding is base64url without padding; Strict refuses stray bits at the end.
var encoding = base64.RawURLEncoding.Strict()

// message is what the signature of block i covers: its place, the signature of
// the block before, and the block.
func message(i int, prev, payload []byte, next ed25519.PublicKey) []byte {
	m := append(make([]byte, 0, 24+len(prev)+len(payload)+len(next)), "aios token block\x01"...)
	m = append(m, byte(i))
	m = append(m, prev...)
	m = append(m, payload...)
	return append(m, next...)
}

// sealMessage is what the last signature of a sealed token covers.
func sealMessage(prev []byte) []byte { return append([]byte("aios token seal\x01"), prev...) }

// ID returns the ID of the token: its last block's.
func (t Token) ID() ID {
	if len(t.blocks) == 0 {
		return ID{}
	}
	return t.id(len(t.blocks) - 1)
}

// id returns the ID of a block.
func (t Token) id(i int) ID {
	if i == 0 {
		return t.blocks[0].block.ID
	}
	sum := sha256.Sum256(append([]byte("aios token id\x01"), t.blocks[i].sig...))
	return ID(sum[:IDLen])
}

// Sealed reports whether the token cannot be attenuated any further.
func (t Token) Sealed() bool { return t.seal != nil }

// Blocks returns what the token says, block by block, verified or not.
func (t Token) Blocks() []Block {
	out := make([]Block, len(t.blocks))
	for i, b := range t.blocks {
		out[i] = b.block
		out[i].ID = t.id(i)
	}
	return out
}

// String names the token without giving it away.
func (t Token) String() string { return "token " + t.ID().String() }

// GoString keeps the secret out of %#v.
func (t Token) GoString() string { return t.String() }

// Text is the token itself: whoever has it has its authority.
func (t Token) Text() string {
	b := []byte{formatVersion, byte(len(t.blocks))}
	for _, s := range t.blocks {
		b = append(b, byte(len(s.payload)>>8), byte(len(s.payload)))
		b = append(b, s.payload...)
		b = append(b, s.next...)
		b = append(b, s.sig...)
	}
	if t.seal != nil {
		b = append(append(b, kindSealed), t.seal...)
	} else {
		b = append(append(b, kindOpen), t.secret...)
	}
	return Prefix + encoding.EncodeToString(b)
}

// Parse takes the text of a token apart. It checks the form, not the
// signatures: that is Verify's business.
func Parse(text string) (Token, error) {
	switch {
	case len(text) > MaxText:
		return Token{}, malformed("it is longer than 4096 bytes")
	case !strings.HasPrefix(text, Prefix):
		return Token{}, malformed("it does not begin with " + Prefix)
	case strings.ContainsAny(text, "\r\n"):
		return Token{}, malformed("it has a line break") // The decoder would skip it.
	}
	b, err := encoding.DecodeString(text[len(Prefix):])
	if err != nil {
		return Token{}, malformed("it is not base64url")
	}
	r := reader{rest: b}
	if v := r.byte(); v != formatVersion && !r.short {
		return Token{}, malformed("its format is not of a version that is known")
	}
	n := int(r.byte())
	if n < 1 || n > MaxBlocks {
		return Token{}, malformed("it has no block, or more than 16")
	}
	t := Token{blocks: make([]signed, n)}
	for i := range t.blocks {
		s := &t.blocks[i]
		s.payload = r.bytes(int(r.uint16()))
		s.next = r.bytes(ed25519.PublicKeySize)
		s.sig = r.bytes(ed25519.SignatureSize)
		if r.short {
			break
		}
		if s.block, err = parsePayload(s.payload, i == 0); err != nil {
			return Token{}, err
		}
	}
	switch r.byte() {
	case kindOpen:
		t.secret = r.bytes(ed25519.SeedSize)
	case kindSealed:
		t.seal = r.bytes(ed25519.SignatureSize)
	default:
		return Token{}, malformed("it does not end as a token does")
	}
	if r.short || len(r.rest) > 0 {
		return Token{}, malformed("it is too short or too long")
	}
	return t, nil
}

func malformed(detail string) error {
	return errdefs.New(errdefs.TokenInvalid, detail, errdefs.Op("read token"),
		errdefs.Fix("use the whole token as it was issued"))
}

// reader takes bytes apart; once they are too few it stays short.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.rest, r.short = nil, true
		return make([]byte, min(n, 64))
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) byte() byte { return r.bytes(1)[0] }

func (r *reader) uint16() uint16 {
	b := r.bytes(2)
	return uint16(b[0])<<8 | uint16(b[1])
}
