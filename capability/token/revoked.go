package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
	"aios.dev/aios/ktime"
)

// MaxRevocations bounds a list.
const MaxRevocations = 1 << 20

// Retain is for how long a revocation is kept after its token has expired, in
// case the clock was ahead when the list was pruned.
const Retain = 7 * 24 * time.Hour

// Revocations is a list of revoked IDs in a file: a line for each, appended and
// synced before Revoke returns. A line has the ID, when the token expires, when
// it was revoked, and a digest of that.
type Revocations struct {
	path  string
	clock ktime.Clock

	mu sync.RWMutex
	// +checklocks:mu
	file *os.File // nil: all of it is to be written anew
	// Of the lines that are known to be whole.
	// +checklocks:mu
	size int64
	// +checklocks:mu
	ids map[ID]revocation
}

type revocation struct{ expires, at int64 }

func (r revocation) line(id ID) string {
	text := fmt.Sprintf("%s %d %d", id, r.expires, r.at)
	return text + " " + digest(text) + "\n"
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

// OpenRevocations reads the list at path, makes it when there is none, and
// drops what has expired. A line that a crash left incomplete was never
// promised and is dropped; a damaged one is an error, since a token that was
// revoked would work again.
func OpenRevocations(path string, clock ktime.Clock) (*Revocations, error) {
	ids := map[ID]revocation{}
	data, err := safefile.ReadSecret(path, 128*MaxRevocations)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open revocation list")
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if line[len(line)-1] != '\n' {
			break
		}
		id, v, ok := parseRevocation(string(line))
		if !ok {
			return nil, errdefs.New(errdefs.HostIO, fmt.Sprintf("line %d is damaged", number), errdefs.Op("open revocation list"),
				errdefs.Resource("%s", path), errdefs.Fix("restore it from a backup; without the line, the token that it named works again"))
		}
		ids[id] = v
	}
	r := &Revocations{path: path, clock: clock, ids: ids}
	if err := r.Prune(); err != nil {
		return nil, err
	}
	return r, nil
}

func parseRevocation(line string) (ID, revocation, bool) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(f) != 4 {
		return ID{}, revocation{}, false
	}
	id, err := ParseID(f[0])
	expires, err1 := strconv.ParseInt(f[1], 10, 64)
	at, err2 := strconv.ParseInt(f[2], 10, 64)
	v := revocation{expires, at}
	return id, v, err == nil && err1 == nil && err2 == nil && v.line(id) == line
}

// Revoke revokes the block with an ID, and so every token that has it. expires
// is when the token ends by itself; when that is not known, it is zero, and the
// revocation is kept for MaxLifetime. On an error it is in force, but will not
// outlive the process.
func (r *Revocations) Revoke(id ID, expires time.Time) error {
	now := r.clock.Now()
	latest := now.Add(MaxLifetime + Skew)
	if expires.IsZero() || expires.After(latest) {
		expires = latest
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v := revocation{expires.Unix(), now.Unix()}
	if old, ok := r.ids[id]; ok && old.expires >= v.expires && r.file != nil {
		return nil
	}
	if len(r.ids) >= MaxRevocations {
		return errdefs.New(errdefs.InvalidArgument, "the list has as many entries as it may", errdefs.Op("revoke token"),
			errdefs.Resource("%s", id), errdefs.Fix("replace the key: no token of the old one is valid then"))
	}
	r.ids[id] = v
	if r.file == nil {
		return r.rewrite()
	}
	line := v.line(id)
	_, err := r.file.WriteAt([]byte(line), r.size)
	if err == nil {
		err = r.file.Sync()
	}
	if err != nil {
		// After a failed sync nothing is known of the file: write all of it the
		// next time.
		r.file.Close() // The error that counts is known.
		r.file = nil
		return safefile.Fail(err, "write revocation list", r.path)
	}
	r.size += int64(len(line))
	return nil
}

// Revoked reports whether the block with an ID was revoked.
func (r *Revocations) Revoked(id ID) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.ids[id]
	return ok
}

// Len returns the number of revocations that are kept.
func (r *Revocations) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.ids)
}

// Prune drops revocations of tokens that expired at least Retain ago.
func (r *Revocations) Prune() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	limit := r.clock.Now().Add(-Retain).Unix()
	before := len(r.ids)
	for id, v := range r.ids {
		if v.expires < limit {
			delete(r.ids, id)
		}
	}
	if r.file != nil && len(r.ids) == before {
		return nil
	}
	return r.rewrite()
}

// rewrite replaces the file by one that has what is in memory.
//
// +checklocks:r.mu
func (r *Revocations) rewrite() error {
	var b bytes.Buffer
	for id, v := range r.ids {
		b.WriteString(v.line(id))
	}
	if err := safefile.Write(r.path, b.Bytes()); err != nil {
		return safefile.Fail(err, "write revocation list", r.path)
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	if err != nil {
		return safefile.Fail(err, "open revocation list", r.path)
	}
	if r.file != nil {
		r.file.Close() // Synced.
	}
	r.file, r.size = f, int64(b.Len())
	return nil
}

// Close lets go of the file. Revoked goes on answering, and Revoke would open
// it again.
func (r *Revocations) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return safefile.Fail(err, "close revocation list", r.path)
}
