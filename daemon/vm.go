package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
	"aios.dev/aios/lifecycle"
	"aios.dev/aios/sentry/trap"
)

// vmService serves the API's service VirtualMemory.
type vmService struct {
	apiv1.UnimplementedVirtualMemoryServer
	d *System
}

// VMShow implements the RPC.
func (s *vmService) VMShow(ctx context.Context, req *apiv1.VMShowRequest) (*apiv1.VMShowResponse, error) {
	r, dom, err := s.d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	var got control.VMReply
	if err := dom.call(ctx, control.MethodVM, control.AgentRequest{ID: r.id}, &got); err != nil {
		return nil, err
	}
	resp := &apiv1.VMShowResponse{
		Used: got.Used, Peak: got.Peak, Limit: got.Limit, Kernel: got.Kernel, OnOom: got.OnOOM, Ooms: got.OOMs, OomKills: got.Kills,
	}
	for _, p := range got.Processes {
		resp.Processes = append(resp.Processes, &apiv1.VMProcess{
			Pid: p.PID, Name: p.Name, Resident: p.Resident, Adjustment: p.Adjustment, Score: p.Score,
		})
	}
	w := got.Swap
	resp.Swap = &apiv1.VMSwap{
		Cached: w.Cached, Compressed: w.Compressed, InFile: w.InFile, Zero: w.Zero, Memory: w.Memory, File: w.File, FileLimit: w.FileLimit,
		Ins: w.Ins, Outs: w.Outs, Never: w.Never, WorkingSet: w.WorkingSet,
	}
	return resp, nil
}

// VMSetSwap implements the RPC.
func (s *vmService) VMSetSwap(ctx context.Context, req *apiv1.VMSetSwapRequest) (*apiv1.VMSetSwapResponse, error) {
	r, dom, err := s.d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	if err := checkSwap("set swap", req.GetBytes()); err != nil {
		return nil, err
	}
	var files []*os.File
	if req.GetBytes() > 0 {
		f, err := swapFile(s.d.swapDir())
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	var got control.SetSwapReply
	krq := control.SetSwapRequest{ID: r.id, Bytes: req.GetBytes(), IfGrant: req.GetIfGrant(), Actor: actor(ctx)}
	if err := dom.call(ctx, control.MethodSetSwap, krq, &got, files...); err != nil {
		return nil, err
	}
	if err := s.d.keepSwap(r, got.Now); err != nil {
		return nil, err
	}
	return &apiv1.VMSetSwapResponse{Was: got.Was, Now: got.Now}, nil
}

// vmSetSwap needs what comes of it within the grants, if that is more.
func (a *asked) vmSetSwap(m *apiv1.VMSetSwapRequest) error {
	if err := a.aboutAgent(m); err != nil {
		return err
	}
	r, dom, err := a.d.findRunning(m.GetAgent())
	if err != nil {
		return err
	}
	var own control.SetSwapReply
	if err := dom.call(a.ctx, control.MethodSetSwap, control.SetSwapRequest{ID: r.id, Ask: true}, &own); err != nil {
		return err
	}
	if m.GetBytes() <= own.Was {
		return nil
	}
	spec, err := capability.ParseSpec(own.Grant)
	if err != nil {
		return err
	}
	if m.GetIfGrant() == "" {
		m.IfGrant = own.Grant // What was examined is what will be done.
	}
	spec.Limits.Swap = m.GetBytes()
	return a.b.AllowGrants(spec)
}

// leastSwap is the least swap that makes sense, in bytes.
const leastSwap = 1 << 20

// checkSwap refuses a limit that is too small for anything.
func checkSwap(op string, bytes uint64) error {
	if bytes == 0 || bytes >= leastSwap && bytes <= capability.MaxLimit {
		return nil
	}
	return errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("%d bytes are no size of a swap file", bytes), errdefs.Op(op),
		errdefs.Fix("give at least 1M, or 0 for none; a number without a unit is bytes"))
}

// withSwap is a spec with so much swap.
func withSwap(spec *apiv1.SpawnRequest, bytes uint64) *apiv1.SpawnRequest {
	spec = cloneSpec(spec)
	if spec.Limits == nil {
		spec.Limits = &apiv1.Limits{}
	}
	spec.Limits.SwapBytes = bytes
	if i := memoryGrant(spec.Grants); i >= 0 {
		s, _ := capability.ParseSpec(spec.Grants[i]) // It was read.
		s.Limits.Swap = bytes
		spec.Grants[i] = s.String()
	}
	return spec
}

// keepSwap has the agent have so much swap when it is started again.
func (d *System) keepSwap(r *record, bytes uint64) error {
	r.mu.Lock()
	r.specs.Store(withSwap(r.spec(), bytes))
	if r.upgrading != nil {
		r.upgrading.spec = withSwap(r.upgrading.spec, bytes)
	}
	r.mu.Unlock()
	return d.saveKnown(r)
}

// memoryGrant is the index of the first grant of memory, or -1.
func memoryGrant(grants []string) int {
	return slices.IndexFunc(grants, func(text string) bool {
		s, err := capability.ParseSpec(text)
		return err == nil && givesMemory(s)
	})
}

func givesMemory(s capability.Spec) bool {
	return s.Object == ownObject(abi.ClassMem) && s.Rights.Has(abi.MemMap)
}

func (d *System) swapDir() string { return filepath.Join(d.paths.StateDir, "swap") }

// giveSwapFile gives an agent a file to swap to.
func (dom *domain) giveSwapFile(ctx context.Context, id string) error {
	f, err := swapFile(dom.d.swapDir())
	if err != nil {
		return err
	}
	defer f.Close()
	return dom.call(ctx, control.MethodSwapFile, control.SwapFileRequest{ID: id}, nil, f)
}

// swapFile makes a file in dir that has no name: it is gone when nobody has it open.
func swapFile(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, safefile.Fail(err, "make the directory of swap files", dir)
	}
	f, err := os.CreateTemp(dir, "swap-*")
	if err != nil {
		return nil, safefile.Fail(err, "make a swap file", dir)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, safefile.Fail(err, "make a swap file", dir)
	}
	return f, nil
}

// VMHibernate implements the RPC.
func (s *vmService) VMHibernate(ctx context.Context, req *apiv1.VMHibernateRequest) (*apiv1.VMHibernateResponse, error) {
	r, dom, err := s.d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	call, err := s.d.askHooks(ctx, lifecycle.Hibernate, r, nil)
	if err != nil {
		return nil, err
	}
	var got control.HibernateReply
	err = dom.call(ctx, control.MethodHibernate, control.HibernateRequest{ID: r.id, Actor: actor(ctx)}, &got)
	call.Done(err)
	if err != nil {
		return nil, err
	}
	return &apiv1.VMHibernateResponse{
		Before: got.Before, After: got.After, Taken: got.Taken, Compressed: got.Compressed, File: got.File,
		PauseNanos: int64(got.Pause), TookNanos: int64(got.Took),
	}, nil
}

// VMSet implements the RPC.
func (s *vmService) VMSet(ctx context.Context, req *apiv1.VMSetRequest) (*apiv1.VMSetResponse, error) {
	rule, err := trap.ParseOOM(req.GetOnOom())
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.InvalidArgument, "set what is done when memory runs out")
	}
	r, dom, err := s.d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	var got control.SetVMReply
	err = dom.call(ctx, control.MethodSetVM, control.SetVMRequest{ID: r.id, OnOOM: rule.String(), Actor: actor(ctx)}, &got)
	if err != nil {
		return nil, err
	}
	return &apiv1.VMSetResponse{Was: got.Was, OnOom: got.OnOOM}, nil
}
