package daemon

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/persist"
	"aios.dev/aios/internal/safefile"
)

// Persistent regions are files below the state directory, named by their region.
// The daemon makes, opens and removes them; the kernel process of the domain that
// has one open reads and writes it by a descriptor, whose lock says that it is open.

const storedSuffix = ".region"

func (s *fabricService) storedDir() string { return filepath.Join(s.d.paths.StateDir, "fabric") }

func (s *fabricService) storedPath(name string) string {
	return filepath.Join(s.storedDir(), name+storedSuffix)
}

// lockFile takes the lock that says that a region is open.
func lockFile(f *os.File, name string) error {
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return errdefs.New(errdefs.WrongState, "a domain has it open", errdefs.Op("open region"), errdefs.Resource("%s", name),
			errdefs.Fix("`aiosctl fabric ls` says which; remove it there first"))
	default:
		return errdefs.Wrap(err, errdefs.HostIO, "lock", errdefs.Resource("region %s", name))
	}
}

// createStored has a kernel process make a persistent region.
func (s *fabricService) createStored(ctx context.Context, dom *domain, ask control.FabricRequest) (reply control.FabricReply, err error) {
	if !abi.ValidName(ask.Name) {
		return reply, errdefs.New(errdefs.InvalidArgument, "it is not a name", errdefs.Op("create region"), errdefs.Resource("%q", ask.Name),
			errdefs.Fix("write 1 to 63 letters, digits, '.', '_' and '-'"))
	}
	path := s.storedPath(ask.Name)
	s.storing.Lock()
	defer s.storing.Unlock()
	if _, err := os.Lstat(path); err == nil {
		return reply, errdefs.New(errdefs.AlreadyExists, "a persistent region of that name is kept", errdefs.Op("create region"), errdefs.Resource("%s", ask.Name),
			errdefs.Fix("open it with `aiosctl fabric open %s`, or remove it with `aiosctl fabric rm --stored %s`", ask.Name, ask.Name))
	}
	if err := os.MkdirAll(s.storedDir(), 0o700); err != nil {
		return reply, safefile.Fail(err, "create region", s.storedDir())
	}
	// It has its name when it is whole.
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return reply, safefile.Fail(err, "create region", fresh)
	}
	defer f.Close()
	defer os.Remove(fresh)
	if err := lockFile(f, ask.Name); err != nil {
		return reply, err
	}
	ask.Persistent = true
	if reply, err = s.askWith(ctx, dom, ask, f); err != nil {
		return reply, err
	}
	if err = os.Rename(fresh, path); err != nil {
		err = safefile.Fail(err, "create region", path)
	} else {
		err = safefile.SyncDir(s.storedDir())
	}
	if err != nil {
		s.ask(context.WithoutCancel(ctx), dom, control.FabricRequest{Op: control.FabricRemove, Name: ask.Name})
	}
	return reply, err
}

func (s *fabricService) askWith(ctx context.Context, dom *domain, req control.FabricRequest, f *os.File) (control.FabricReply, error) {
	req.Actor = actor(ctx)
	var reply control.FabricReply
	err := dom.call(ctx, control.MethodFabric, req, &reply, f)
	return reply, err
}

// openStored opens the file of a region that is kept.
func (s *fabricService) openStored(name string, how int) (*os.File, error) {
	if !abi.ValidName(name) {
		return nil, errdefs.New(errdefs.InvalidArgument, "it is not a name", errdefs.Op("open region"), errdefs.Resource("%q", name))
	}
	f, err := os.OpenFile(s.storedPath(name), how|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errdefs.New(errdefs.NotFound, "no persistent region of that name is kept", errdefs.Op("open region"), errdefs.Resource("%s", name),
			errdefs.Fix("`aiosctl fabric ls` lists them; make one with `aiosctl fabric create --persistent`"))
	}
	if err != nil {
		return nil, safefile.Fail(err, "open region", s.storedPath(name))
	}
	return f, nil
}

// reopenPatience is how long a kernel process that has died may keep a region open.
const reopenPatience = 5 * time.Second

// reopenStored opens the file of a region that a domain which is restored had open.
func (s *fabricService) reopenStored(ctx context.Context, name string) (*os.File, error) {
	f, err := s.openStored(name, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	for began := s.d.clock.Now(); ; {
		err = lockFile(f, name)
		if errdefs.CodeOf(err) != errdefs.WrongState || s.d.clock.Since(began) > reopenPatience || ctx.Err() != nil {
			break
		}
		<-after(s.d.clock, 10*time.Millisecond)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// RegionOpen implements the RPC.
func (s *fabricService) RegionOpen(ctx context.Context, req *apiv1.RegionOpenRequest) (*apiv1.RegionOpenResponse, error) {
	dom, owner, err := s.place(req.GetOwner(), req.GetDomain(), "open region")
	if err != nil {
		return nil, err
	}
	s.storing.Lock()
	defer s.storing.Unlock()
	f, err := s.openStored(req.GetName(), os.O_RDWR)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := lockFile(f, req.GetName()); err != nil {
		return nil, err
	}
	reply, err := s.askWith(ctx, dom, control.FabricRequest{Op: control.FabricOpen, Name: req.GetName(), Agent: owner, Version: int(req.GetVersion())}, f)
	if err != nil {
		return nil, err
	}
	dom.regroup()
	return &apiv1.RegionOpenResponse{Region: s.only(dom, reply)}, nil
}

// RegionCommit implements the RPC.
func (s *fabricService) RegionCommit(ctx context.Context, req *apiv1.RegionCommitRequest) (*apiv1.RegionCommitResponse, error) {
	dom, reply, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricCommit, Comment: req.GetComment()})
	if err != nil {
		return nil, err
	}
	dom.regroup()
	resp := &apiv1.RegionCommitResponse{}
	for _, v := range reply.Stored {
		resp.Version = storedProto(v)
	}
	return resp, nil
}

func storedProto(v control.StoredVersion) *apiv1.RegionStored {
	return &apiv1.RegionStored{Number: v.Number, Comment: v.Comment, TimeUnixNano: v.Time, Bytes: v.Bytes}
}

// place finds the domain that a region is to be in, and the ID of its owner.
func (s *fabricService) place(owner, domain, op string) (*domain, string, error) {
	if owner != "" {
		r, in, err := s.d.findRunning(owner)
		if err != nil {
			return nil, "", err
		}
		if domain != "" && domain != in.name {
			return nil, "", errdefs.New(errdefs.InvalidArgument, "the owner is in domain "+in.name, errdefs.Op(op), errdefs.Resource("%s", domain),
				errdefs.Fix("leave the domain out"))
		}
		return in, r.id, nil
	}
	name := cmp.Or(domain, defaultDomain)
	for _, live := range s.d.liveDomains() {
		if live.name == name {
			return live, "", nil
		}
	}
	return nil, "", errdefs.New(errdefs.DomainNotFound, "no such domain runs", errdefs.Op(op), errdefs.Resource("%s", name),
		errdefs.Fix("start an agent in it first: a domain runs while it has agents"))
}

// stored lists the regions that are kept and that nobody has open, by name.
func (s *fabricService) stored(open []*apiv1.Region) []*apiv1.Region {
	files, _ := os.ReadDir(s.storedDir()) // Without it there are none.
	var out []*apiv1.Region
	for _, e := range files {
		name, ok := strings.CutSuffix(e.Name(), storedSuffix)
		is := func(r *apiv1.Region) bool { return r.GetPersistent() && r.GetName() == name }
		if !ok || !e.Type().IsRegular() || slices.ContainsFunc(open, is) {
			continue
		}
		region, _ := s.describeStored(name)
		out = append(out, region)
	}
	return out
}

// describeStored tells of a region that is kept and not open.
func (s *fabricService) describeStored(name string) (*apiv1.Region, []*apiv1.RegionStored) {
	r := &apiv1.Region{Name: name, Persistent: true}
	f, err := s.openStored(name, os.O_RDONLY)
	if err != nil {
		r.Broken = err.Error()
		return r, nil
	}
	defer f.Close()
	m, err := persist.ReadMeta(f, name)
	if err != nil {
		r.Broken = err.Error()
		return r, nil
	}
	r.Size, r.Labels, r.Keep, r.Lineage, r.Digest, r.Zeros = m.Size, m.Labels, uint32(m.Keep), m.Lineage, m.Digest, m.Zeros
	var versions []*apiv1.RegionStored
	for _, v := range m.Versions {
		r.Committed = v.Number
		versions = append(versions, storedProto(control.StoredVersion{Number: v.Number, Comment: v.Comment, Time: v.Time, Bytes: v.Pages * persist.BlockSize}))
	}
	return r, versions
}

// removeStored removes the file of a region that nobody has open.
func (s *fabricService) removeStored(name string) error {
	s.storing.Lock()
	defer s.storing.Unlock()
	f, err := s.openStored(name, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lockFile(f, name); err != nil {
		return err
	}
	if err := os.Remove(s.storedPath(name)); err != nil {
		return safefile.Fail(err, "remove region", s.storedPath(name))
	}
	return safefile.SyncDir(s.storedDir())
}

// keeps says whether there is a file of a region of that name.
func (s *fabricService) keeps(name string) bool {
	if !abi.ValidName(name) {
		return false
	}
	_, err := os.Lstat(s.storedPath(name))
	return err == nil
}
