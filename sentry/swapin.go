package sentry

import (
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/account"
	"aios.dev/aios/errdefs"
)

// bringPiece is how much is brought back at once.
const bringPiece = 1 << 20

// bringIn makes swapObjects anonymous memory again in all agents, whose tasks stand
// still: what is saved of a domain is its memory, without stores.
func (s *Kernel) bringIn(agents []*Agent) error {
	sys := s.swapOn.Load()
	if sys == nil {
		return nil
	}
	for _, a := range agents {
		var out uint64
		for _, p := range a.swapPages() {
			p.mu.Lock()
			if !p.resident {
				out += hostarch.PageSize
			}
			p.mu.Unlock()
		}
		if limit := a.memoryLimit(); limit != account.Unlimited && out > 0 && memoryOf(a)+out > limit {
			return errdefs.New(errdefs.CheckpointRefused, "what it has swapped out does not fit into its memory limit", errdefs.Op("checkpoint"),
				errdefs.Resource("%s", a.label()), errdefs.Fix("give it more memory"))
		}
	}
	for _, a := range agents {
		ctx := s.context(a.ns, s.creds, a.memID)
		for _, m := range a.spaces() {
			err := sys.bringSpaceIn(ctx, m)
			m.DecUsers(ctx)
			if err != nil {
				return errdefs.Wrap(err, errdefs.CheckpointRefused, "bring back what is swapped out", errdefs.Resource("%s", a.label()))
			}
		}
	}
	return nil
}

// bringSpaceIn does it for one address space. If it fails, all is as it was but for
// what was brought back by then.
func (sys *swapSystem) bringSpaceIn(ctx context.Context, m *mm.MemoryManager) error {
	if len(sys.objects(m)) == 0 {
		return nil
	}
	sc, err := scan(ctx, m, false)
	if err != nil {
		return err
	}
	buf := make([]byte, bringPiece)
	for i := range sc.mappings {
		vm := &sc.mappings[i]
		for _, at := range sys.mappings(m, vm.ar) {
			for from := at.ar.Start; from < at.ar.End; from += bringPiece {
				piece := hostarch.AddrRange{Start: from, End: min(from+bringPiece, at.ar.End)}
				if err := bringPieceIn(ctx, m, vm, piece, buf[:piece.Length()]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func bringPieceIn(ctx context.Context, m *mm.MemoryManager, vm *scannedMapping, piece hostarch.AddrRange, buf []byte) error {
	opts := usermem.IOOpts{IgnorePermissions: true}
	if _, err := m.CopyIn(ctx, piece.Start, buf, opts); err != nil {
		return err
	}
	if _, err := m.MMap(ctx, vm.options(piece)); err != nil {
		return err
	}
	for at := 0; at < len(buf); at += hostarch.PageSize {
		page := buf[at : at+hostarch.PageSize]
		if isZeroPage(page) {
			continue
		}
		if _, err := m.CopyOut(ctx, piece.Start+hostarch.Addr(at), page, opts); err != nil {
			return err
		}
	}
	return nil
}

func isZeroPage(page []byte) bool {
	for _, b := range page {
		if b != 0 {
			return false
		}
	}
	return true
}
