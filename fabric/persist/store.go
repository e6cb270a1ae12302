package persist

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"sync"

	"aios.dev/aios/errdefs"
)

const (
	magic   = "AIOSRGN1"
	headers = 2
	// headerLen is what is used of the block of a header, its checksum last.
	headerLen = 8 + 8 + 8 + 8 + 8 + 8
	// maxMeta is how long a description is.
	maxMeta = 1 << 20
	// MaxKeep is how many versions are kept at most.
	MaxKeep = 64
)

// Meta describes a region.
type Meta struct {
	Name    string   `json:"name"`
	Size    uint64   `json:"size"`
	Labels  []string `json:"labels,omitempty"`
	Fixed   bool     `json:"fixed,omitempty"`
	Addr    uint64   `json:"addr,omitempty"` // where it is fixed
	Zeros   bool     `json:"zeros,omitempty"`
	Keep    int      `json:"keep"` // versions, 1 to MaxKeep
	Lineage string   `json:"lineage,omitempty"`
	Digest  string   `json:"digest,omitempty"` // of what was sealed
	// Members is the last number of one who took part in the synchronisation.
	Members  uint32    `json:"members,omitempty"`
	Versions []Version `json:"versions"` // the oldest first
}

// Version is one that is kept.
type Version struct {
	Number  uint64 `json:"number"`
	Comment string `json:"comment,omitempty"`
	Time    int64  `json:"time"` // nanoseconds since 1970
	Pages   uint64 `json:"pages"`
	Block   uint64 `json:"block"`
	Sum     uint64 `json:"sum"`
}

func (v Version) root() ptr { return ptr{v.Block, v.Sum} }

// Store is an open file. Its methods may be called concurrently.
type Store struct {
	f    File
	name string

	// turn is whose turn it is to read or write the file: host I/O is done with it.
	turn   sync.Mutex
	seq    uint64
	meta   Meta // +checklocks:turn
	at     ptr  // of the description; +checklocks:turn
	atLen  uint64
	used   bitmap // +checklocks:turn
	failed error  // +checklocks:turn

	mu sync.Mutex // never held over I/O
	// shown is what others see of meta while somebody has the turn.
	shown Meta // +checklocks:mu
}

// broken is the error for a file that does not add up.
func broken(name, what string) error {
	return errdefs.New(errdefs.RegionBroken, what, errdefs.Resource("region %s", name),
		errdefs.Fix("put back a copy of its file, or remove it with `aiosctl fabric rm --stored %s`", name))
}

func failedIO(err error, op, name string) error {
	return errdefs.Wrap(err, errdefs.HostIO, op, errdefs.Resource("region %s", name))
}

// pages is how many pages there are.
func (m *Meta) pages() uint64 { return m.Size / BlockSize }

// Create makes an empty store in f, which is empty, and syncs it.
func Create(f File, m Meta) (*Store, error) {
	if m.Size == 0 || m.Size%BlockSize != 0 || m.Keep < 1 || m.Keep > MaxKeep {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "the size is not in pages, or the number of versions is not from 1 to %d", MaxKeep).
			With(errdefs.Resource("region %s", m.Name))
	}
	m.Versions = nil
	s := &Store{f: f, name: m.Name}
	s.used.set(headers - 1)
	s.used.set(0)
	s.turn.Lock()
	defer s.turn.Unlock()
	if _, err := s.f.WriteAt(make([]byte, headers*BlockSize), 0); err != nil {
		return nil, failedIO(err, "make", m.Name)
	}
	return s, s.write(m)
}

// Open reads what is in f. The name is for errors.
func Open(f File, name string) (*Store, error) {
	s := &Store{f: f, name: name}
	s.turn.Lock()
	defer s.turn.Unlock()
	if err := s.find(); err != nil {
		return nil, err
	}
	s.used.set(0)
	s.used.set(1)
	for i := range s.blocks(s.atLen) {
		s.used.set(s.at.block + i)
	}
	for _, v := range s.meta.Versions {
		if err := s.mark(v.root(), depthFor(s.meta.pages())); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ReadMeta reads what f says of the region, and looks at nothing else.
func ReadMeta(f io.ReaderAt, name string) (Meta, error) {
	s := &Store{f: readOnly{f}, name: name}
	s.turn.Lock()
	defer s.turn.Unlock()
	err := s.find()
	return s.meta, err
}

// readOnly is a file that nobody writes to.
type readOnly struct{ io.ReaderAt }

func (readOnly) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }
func (readOnly) Sync() error                        { return nil }

// find reads the header that counts, and the description.
//
// +checklocks:s.turn
func (s *Store) find() error {
	var last error
	for i := range uint64(headers) {
		seq, at, n, err := s.header(i)
		switch {
		case err != nil:
			last = err
		case seq > s.seq:
			s.seq, s.at, s.atLen = seq, at, n
		}
	}
	if s.seq == 0 {
		if last != nil {
			return last
		}
		return broken(s.name, "neither of its headers is whole")
	}
	return s.readMeta()
}

// header reads one; a seq of 0 is one that is not whole.
func (s *Store) header(i uint64) (seq uint64, at ptr, n uint64, err error) {
	b := make([]byte, BlockSize)
	if k, err := s.f.ReadAt(b, int64(i)*BlockSize); err != nil && err != io.EOF {
		return 0, ptr{}, 0, failedIO(err, "open", s.name)
	} else if k < headerLen {
		return 0, ptr{}, 0, nil
	}
	le := binary.LittleEndian
	if string(b[:8]) != magic || le.Uint64(b[headerLen-8:]) != sum(i, b[:headerLen-8]) {
		return 0, ptr{}, 0, nil
	}
	return le.Uint64(b[8:]), ptr{le.Uint64(b[16:]), le.Uint64(b[24:])}, le.Uint64(b[32:]), nil
}

func (s *Store) blocks(n uint64) uint64 { return (n + BlockSize - 1) / BlockSize }

// readMeta reads the description.
//
// +checklocks:s.turn
func (s *Store) readMeta() error {
	if s.atLen == 0 || s.atLen > maxMeta || s.at.block < headers {
		return broken(s.name, "its header points nowhere")
	}
	b := make([]byte, s.atLen)
	if _, err := s.f.ReadAt(b, int64(s.at.block)*BlockSize); err == io.EOF {
		return broken(s.name, "its file is cut short")
	} else if err != nil {
		return failedIO(err, "open", s.name)
	}
	if sum(s.at.block, b) != s.at.sum {
		return broken(s.name, "its description has the wrong checksum")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&s.meta); err != nil {
		return broken(s.name, "its description cannot be read: "+err.Error())
	}
	m := &s.meta
	if m.Size == 0 || m.Size%BlockSize != 0 || m.Keep < 1 || m.Keep > MaxKeep || len(m.Versions) > MaxKeep {
		return broken(s.name, "its description makes no sense")
	}
	s.show()
	return nil
}

// mark notes the blocks of a tree as used, and checks its nodes.
//
// +checklocks:s.turn
func (s *Store) mark(p ptr, height int) error {
	if p.block == 0 || s.used.has(p.block) { // A tree that others share is known.
		return nil
	}
	if p.block < headers || p.block > maxBlock {
		return broken(s.name, "a pointer leads nowhere")
	}
	s.used.set(p.block)
	if height == 0 {
		return nil
	}
	n, err := s.node(p)
	if err != nil {
		return err
	}
	for _, c := range n {
		if err := s.mark(c, height-1); err != nil {
			return err
		}
	}
	return nil
}

// block reads and checks one.
func (s *Store) block(p ptr, b *[BlockSize]byte) error {
	if _, err := s.f.ReadAt(b[:], int64(p.block)*BlockSize); err == io.EOF {
		return broken(s.name, "its file is cut short")
	} else if err != nil {
		return failedIO(err, "read", s.name)
	}
	if sum(p.block, b[:]) != p.sum {
		return errdefs.Newf(errdefs.RegionBroken, "block %d of its file has the wrong checksum", p.block).
			With(errdefs.Resource("region %s", s.name), errdefs.Fix("put back a copy of its file, or remove it with `aiosctl fabric rm --stored %s`", s.name))
	}
	return nil
}

func (s *Store) node(p ptr) (*node, error) {
	var n node
	if p.block == 0 {
		return &n, nil
	}
	var b [BlockSize]byte
	if err := s.block(p, &b); err != nil {
		return nil, err
	}
	n.decode(&b)
	return &n, nil
}

// show lets others see what is committed.
//
// It is called with the turn.
//
// +checklocksignore
func (s *Store) show() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = s.meta
}

// Meta describes what is committed. It does not wait for a commit that is under way.
func (s *Store) Meta() Meta {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.shown
	m.Versions = append([]Version(nil), m.Versions...)
	return m
}

// Load calls do with every page of a version that is not zeros; 0 is the last.
func (s *Store) Load(number uint64, do func(page uint64, b []byte) error) error {
	s.turn.Lock()
	defer s.turn.Unlock()
	vs := s.meta.Versions
	if number == 0 && len(vs) > 0 {
		number = vs[len(vs)-1].Number
	}
	for _, v := range vs {
		if v.Number == number {
			return s.load(v.root(), depthFor(s.meta.pages()), 0, do)
		}
	}
	if number == 0 {
		return nil // Nothing was committed.
	}
	return errdefs.Newf(errdefs.NotFound, "version %d is not kept", number).With(errdefs.Resource("region %s", s.name))
}

// load reads all pages below a node, with the lock held.
//
// +checklocksignore
func (s *Store) load(p ptr, height int, base uint64, do func(uint64, []byte) error) error {
	if p.block == 0 {
		return nil
	}
	if height == 0 {
		var b [BlockSize]byte
		if err := s.block(p, &b); err != nil {
			return err
		}
		if base >= s.meta.pages() {
			return broken(s.name, "it has pages beyond its end")
		}
		return do(base, b[:])
	}
	n, err := s.node(p)
	if err != nil {
		return err
	}
	for i, c := range n {
		if err := s.load(c, height-1, base<<fanBits|uint64(i), do); err != nil {
			return err
		}
	}
	return nil
}

// write makes m what the store is: the description, and the header.
//
// It is called with the lock held.
//
// +checklocksignore
func (s *Store) write(m Meta) error {
	text, err := json.Marshal(m)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "commit", errdefs.Resource("region %s", s.name))
	}
	if len(text) > maxMeta {
		return errdefs.New(errdefs.InvalidArgument, "its description is too long", errdefs.Resource("region %s", s.name))
	}
	n := s.blocks(uint64(len(text)))
	at := ptr{block: s.used.take(n)}
	at.sum = sum(at.block, text)
	give := func() {
		for i := range n {
			s.used.clear(at.block + i)
		}
	}
	padded := make([]byte, n*BlockSize)
	copy(padded, text)
	if _, err := s.f.WriteAt(padded, int64(at.block)*BlockSize); err != nil {
		give()
		return s.fail(err)
	}
	if err := s.f.Sync(); err != nil {
		give()
		return s.fail(err)
	}
	seq := s.seq + 1
	slot := seq % headers
	b := make([]byte, BlockSize)
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint64(b[8:], seq)
	le.PutUint64(b[16:], at.block)
	le.PutUint64(b[24:], at.sum)
	le.PutUint64(b[32:], uint64(len(text)))
	le.PutUint64(b[headerLen-8:], sum(slot, b[:headerLen-8]))
	if _, err := s.f.WriteAt(b, int64(slot)*BlockSize); err != nil {
		return s.fail(err)
	}
	if err := s.f.Sync(); err != nil {
		return s.fail(err)
	}
	for i := range s.blocks(s.atLen) {
		s.used.clear(s.at.block + i)
	}
	s.seq, s.meta, s.at, s.atLen = seq, m, at, uint64(len(text))
	s.show()
	return nil
}

// fail notes that what is in the file is not known any more: it may be more than
// was committed, and never less.
//
// +checklocks:s.turn
func (s *Store) fail(err error) error {
	s.failed = failedIO(err, "commit", s.name)
	return s.failed
}
