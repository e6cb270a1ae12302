package capability

import (
	"aios.dev/aios/errdefs"
)

// Remaining returns the limits of c less what its live children have of them.
// Where c has no limit it is 0, and where nothing is left it is 0 too; Left
// tells the two apart.
func (c *Capability) Remaining() Limits {
	var out Limits
	for k := range Kind(kinds) {
		v, _ := c.Left(k)
		out.Set(k, v)
	}
	return out
}

// Left returns what c itself may still use of a limit; limited is false if c
// has no such limit.
func (c *Capability) Left(k Kind) (left uint64, limited bool) {
	own := c.spec.Load().Limits.Get(k)
	if own == 0 {
		return 0, false
	}
	return own - min(own, c.carved[k].Load()), true
}

// carve takes the limits of a new child from c. It needs Space.mu.
func (c *Capability) carve(child *Limits) {
	c.shift(child, func(have, part uint64) uint64 { return have + part })
}

// giveBack returns the limits of a child that is no more. It needs Space.mu.
func (c *Capability) giveBack(child *Limits) {
	c.shift(child, func(have, part uint64) uint64 { return have - part })
}

func (c *Capability) shift(child *Limits, f func(have, part uint64) uint64) {
	own := &c.spec.Load().Limits
	any := false
	for k := range Kind(kinds) {
		part := child.Get(k)
		if part == 0 || own.Get(k) == 0 || !k.Divisible() {
			continue
		}
		c.carved[k].Store(f(c.carved[k].Load(), part))
		any = true
	}
	if any && c.table != nil {
		c.table.version.Add(1)
	}
}

// share returns the limits of a child of c. want is nil for all that is left;
// if it is not, it says every limit that c has. A child that cannot spend needs
// none.
func (c *Capability) share(want *Limits, child *Spec) (Limits, error) {
	var out Limits
	parent := c.spec.Load()
	for _, key := range keysOf(parent.Object.Class) {
		k := key.kind
		own := parent.Limits.Get(k)
		var v uint64
		if want != nil {
			v = want.Get(k)
		}
		if own == 0 {
			if k.Beyond(own, v) {
				return out, exceed(c, key.name+"="+key.format(v)+" is more than it has, which is what is usual", "leave out "+key.name+", or ask whoever gave it for more")
			}
			out.Set(k, v)
			continue
		}
		left, _ := c.Left(k)
		switch {
		case v > own:
			return out, exceed(c, key.name+"="+key.format(v)+" is more than it has, "+key.format(own), "ask for at most "+key.format(left))
		case !k.Divisible():
			if v == 0 {
				v = own
			}
		case v == 0 && k.optional():
			if want == nil && child.spends() {
				v = left
			}
		case v > left || v == 0 && left == 0 && child.spends():
			return out, errdefs.New(errdefs.BudgetExhausted, "of its "+key.name+"="+key.format(own)+" only "+key.format(left)+" is left",
				errdefs.Resource("%s", c.id), errdefs.Fix("ask for at most that, or revoke what was derived from it before"))
		case v == 0 && child.spends():
			if want != nil {
				return out, errdefs.New(errdefs.CapabilityInvalid, "its limit "+key.name+" has to be divided",
					errdefs.Resource("%s", c.id), errdefs.Fix("say %s=N, at most %s", key.name, key.format(left)))
			}
			v = left
		}
		out.Set(k, v)
	}
	if want != nil {
		extra := *want
		for _, key := range keysOf(parent.Object.Class) {
			extra.Set(key.kind, 0)
		}
		if extra != (Limits{}) {
			return out, invalid(parent.Object.String(), "it has a limit that class "+parent.Object.Class.String()+" does not know", "its keys are "+parent.keys())
		}
	}
	return out, nil
}

func exceed(c *Capability, detail, fix string) error {
	return errdefs.New(errdefs.RightsExceed, detail, errdefs.Resource("%s", c.id), errdefs.Fix("%s", fix))
}
