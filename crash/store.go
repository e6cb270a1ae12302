// Package crash keeps dumps: ELF cores of agents, and what tells about a kernel
// process that died. Each is one archive, a compressed tar, beside a
// description in JSON.
//
// Key types: Store (a directory of dumps, bounded in number and bytes: the
// oldest make room, and are counted), Crash (the description of one).
//
// What is stored comes from kernel processes, which are not trusted: names,
// sizes and the shape of an archive are checked as it streams in, and the
// memory that this takes does not depend on it.
//
// Lock order: Store.mu is a leaf, and not held while an archive is written or
// read. Sizes are in bytes. The package imports neither the protocols nor
// gVisor.
package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Kinds of dumps.
const (
	KindAgent  = "agent"  // cores of an agent's processes
	KindKernel = "kernel" // what tells about a kernel process
)

// Crash describes one dump.
type Crash struct {
	ID     string    `json:"id"`
	Kind   string    `json:"kind"`
	Domain string    `json:"domain"`
	Why    string    `json:"why"`
	Time   time.Time `json:"time"`
	// Of an agent, by which it is decided who may read it when the agent is
	// long gone.
	Agent  string            `json:"agent,omitempty"`
	Name   string            `json:"name,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Tokens []string          `json:"tokens,omitempty"`

	Bytes    uint64          `json:"bytes"` // of the archive
	Members  []Member        `json:"members"`
	Manifest json.RawMessage `json:"manifest,omitempty"`
	Remarks  []string        `json:"remarks,omitempty"`
}

// Member is one file in a dump.
type Member struct {
	Name  string `json:"name"`
	Bytes uint64 `json:"bytes"`
}

// Limits bound a store.
type Limits struct {
	Crashes int    // that are kept
	Bytes   uint64 // that they take on disk
	Members int    // in one
	Content uint64 // bytes that one unpacks to
}

// DefaultLimits are those of a daemon.
var DefaultLimits = Limits{Crashes: 64, Bytes: 4 << 30, Members: 4096, Content: 64 << 30}

// Store is a directory of dumps.
type Store struct {
	dir    string
	clock  ktime.Clock
	limits Limits

	mu sync.Mutex
	// Oldest first.
	list    []Crash // +checklocks:mu
	removed uint64  // +checklocks:mu
	last    uint64  // +checklocks:mu
}

const (
	archiveSuffix = ".tar.zst"
	descSuffix    = ".json"
	partSuffix    = ".part"
	removedFile   = "removed"
)

// OpenStore opens the store in a directory that exists. What a daemon that was
// killed left half written is removed.
func OpenStore(dir string, clock ktime.Clock, limits Limits) (*Store, error) {
	s := &Store{dir: dir, clock: clock, limits: limits}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open the store of dumps")
	}
	have := make(map[string]bool)
	for _, e := range entries {
		have[e.Name()] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		name := e.Name()
		id, isDesc := strings.CutSuffix(name, descSuffix)
		switch {
		case isDesc && have[id+archiveSuffix]:
			if c, err := readDescription(filepath.Join(dir, name)); err == nil && c.ID == id {
				s.list = append(s.list, c)
				s.last = max(s.last, number(id))
			}
		case isDesc, strings.HasSuffix(name, partSuffix):
			os.Remove(filepath.Join(dir, name))
		case strings.HasSuffix(name, archiveSuffix) && !have[strings.TrimSuffix(name, archiveSuffix)+descSuffix]:
			os.Remove(filepath.Join(dir, name))
		}
	}
	slices.SortFunc(s.list, func(a, b Crash) int { return a.Time.Compare(b.Time) })
	if raw, err := os.ReadFile(filepath.Join(dir, removedFile)); err == nil {
		s.removed, _ = strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	}
	return s, nil
}

func readDescription(path string) (c Crash, err error) {
	raw, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	return c, err
}

// number is what an ID counts: IDs are c1, c2 and so on.
func number(id string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimPrefix(id, "c"), 10, 64)
	return n
}

// List returns the dumps, oldest first.
func (s *Store) List() []Crash {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// Find returns the description of a dump.
func (s *Store) Find(id string) (Crash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.indexLocked(id); i >= 0 {
		return s.list[i], nil
	}
	return Crash{}, errdefs.New(errdefs.NotFound, "no dump has that ID", errdefs.Resource("%q", id),
		errdefs.Fix("`aiosctl crash ls` lists the dumps that are kept"))
}

// +checklocks:s.mu
func (s *Store) indexLocked(id string) int {
	return slices.IndexFunc(s.list, func(c Crash) bool { return c.ID == id })
}

// Usage is what the store holds, and has let go of.
type Usage struct {
	Bytes   uint64
	Removed uint64 // dumps that made room for others, ever
	Limits  Limits
}

// Usage says what the store holds.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{Bytes: s.bytesLocked(), Removed: s.removed, Limits: s.limits}
}

// +checklocks:s.mu
func (s *Store) bytesLocked() (n uint64) {
	for i := range s.list {
		n += s.list[i].Bytes
	}
	return n
}

// Remove forgets a dump.
func (s *Store) Remove(id string) error {
	if _, err := s.Find(id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.indexLocked(id); i >= 0 {
		s.removeLocked(i)
	}
	return nil
}

// +checklocks:s.mu
func (s *Store) removeLocked(i int) {
	id := s.list[i].ID
	os.Remove(s.path(id, descSuffix)) // First: an archive alone is removed at the next start.
	os.Remove(s.path(id, archiveSuffix))
	s.list = slices.Delete(s.list, i, i+1)
}

func (s *Store) path(id, suffix string) string { return filepath.Join(s.dir, id+suffix) }

// next returns an ID that was not used since the store was opened, nor by a
// dump that is kept.
func (s *Store) next() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	return fmt.Sprintf("c%d", s.last)
}

// commit makes a dump that was written completely known, and makes room for it.
func (s *Store) commit(c Crash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	evicted := 0
	for len(s.list) > 0 && (len(s.list) >= s.limits.Crashes || s.bytesLocked()+c.Bytes > s.limits.Bytes) {
		s.removeLocked(0)
		evicted++
	}
	if evicted > 0 {
		s.removed += uint64(evicted)
		os.WriteFile(filepath.Join(s.dir, removedFile), []byte(strconv.FormatUint(s.removed, 10)+"\n"), 0o600) // Counts on in memory if it fails.
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "describe dump")
	}
	if err := os.Rename(s.path(c.ID, partSuffix), s.path(c.ID, archiveSuffix)); err != nil {
		return diskError(err, "keep dump")
	}
	desc := s.path(c.ID, descSuffix)
	if err := os.WriteFile(desc+partSuffix, raw, 0o600); err != nil {
		os.Remove(desc + partSuffix)
		os.Remove(s.path(c.ID, archiveSuffix))
		return diskError(err, "describe dump")
	}
	if err := os.Rename(desc+partSuffix, desc); err != nil {
		return diskError(err, "describe dump")
	}
	s.list = append(s.list, c)
	return nil
}

func diskError(err error, op string) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errdefs.Wrap(err, errdefs.DiskFull, op, errdefs.Fix("free space on the disk of the state directory"))
	}
	return errdefs.Wrap(err, errdefs.HostIO, op)
}
