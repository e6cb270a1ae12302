package token

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// KeyID names an issuer's key: the first 8 bytes of the SHA-256 of its public
// key. It says which key to try, and proves nothing.
type KeyID [8]byte

// String is "k" and 16 hexadecimal digits.
func (id KeyID) String() string { return "k" + hex.EncodeToString(id[:]) }

// KeyIDOf returns the ID of a public key.
func KeyIDOf(public ed25519.PublicKey) KeyID {
	sum := sha256.Sum256(public)
	return KeyID(sum[:8])
}

// Key signs tokens.
type Key struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

// ID returns the ID of the key.
func (k *Key) ID() KeyID { return KeyIDOf(k.public) }

// Public returns the key by which others verify.
func (k *Key) Public() ed25519.PublicKey { return k.public }

// String names the key without giving it away.
func (k *Key) String() string { return "token key " + k.ID().String() }

// GoString keeps the secret out of %#v.
func (k *Key) GoString() string { return k.String() }

func newKey(seed []byte) *Key {
	private := ed25519.NewKeyFromSeed(seed)
	return &Key{private, private.Public().(ed25519.PublicKey)}
}

// The text forms of keys.
const (
	secretPrefix = "aios1key."
	publicPrefix = "aios1pub."
)

// LoadOrCreateKey reads the issuer's key from a file that only its owner may
// read, and makes one when there is none. A file that others may read, or that
// is not a key, is refused.
func LoadOrCreateKey(path string) (*Key, error) {
	text, err := safefile.ReadSecret(path, 128)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed) // Never fails since Go 1.24.
		text := secretPrefix + encoding.EncodeToString(seed) + "\n"
		if err := safefile.CreateSecret(path, []byte(text)); err != nil {
			return nil, errdefs.Wrap(err, errdefs.HostIO, "make token key")
		}
		return newKey(seed), nil
	}
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "load token key")
	}
	seed, ok := decodeKey(strings.TrimSuffix(string(text), "\n"), secretPrefix, ed25519.SeedSize)
	if !ok {
		return nil, errdefs.New(errdefs.InvalidArgument, "it is not a token key", errdefs.Op("load token key"), errdefs.Resource("%s", path),
			errdefs.Fix("restore it, or move it away: a new one is made, and tokens of the old one are no longer accepted"))
	}
	return newKey(seed), nil
}

// FormatPublic is the text of a public key, for ParsePublic elsewhere.
func FormatPublic(public ed25519.PublicKey) string {
	return publicPrefix + encoding.EncodeToString(public)
}

// ParsePublic reads what FormatPublic writes.
func ParsePublic(text string) (ed25519.PublicKey, error) {
	b, ok := decodeKey(text, publicPrefix, ed25519.PublicKeySize)
	if !ok {
		return nil, errdefs.New(errdefs.InvalidArgument, "it is not a public key of tokens", errdefs.Op("read key"),
			errdefs.Fix("a key begins with %s and has %d bytes", publicPrefix, len(publicPrefix)+encoding.EncodedLen(ed25519.PublicKeySize)))
	}
	return b, nil
}

func decodeKey(text, prefix string, n int) ([]byte, bool) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok || strings.ContainsAny(rest, "\r\n") {
		return nil, false
	}
	b, err := encoding.DecodeString(rest)
	return b, err == nil && len(b) == n
}
