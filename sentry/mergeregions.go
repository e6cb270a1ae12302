package sentry

import (
	"slices"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric"
	"aios.dev/aios/sentry/ctlfs"
	"aios.dev/aios/sentry/threeway"
)

// Regions that the copy has forked of such that its original may write are folded
// back into them, if they are named. What both share is one region: there is nothing
// to fold.

// folds folds the regions back that were asked for, or, with dry, finds out what
// that would change. They are to be kept or undone.
func (m *merging) folds(dry bool) (all []*fabric.Fold, err error) {
	defer func() {
		if err != nil {
			undoFolds(all)
			all = nil
		}
	}()
	m.regions = control.MergeReply{}
	names := slices.Clone(m.req.Regions)
	slices.Sort(names)
	into := make(map[string]string)
	for _, name := range slices.Compact(names) {
		from, err := m.s.fabric.Lookup(name)
		if err != nil {
			return all, err
		}
		base, _, forked := from.Base()
		if !forked || from.Owner() != m.theirs.id {
			return all, errdefs.New(errdefs.InvalidArgument, "it is no fork that the copy owns", errdefs.Op("merge"), errdefs.Resource("region %s", name),
				errdefs.Fix("what a copy has from its original is the same region; fork it for the copy with `aiosctl fabric fork --owner`"))
		}
		if other := into[base]; other != "" {
			return all, errdefs.New(errdefs.InvalidArgument, "it is a fork of the same region as "+other, errdefs.Op("merge"), errdefs.Resource("region %s", name),
				errdefs.Fix("name one of the two"))
		}
		into[base] = name
		if _, err := m.s.heldRegion(m.ours.id, base, abi.RegionWrite); err != nil {
			return all, err
		}
		r, err := m.s.fabric.Lookup(base)
		if err != nil {
			return all, err
		}
		f, err := r.Fold(from, m.req.Conflicts, dry, mostListed)
		if err != nil {
			return all, err
		}
		all = append(all, f)
		at := ctlfs.Mountpoint + "/fabric/" + base
		if f.Changed > 0 {
			m.regions.ChangeCount++
			m.regions.Changes = append(m.regions.Changes, control.MergeChange{Path: at, Change: "modified", Bytes: f.Changed})
		}
		for _, s := range f.Conflicts {
			m.regions.ConflictCount++
			if len(m.regions.Conflicts) < mostListed {
				m.regions.Conflicts = append(m.regions.Conflicts, control.MergeConflict{Path: at + " " + s.String(), Kind: string(threeway.Both)})
			}
		}
	}
	return all, nil
}

func undoFolds(all []*fabric.Fold) {
	for _, f := range all {
		f.Undo()
	}
}
