package token

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// MaxTrusted bounds a Trust.
const MaxTrusted = 1024

// Trust is the set of public keys whose tokens are accepted, besides the
// daemon's own, in a file with a key on each line.
type Trust struct {
	path string
	own  *Key

	mu sync.RWMutex
	// +checklocks:mu
	keys map[KeyID]ed25519.PublicKey
}

// OpenTrust reads the file at path; when there is none, only own is trusted.
func OpenTrust(path string, own *Key) (*Trust, error) {
	keys := map[KeyID]ed25519.PublicKey{}
	data, err := safefile.ReadSecret(path, 128*MaxTrusted)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open trusted keys")
	}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		key, err := ParsePublic(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, errdefs.Wrap(err, errdefs.InvalidArgument, "open trusted keys", errdefs.Resource("%s:%d", path, number))
		}
		keys[KeyIDOf(key)] = key
	}
	return &Trust{path: path, own: own, keys: keys}, nil
}

// Key returns the trusted key with an ID: the Trust of a Policy.
func (t *Trust) Key(id KeyID) (ed25519.PublicKey, bool) {
	if t.own.ID() == id {
		return t.own.Public(), true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	key, ok := t.keys[id]
	return key, ok
}

// Add trusts a key, for good.
func (t *Trust) Add(key ed25519.PublicKey) (KeyID, error) {
	id := KeyIDOf(key)
	return id, t.change(func(keys map[KeyID]ed25519.PublicKey) error {
		if len(key) != ed25519.PublicKeySize {
			return errdefs.New(errdefs.InvalidArgument, "it is not an Ed25519 key", errdefs.Op("trust key"), errdefs.Fix("read it with ParsePublic"))
		}
		if len(keys) >= MaxTrusted {
			return errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("%d keys are trusted already", MaxTrusted), errdefs.Op("trust key"),
				errdefs.Fix("remove one that is no longer needed"))
		}
		keys[id] = key
		return nil
	})
}

// Remove no longer trusts a key. The daemon's own is always trusted.
func (t *Trust) Remove(id KeyID) error {
	return t.change(func(keys map[KeyID]ed25519.PublicKey) error {
		if _, ok := keys[id]; !ok {
			return errdefs.New(errdefs.NotFound, "no such key is trusted", errdefs.Op("remove key"), errdefs.Resource("%s", id),
				errdefs.Fix("the daemon's own key cannot be removed, only replaced"))
		}
		delete(keys, id)
		return nil
	})
}

// change writes the changed set to the file, then makes it count.
func (t *Trust) change(f func(map[KeyID]ed25519.PublicKey) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := maps.Clone(t.keys)
	if err := f(keys); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, key := range keys {
		b.WriteString(FormatPublic(key) + "\n")
	}
	if err := safefile.Write(t.path, b.Bytes()); err != nil {
		return safefile.Fail(err, "write trusted keys", t.path)
	}
	t.keys = keys
	return nil
}

// Keys returns the keys that are trusted besides the daemon's own.
func (t *Trust) Keys() []ed25519.PublicKey {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.SortedFunc(maps.Values(t.keys), func(a, b ed25519.PublicKey) int { return bytes.Compare(a, b) })
}
