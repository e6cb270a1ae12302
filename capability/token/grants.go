package token

import (
	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
)

// kinds are the limits.
var kinds = [...]capability.Kind{capability.KindBytes, capability.KindCount, capability.KindMilliCPU,
	capability.KindWeight, capability.KindBytesPerSec, capability.KindOpsPerSec,
	capability.KindBurst, capability.KindReserve, capability.KindPriority, capability.KindIdle, capability.KindSwap}

// allowance is a grant of a token while a request is held against it.
type allowance struct {
	spec capability.Spec
	used capability.Limits
}

// exceeding returns the first spec that the grants do not cover, and why: ""
// when there is none. Each spec is taken out of the first grant that has room
// for it.
func exceeding(grants []string, specs []capability.Spec) (spec, why string) {
	list := make([]allowance, 0, len(grants))
	for _, g := range grants {
		if s, err := capability.ParseSpec(g); err == nil { // Always: Parse has checked it.
			list = append(list, allowance{spec: s})
		}
	}
	for _, s := range specs {
		why := ""
		taken := false
		for i := range list {
			reason := list[i].take(s)
			if taken = reason == ""; taken {
				break
			}
			if reason != apart {
				why = ": " + reason
			}
		}
		if !taken {
			if why == "" {
				why = ": no grant of it is about that"
			}
			return s.String(), why
		}
	}
	return "", ""
}

// apart is the reason of a grant that is about something else.
const apart = "another object"

// take takes s out of the grant and returns "", or why it cannot.
func (g *allowance) take(s capability.Spec) (why string) {
	switch {
	case !g.spec.Object.Contains(s.Object):
		return apart
	case !g.spec.Rights.Has(s.Rights):
		return "it lacks " + (s.Rights &^ g.spec.Rights).Format(s.Object.Class)
	case g.spec.Sealed && !s.Sealed:
		return "what it gives must be sealed"
	case g.spec.Badge != 0 && s.Badge != g.spec.Badge:
		return "what it gives has another badge"
	case g.spec.Lease != 0 && (s.Lease == 0 || s.Lease > g.spec.Lease):
		return "what it gives must have a lease of " + g.spec.Lease.String() + " at most"
	case s.Object.Class == abi.ClassFS && s.Rights&(abi.FSWrite|abi.FSCreate) == 0:
		return "" // Nothing of its limits can be used.
	}
	used := g.used
	for _, k := range kinds {
		have, want := g.spec.Limits.Get(k), s.Limits.Get(k)
		switch {
		case k.Beyond(have, want), have != 0 && want > have-used.Get(k):
			return "its limit is exceeded"
		case have == 0:
			continue
		case want != 0:
		case k == capability.KindReserve || k == capability.KindPriority || k == capability.KindBurst || k == capability.KindSwap:
			continue // That is less.
		default:
			return "its limit must be said"
		}
		if k.Divisible() {
			used.Set(k, used.Get(k)+want)
		}
	}
	g.used = used
	return ""
}
