package sentry

import (
	"math/bits"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// A copy's authority is derived from its original's, capability by capability:
// whoever gave it to the original can take it from both. Amounts are divided: what
// the copies get the original has less. A copy outlives its original, and its
// authority with it.

// inherit gives the copy its part of what the original may do, when rest copies,
// this one among them, are still to be made. Files are opened later.
func (c *copying) inherit(rest uint64, by capability.Actor) (files []inherited, err error) {
	space := c.s.space
	if err := space.AddHolder(c.dst.id); err != nil {
		return nil, err
	}
	tasks := uint64(len(c.f.twins))
	if c.f.split != nil {
		tasks++ // Their first process.
	}
	for _, old := range space.List(c.src.id) {
		spec := old.Spec()
		if !old.Live() || spec.Sealed {
			continue
		}
		if topic, whose := spec.Object.Topic(); spec.Object.Class == abi.ClassEvent && whose == c.src.id {
			spec.Object.Name = topic + "@" + c.dst.id
			if _, err := space.Mint(c.dst.id, spec, by); err != nil {
				return nil, err
			}
			continue
		}
		limits, err := c.part(old, &spec, rest, tasks)
		if err != nil {
			return nil, err
		}
		for _, change := range c.f.only.changes(&spec, limits) {
			made, err := space.Inherit(old, c.dst.id, change, by)
			if err != nil {
				return nil, errdefs.Wrap(err, errdefs.CapabilityDenied, "give the copy "+spec.String())
			}
			if spec.Object.Class == abi.ClassFS {
				files = append(files, inherited{old, made})
			}
		}
	}
	if err := c.f.only.complete(); err != nil {
		return nil, err
	}
	if c.f.only != nil && c.f.split == nil || space.HolderClosed(c.src.id) {
		space.CloseHolder(c.dst.id)
	}
	return files, nil
}

// inherited is a capability of the original, and what the copy has of it.
type inherited struct{ old, made *capability.Capability }

// part returns a copy's part of the limits of a capability.
func (c *copying) part(old *capability.Capability, spec *capability.Spec, rest, tasks uint64) (*capability.Limits, error) {
	if spec.Limits == (capability.Limits{}) {
		return nil, nil
	}
	limits := spec.Limits
	for k := capability.KindBytes; k <= capability.KindLast; k++ {
		left, limited := old.Left(k)
		if !limited || !k.Divisible() {
			continue
		}
		used, least, what := uint64(0), uint64(1), ""
		switch {
		case spec.Object.Class == abi.ClassMem && k == capability.KindBytes:
			// Pages that both have are counted once.
			used, least, what = memoryOf(c.src), leastCopyMemory, "memory"
		case spec.Object.Class == abi.ClassProc && k == capability.KindCount:
			used, least, what = c.f.split.beside(tasks, c.src), tasks, "processes"
		case k == capability.KindSwap:
			// What is there stays the original's.
			used, least = c.src.swapUse().File, 0
		}
		part := portion(left, used, rest, c.f.split.share())
		if part < least {
			return nil, errdefs.New(errdefs.BudgetExhausted, strings.TrimSpace("what is left of "+spec.String()+" is too little for another copy"+of(what)),
				errdefs.Op("clone"), errdefs.Resource("%s", c.src.id), errdefs.Fix("end copies that are not needed, or grant the agent more"))
		}
		limits.Set(k, part)
	}
	return &limits, nil
}

// portion is what each of rest copies gets of what is left to their original, which
// keeps what it uses: an equal part, or if percent is not 0 as much as that.
func portion(left, used, rest, percent uint64) uint64 {
	part := left / (rest + 1)
	if percent > 0 {
		hi, lo := bits.Mul64(left, percent)
		part, _ = bits.Div64(hi, lo, 100)
	}
	return min(part, (left-min(left, used))/rest)
}

func of(what string) string {
	if what == "" {
		return ""
	}
	return ": " + what
}

// leastCopyMemory is the least memory that a copy can do anything with.
const leastCopyMemory = 4 << 20

// open opens the files that the copy may use.
func (c *copying) open(files []inherited) error {
	for _, x := range files {
		from, open := c.s.holdGrantOf(x.old)
		if !open {
			return errdefs.New(errdefs.CapabilityRevoked, "what it opens is gone", errdefs.Resource("%s", x.old.ID()))
		}
		err := c.dst.openDerived(x.made, from, false)
		from.dir.DecRef(c.ctx)
		if err != nil {
			return err
		}
	}
	return nil
}
