package fabric

import (
	"encoding/hex"

	"lukechampine.com/blake3"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// Digest is the BLAKE3 hash of the contents of a region, all of its size.
type Digest [32]byte

// String is the digest as it is written: "blake3:" and 64 hexadecimal digits.
func (d Digest) String() string { return abi.DigestPrefix + hex.EncodeToString(d[:]) }

// ParseDigest reads what Digest.String writes. It reports false of anything else.
func ParseDigest(text string) (d Digest, ok bool) {
	if !abi.IsDigest(text) {
		return d, false
	}
	_, err := hex.Decode(d[:], []byte(text[len(abi.DigestPrefix):]))
	return d, err == nil
}

// Is reports whether text names r: it is its name, or the digest of its sealed
// contents.
func (r *Region) Is(text string) bool {
	if r.name == text {
		return true
	}
	d, ok := ParseDigest(text)
	if !ok {
		return false
	}
	own, sealed := r.Sealed()
	return sealed && own == d
}

// Seal makes the contents of r immutable, for ever, and returns their digest. Who
// has it mapped to write finds that the next write fails. To seal it again
// returns the same.
func (r *Region) Seal() (Digest, error) {
	r.change.Lock()
	defer r.change.Unlock()
	if err := r.err(); err != nil {
		return Digest{}, err
	}
	if d := r.sealed.Load(); d != nil {
		return *d, nil
	}
	// First nobody may write, then nobody can, and then it is read.
	r.sealed.Store(new(Digest))
	r.invalidate(false)
	d, err := r.digest()
	if err != nil {
		r.sealed.Store(nil)
		return Digest{}, err
	}
	r.sealed.Store(&d)
	r.waits.stir() // No lock can be had any more.
	return d, nil
}

// digest hashes what r is now.
func (r *Region) digest() (d Digest, err error) {
	h := blake3.New(len(d), nil)
	buf := make([]byte, 16*chunkSize)
	for off := uint64(0); off < r.size; {
		r.fam.mu.Lock()
		n, err := r.read(&r.head, buf, off)
		r.fam.mu.Unlock()
		if err != nil {
			return d, errdefs.Wrap(err, errdefs.Internal, "seal")
		}
		h.Write(buf[:n])
		off += uint64(n)
	}
	h.Sum(d[:0])
	return d, nil
}

// Sealed returns the digest of contents that do not change any more.
func (r *Region) Sealed() (Digest, bool) {
	if d := r.sealed.Load(); d != nil && *d != (Digest{}) {
		return *d, true
	}
	return Digest{}, false
}
