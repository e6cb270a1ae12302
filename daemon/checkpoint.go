package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/internal/safefile"
	"aios.dev/aios/lifecycle"
)

// DomainCheckpoint implements the RPC.
func (d *System) DomainCheckpoint(ctx context.Context, req *apiv1.DomainCheckpointRequest) (_ *apiv1.DomainCheckpointResponse, err error) {
	d.mu.Lock()
	dom := d.domains[req.GetName()]
	d.mu.Unlock()
	if dom == nil || dom.connection() == nil {
		return nil, errdefs.New(errdefs.DomainNotFound, "no such domain runs", errdefs.Op("checkpoint"),
			errdefs.Resource("%q", req.GetName()), errdefs.Fix("`aiosctl domain ls` lists them"))
	}
	dir, err := d.checkpointDir(req.GetDir(), dom.name)
	if err != nil {
		return nil, err
	}
	if every := time.Duration(req.GetEveryNanos()); req.EveryNanos != nil && every != 0 && (every < minEvery || every > maxEvery || req.GetStop() || req.GetDir() != "") {
		return nil, errdefs.New(errdefs.InvalidArgument, "it cannot be saved every "+every.String()+" like that", errdefs.Op("checkpoint"),
			errdefs.Fix("give a time from %v to %v, or 0, and neither --to nor --stop", minEvery, maxEvery))
	}
	who := actor(ctx)
	records := d.recordsOf(dom)
	if len(records) == 0 {
		return nil, errdefs.New(errdefs.WrongState, "no agent runs in it", errdefs.Op("checkpoint"), errdefs.Resource("%s", dom.name))
	}
	for _, r := range records {
		call, refused := d.askHooks(ctx, lifecycle.Checkpoint, r, nil)
		if refused != nil {
			return nil, refused
		}
		defer func() { call.Done(err) }() // What became of all of it.
	}
	m, err := d.checkpoint(ctx, dom, dir, req.GetStop())
	if err != nil {
		return nil, err
	}
	d.record(audit.Entry{
		Op: "checkpoint", Domain: dom.name, Actor: who.Name, Target: dir, Count: uint64(len(m.Agents)),
		Reason: hibernated(req.GetStop()), Correlation: who.Correlation,
	})
	d.emit(event.DomainCheckpoint, "", dom.name, &eventv1.DomainCheckpoint{
		Dir: dir, Agents: uint32(len(m.Agents)), Bytes: uint64(m.bytes()), Pause: int64(m.Pause), Stopped: req.GetStop(),
	})
	if req.GetStop() {
		d.hibernate(dom, dir)
	} else if req.EveryNanos != nil {
		if err := dom.setEvery(time.Duration(req.GetEveryNanos())); err != nil {
			return nil, err
		}
	}
	return &apiv1.DomainCheckpointResponse{Checkpoint: m.proto(dir)}, nil
}

func hibernated(stop bool) string {
	if stop {
		return "it does not go on"
	}
	return "it goes on"
}

// recordsOf returns the agents of a domain that have not ended.
func (d *System) recordsOf(dom *domain) []*record {
	return slices.DeleteFunc(d.records(), func(r *record) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.domain != dom || r.state.Final()
	})
}

// checkpointDir is where a domain is saved to: dir, or a place of its own.
func (d *System) checkpointDir(dir, domain string) (string, error) {
	if dir == "" {
		return filepath.Join(d.paths.StateDir, "checkpoints", domain), nil
	}
	if !filepath.IsAbs(dir) {
		return "", errdefs.New(errdefs.InvalidArgument, "it is not an absolute path", errdefs.Op("checkpoint"), errdefs.Resource("%q", dir),
			errdefs.Fix("name the directory by its absolute path"))
	}
	return filepath.Clean(dir), nil
}

// checkpoint saves the domain. The directory has the whole of it or, until all of
// it is there, the one before.
func (d *System) checkpoint(ctx context.Context, dom *domain, dir string, stop bool) (*manifest, error) {
	dom.saving.Lock()
	defer dom.saving.Unlock()
	return d.writeCheckpoint(ctx, dom, dir, stop)
}

// writeCheckpoint is checkpoint, one at a time.
func (d *System) writeCheckpoint(ctx context.Context, dom *domain, dir string, stop bool) (*manifest, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, safefile.Fail(err, "make the checkpoint's directory", dir)
	}
	if err := trustedDir(dir); err != nil {
		return nil, err
	}
	var parts files
	defer func() {
		parts.close()
		for _, f := range parts.list {
			os.Remove(f.Name()) // It has another name by then, or is of no use.
		}
	}()
	for _, kind := range partKinds {
		parts.add(os.CreateTemp(dir, kind.prefix+"new-*"))
	}
	if parts.err != nil {
		return nil, safefile.Fail(parts.err, "make the checkpoint", dir)
	}
	m := d.describe(dom)
	before, index := usedAgain(dir)
	send := parts.list
	if index != nil {
		defer index.Close()
		send = append(slices.Clone(send), index)
	}
	var reply control.CheckpointReply
	if err := dom.call(ctx, control.MethodCheckpoint, control.CheckpointRequest{Stop: stop}, &reply, send...); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "checkpoint", errdefs.Resource("%s", dom.name))
	}
	err := m.complete(d, reply)
	if err == nil {
		err = m.name(dir, parts.list, reply, before)
	}
	if err != nil {
		return nil, safefile.Fail(err, "write the checkpoint", dir)
	}
	if err := m.write(dir); err != nil {
		return nil, err
	}
	m.sweep(dir)
	dom.rounds.did(m.Made)
	d.log.Info("domain saved", "domain", dom.name, "dir", dir, "bytes", m.bytes(), "agents", len(m.Agents), "pause", m.Pause)
	return m, nil
}

// usedAgain returns the packs of the checkpoint that is in dir, and the index of the
// pages in them, which need not be written again; nothing when there is none that is
// of use.
func usedAgain(dir string) (packs []manifestPart, index *os.File) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, nil
	}
	packs = m.Parts[2:]
	for _, p := range packs {
		if st, err := os.Lstat(filepath.Join(dir, p.Name)); err != nil || !st.Mode().IsRegular() || st.Size() != p.Bytes {
			return nil, nil
		}
	}
	if index, err = m.Parts[1].open(dir); err != nil {
		return nil, nil
	}
	return packs, index
}

// name gives the parts that were written their names, when they are on disk.
func (m *manifest) name(dir string, written []*os.File, reply control.CheckpointReply, before []manifestPart) error {
	m.Parts = []manifestPart{newPart(0, reply.State), newPart(1, reply.Memory)}
	for _, i := range reply.Kept {
		if i < 0 || i >= len(before) {
			return errdefs.Newf(errdefs.Protocol, "there is no pack %d", i).With(errdefs.Op("checkpoint"))
		}
		m.Parts = append(m.Parts, before[i])
	}
	names := []string{m.Parts[0].Name, m.Parts[1].Name}
	if reply.Pages.Bytes > 0 {
		p := newPart(2, reply.Pages)
		m.Parts, names = append(m.Parts, p), append(names, p.Name)
	}
	for i, name := range names {
		if err := written[i].Sync(); err != nil {
			return err
		}
		if err := os.Rename(written[i].Name(), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// describe notes what the daemon knows of the domain and its agents.
func (d *System) describe(dom *domain) *manifest {
	m := &manifest{Format: manifestFormat, Version: abi.Version, Kernel: kernelVersion(), Domain: dom.name, Made: d.clock.Now(), MemoryBytes: hostMemory()}
	m.Trail, m.Instance = d.trail.Head().Seq, d.instance
	dom.startMu.Lock()
	m.Host = dom.host
	dom.startMu.Unlock()
	dom.mu.Lock()
	m.Isolated, m.Every = dom.info.Isolated, dom.info.CheckpointEvery
	dom.mu.Unlock()
	return m
}

// hibernate ends the kernel process of a domain that was saved and stands still.
func (d *System) hibernate(dom *domain, dir string) {
	d.endWishes(dom.name, "its domain was hibernated")
	dom.saved.Store(&dir)
	dom.stopping.Store(true)
	dom.mu.Lock()
	info := dom.info
	dom.mu.Unlock()
	killProcess(info)
	<-dom.gone
}

// trustedDir refuses a directory into which others than the daemon's user could put
// agents with any authority.
func trustedDir(dir string) error {
	for _, path := range []string{dir, filepath.Join(dir, manifestName)} {
		st, err := os.Lstat(path)
		if os.IsNotExist(err) && path != dir {
			continue
		}
		if err != nil {
			return safefile.Fail(err, "look at the checkpoint", path)
		}
		uid, ok := ownerOf(st)
		if st.Mode()&os.ModeSymlink != 0 || st.Mode().Perm()&0o022 != 0 || !ok || uid != 0 && uid != os.Geteuid() {
			return errdefs.New(errdefs.Denied, "others could have written it: "+st.Mode().String()+fmt.Sprintf(", of user %d", uid), errdefs.Op("checkpoint"),
				errdefs.Resource("%s", path), errdefs.Fix("use a directory of the daemon's user that only it can write to"))
		}
	}
	return nil
}

// savedAs is why agents ended with a domain that was hibernated.
func (dom *domain) savedAs() (string, bool) {
	dir := dom.saved.Load()
	if dir == nil {
		return "", false
	}
	return "the domain was saved to " + strings.TrimSpace(*dir) + " and stopped", true
}
