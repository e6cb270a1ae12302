package fabric

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// MaxSize is the size of the largest region.
const MaxSize = 1 << 40

// maxRegions is how many a domain has.
const maxRegions = 4096

// Options of a Store.
type Options struct {
	// Memory is where pages come from.
	Memory *pgalloc.MemoryFile
	Clock  ktime.Clock
	// MaxBytes is how large all regions together may be; 0 is MaxSize.
	MaxBytes uint64
	// Account returns a new account for gVisor to count pages in.
	Account func() uint32
	// Charge takes bytes from what the owner of a region may have, or says why
	// not; Release gives them back. An owner "" is the domain.
	Charge  func(owner string, bytes uint64) error
	Release func(owner string, bytes uint64)
	// Lost, unless nil, is told when the pages of v are gone from the memory of
	// those who had mapped so many bytes of them. It is called by who revokes.
	Lost func(v *View, bytes uint64)
	// Lend has one who is about to wait for what another has lend that its rank, in
	// place of whomever it lent it before; PassOn has all who lend it to from
	// because of what lend it to another; Reclaim ends it. Called with locks of
	// this package held.
	Lend    func(from, to Task, what uintptr)
	PassOn  func(from, to Task, what uintptr)
	Reclaim func(from Task)
}

// Store has the regions of a domain.
type Store struct {
	opts Options

	mu sync.Mutex
	// By name.
	regions map[string]*Region // +checklocks:mu
	// bytes is what all of them are charged for.
	bytes  uint64 // +checklocks:mu
	window window // +checklocks:mu
	// fences counts the regions whose Fence is shut, for a quick look.
	fences atomic.Int32
	alone  alone
	blank  blank
}

// NewStore returns a store without regions.
func NewStore(opts Options) *Store {
	if opts.MaxBytes == 0 || opts.MaxBytes > MaxSize {
		opts.MaxBytes = MaxSize
	}
	return &Store{opts: opts, regions: make(map[string]*Region)}
}

// Spec describes a region that is to be made.
type Spec struct {
	Name string
	// Owner is the agent that it is charged to; "" is the domain.
	Owner string
	// Size is rounded up to whole pages.
	Size uint64
	// Labels say what it holds; see CheckLabels.
	Labels []string
	// Fixed has it mapped at the same address everywhere.
	Fixed bool
	// At is the address then; 0 is the one that follows from name and size.
	At uint64
	// Zeros has who loses the right to it read zeros where it was, instead of a
	// fault; to write stays one.
	Zeros bool
	// Keep is how many versions are kept; 0 is as many as there is memory for.
	Keep int
}

// Create makes a region of zeros.
func (s *Store) Create(spec Spec) (*Region, error) {
	return s.create(spec, &family{mf: s.opts.Memory}, "")
}

func (s *Store) create(spec Spec, fam *family, lineage string) (*Region, error) {
	res := errdefs.Resource("%s", spec.Name)
	op := errdefs.Op("create region")
	if !abi.ValidName(spec.Name) {
		return nil, errdefs.New(errdefs.InvalidArgument, "it is not a name", op, errdefs.Resource("%q", spec.Name),
			errdefs.Fix("write 1 to 63 letters, digits, '.', '_' and '-'"))
	}
	size, ok := hostarch.PageRoundUp(spec.Size)
	if spec.Size == 0 || !ok || size > MaxSize {
		return nil, errdefs.New(errdefs.InvalidArgument, "the size is out of range", op, res, errdefs.Fix("ask for 1 byte to 1 TiB"))
	}
	if spec.Keep < 0 {
		return nil, errdefs.New(errdefs.InvalidArgument, "the number of versions to keep is negative", op, res, errdefs.Fix("say 0 for no bound"))
	}
	labels, err := CheckLabels(spec.Labels)
	if err != nil {
		return nil, err
	}
	r := &Region{
		store: s, fam: fam, name: spec.Name, owner: spec.Owner, size: size, labels: labels, keep: spec.Keep, lineage: lineage, zeros: spec.Zeros,
		born: s.opts.Clock.Now(), views: make(map[capability.ID]*View),
	}
	r.head.depth = depthFor(r.chunks())
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.regions[spec.Name] != nil:
		return nil, errdefs.New(errdefs.AlreadyExists, "a region of the domain has that name", op, res, errdefs.Fix("choose another name, or remove it"))
	case len(s.regions) >= maxRegions:
		return nil, errdefs.Newf(errdefs.MemoryLimit, "a domain has at most %d regions", maxRegions).With(op, res, errdefs.Fix("remove some"))
	case size > s.opts.MaxBytes-min(s.bytes, s.opts.MaxBytes):
		return nil, errdefs.Newf(errdefs.MemoryLimit, "the regions of the domain may have %d bytes in all, and have %d", s.opts.MaxBytes, s.bytes).
			With(op, res, errdefs.Fix("ask for less, or remove some"))
	}
	switch {
	case !spec.Fixed:
	case spec.At == 0:
		if r.addr, err = s.window.take(spec.Name, size); err != nil {
			return nil, err
		}
	case s.window.takeAt(spec.At, size):
		r.addr = spec.At
	default:
		return nil, errdefs.Newf(errdefs.AlreadyExists, "another region of the domain is at %#x, where it was", spec.At).
			With(errdefs.Op("open region"), res, errdefs.Fix("remove that, or open this one in another domain"))
	}
	if err := s.opts.Charge(spec.Owner, size); err != nil {
		s.window.give(r.addr)
		return nil, err
	}
	r.memID = s.opts.Account()
	s.bytes += size
	s.regions[r.name] = r
	return r, nil
}

// Lookup returns the region of that name.
func (s *Store) Lookup(name string) (*Region, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.regions[name]; r != nil {
		return r, nil
	}
	return nil, errdefs.New(errdefs.NotFound, "the domain has no such region", errdefs.Resource("%s", name),
		errdefs.Fix("`aiosctl fabric ls` lists them"))
}

// List returns all regions, by name.
func (s *Store) List() []*Region {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Region, 0, len(s.regions))
	for _, r := range s.regions {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *Region) int { return strings.Compare(a.name, b.name) })
	return out
}

// Bytes is what all regions of an owner are charged for.
func (s *Store) Bytes(owner string) (sum uint64) {
	for _, r := range s.List() {
		if r.owner == owner {
			sum += r.Charged()
		}
	}
	return sum
}

// Remove ends r: nobody has it mapped when it returns, and its memory is given
// back. To remove it again does nothing.
func (s *Store) Remove(r *Region) {
	s.mu.Lock()
	if s.regions[r.name] != r {
		s.mu.Unlock()
		return
	}
	delete(s.regions, r.name)
	s.mu.Unlock()
	r.change.Lock()
	defer r.change.Unlock()
	r.ended.Store(true)
	r.invalidate(true)
	r.waits.close()
	r.gone.Store(true)
	charged := r.size
	r.fam.mu.Lock()
	r.head.drop(r.fam.free)
	for _, v := range r.versions {
		charged += v.charged
		v.tree.drop(r.fam.free)
	}
	r.versions = nil
	charged += r.dropBase()
	r.fam.mu.Unlock()
	s.mu.Lock()
	s.window.give(r.addr)
	s.bytes -= charged
	s.mu.Unlock()
	s.opts.Release(r.owner, charged)
	if d := r.disk.Load(); d != nil {
		d.close()
	}
}

// charge takes more for r, or says why not.
func (s *Store) charge(r *Region, n uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > s.opts.MaxBytes-min(s.bytes, s.opts.MaxBytes) {
		return errdefs.Newf(errdefs.MemoryLimit, "the regions of the domain may have %d bytes in all, and have %d", s.opts.MaxBytes, s.bytes).
			With(errdefs.Resource("%s", r.name), errdefs.Fix("remove some regions or versions"))
	}
	if err := s.opts.Charge(r.owner, n); err != nil {
		return err
	}
	s.bytes += n
	return nil
}

func (s *Store) release(r *Region, n uint64) {
	s.mu.Lock()
	s.bytes -= n
	s.mu.Unlock()
	s.opts.Release(r.owner, n)
}

// since is for how long something has been there.
func (s *Store) since(t time.Time) time.Duration { return s.opts.Clock.Since(t) }
