package daemon

import (
	"context"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
)

// grantsOf turns what a spawn asks for into grants: what the agent is made of
// first, with the defaults where it asked for nothing, then directories, then
// the rest.
func (dom *domain) grantsOf(ctx context.Context, req *apiv1.SpawnRequest) ([]control.Grant, error) {
	given, err := givenBy(req)
	if err != nil {
		return nil, err
	}
	own, err := selfGrants(req.GetLimits(), given)
	if err != nil {
		return nil, err
	}
	return dom.openGrants(ctx, slices.Concat(own, given), "")
}

// givenBy is what a spawn asks for explicitly.
func givenBy(req *apiv1.SpawnRequest) ([]capability.Spec, error) {
	texts := slices.Clone(req.GetGrants())
	for _, m := range req.GetMounts() {
		s := capability.Spec{
			Object: capability.Object{Class: abi.ClassFS, Name: filepath.Clean(m.GetSource())},
			Rights: abi.FSRead | abi.FSExec, At: m.GetTarget(),
		}
		if m.GetWritable() {
			s.Rights = abi.ClassFS.All()
		}
		texts = append(texts, s.String())
	}
	return parseGrants(texts)
}

func parseGrants(texts []string) ([]capability.Spec, error) {
	specs := make([]capability.Spec, len(texts))
	for i, t := range texts {
		s, err := capability.ParseSpec(t)
		if err != nil {
			return nil, err
		}
		specs[i] = s
	}
	return specs, nil
}

// boundMemory has limits of memory and swap that were asked for bound what is granted
// of them, too: grants that say nothing of a limit would have none.
func boundMemory(req *apiv1.SpawnRequest) error {
	bytes, swap := req.GetLimits().GetMemoryBytes(), req.GetLimits().GetSwapBytes()
	given, err := parseGrants(req.GetGrants())
	if err != nil {
		return err
	}
	first, sum := -1, uint64(0)
	for i, s := range given {
		if !givesMemory(s) {
			continue
		}
		if first < 0 {
			first = i
		}
		if n := s.Limits.Bytes; n == 0 || sum > capability.MaxLimit {
			sum = math.MaxUint64
		} else if sum != math.MaxUint64 {
			sum += n
		}
	}
	if first < 0 {
		return nil
	}
	s := &given[first]
	both := func(flag string) error {
		return errdefs.New(errdefs.InvalidArgument, "both a limit of "+flag+" and the grant "+s.String()+" are given",
			errdefs.Fix("give one of them"))
	}
	if bytes != 0 && sum > bytes {
		if slices.ContainsFunc(given[first+1:], givesMemory) {
			return both("memory") // Which of them is to be less?
		}
		s.Limits.Bytes = bytes
	}
	if swap != 0 && swap != s.Limits.Swap {
		if s.Limits.Swap != 0 {
			return both("swap")
		}
		s.Limits.Swap = swap
	}
	req.Grants[first] = s.String()
	return nil
}

// selfGrants are what an agent is made of: memory, processes, CPU time, I/O, and
// to hear of itself, unless it was given some explicitly.
func selfGrants(l *apiv1.Limits, given []capability.Spec) ([]capability.Spec, error) {
	var out []capability.Spec
	for _, own := range []struct {
		class  abi.Class
		rights abi.Rights // a given one that speaks of any of them counts
		limits capability.Limits
		asked  bool
		flag   string
	}{
		{abi.ClassMem, abi.MemMap | abi.MemExec, capability.Limits{Bytes: l.GetMemoryBytes(), Swap: l.GetSwapBytes()}, false, "memory"},
		{abi.ClassProc, abi.ProcSpawn | abi.ProcExec | abi.ProcSignal, capability.Limits{Count: uint64(l.GetProcesses())}, false, "pids"},
		{abi.ClassCPU, abi.CPURun, capability.Limits{MilliCPU: l.GetMilliCpu()}, l.GetMilliCpu() != 0, "cpu"},
		{abi.ClassIO, abi.ClassIO.All(), capability.Limits{BytesPerSec: l.GetIoBytesPerSec(), OpsPerSec: l.GetIoOpsPerSec()},
			l.GetIoBytesPerSec() != 0 || l.GetIoOpsPerSec() != 0, "bps or ops"},
		{abi.ClassEvent, abi.EventSubscribe, capability.Limits{}, false, ""},
	} {
		object := ownObject(own.class)
		i := slices.IndexFunc(given, func(s capability.Spec) bool { return object.Contains(s.Object) && s.Rights&own.rights != 0 })
		if i >= 0 && own.asked {
			return nil, errdefs.New(errdefs.InvalidArgument, "both a limit of "+own.flag+" and the grant "+given[i].String()+" are given",
				errdefs.Fix("give one of them"))
		}
		if i < 0 {
			out = append(out, capability.Spec{
				Object: object, Rights: own.rights, Limits: own.limits,
			})
		}
	}
	return out, nil
}

// ownObject is all that is the agent's own of a class.
func ownObject(class abi.Class) capability.Object {
	if class == abi.ClassEvent {
		return capability.Object{Class: class, Name: "*@self"}
	}
	return capability.Object{Class: class, Name: "self"}
}

// openGrants gives the kernel process the directories that grants speak of,
// and finds the agents that they name. The directories are parts of the
// directory within; "" is for a user who may name any.
func (dom *domain) openGrants(ctx context.Context, specs []capability.Spec, within string) ([]control.Grant, error) {
	if within == "" && bearerFrom(ctx) != nil {
		within = "/"
	}
	out := make([]control.Grant, 0, len(specs))
	for _, s := range specs {
		g := control.Grant{}
		switch s.Object.Class {
		case abi.ClassFS:
			key, err := dom.directory(ctx, s, within)
			if err != nil {
				return nil, errdefs.Wrap(err, errdefs.HostIO, "grant", errdefs.Resource("%s", s))
			}
			g.Key = key
		case abi.ClassAgent:
			var err error
			if s.Object, err = dom.d.namedByID(s.Object); err != nil {
				return nil, err
			}
		case abi.ClassSys:
			if names := abi.SysNames(); !slices.Contains(names, s.Object.Name) {
				return nil, errdefs.New(errdefs.CapabilityInvalid, "there is no such group of system calls", errdefs.Op("grant"),
					errdefs.Resource("%s", s), errdefs.Fix("grant sys: and one of "+strings.Join(names, ", ")))
			}
		case abi.ClassMem:
			if b := s.Limits.Bytes; b != 0 && b < leastMemory && s.Rights.Has(abi.MemMap) {
				return nil, errdefs.New(errdefs.CapabilityInvalid, "no program runs in so little memory", errdefs.Op("grant"),
					errdefs.Resource("%s", s), errdefs.Fix("give at least 1M; a number without a unit is bytes"))
			}
			if err := checkSwap("grant", s.Limits.Swap); err != nil {
				return nil, err
			}
		case abi.ClassEvent:
			var err error
			if s.Object, err = dom.eventsOf(s.Object); err != nil {
				return nil, err
			}
		case abi.ClassSvc:
			return nil, errdefs.New(errdefs.Unsupported, "this version has no door for "+s.Object.Class.String(), errdefs.Op("grant"),
				errdefs.Resource("%s", s))
		}
		g.Spec = s.String()
		out = append(out, g)
	}
	return out, nil
}

// namedByID puts the ID of an agent in the place of its name in the object of a
// grant: names are used again.
func (d *System) namedByID(o capability.Object) (capability.Object, error) {
	name, before := o.Name, ""
	switch o.Class {
	case abi.ClassAgent:
		if name == "*" {
			return o, nil
		}
	case abi.ClassEvent:
		if before, name = o.Topic(); name == "" || name == "self" {
			return o, nil
		}
		before += "@"
	default:
		return o, nil
	}
	r, err := d.find(name)
	if err != nil {
		return o, err
	}
	o.Name = before + r.id
	return o, nil
}

// eventsOf examines the object of a grant of events in the domain.
func (dom *domain) eventsOf(o capability.Object) (capability.Object, error) {
	topic, whose := o.Topic()
	if _, err := event.Select([]string{topic}); err != nil {
		return o, err
	}
	if whose == "" || whose == "self" {
		return o, nil
	}
	r, err := dom.d.find(whose)
	if err != nil {
		return o, err
	}
	if r.domName != dom.name {
		return o, errdefs.New(errdefs.Unsupported, "the agent is in the domain "+r.domName+", and an agent reads the events of its own domain, "+dom.name,
			errdefs.Op("grant"), errdefs.Resource("%s", o), errdefs.Fix("spawn both in one domain, or watch from outside: aiosctl events --agent %s", whose))
	}
	return dom.d.namedByID(o)
}

// directory makes the directory of a grant known to the kernel process.
func (dom *domain) directory(ctx context.Context, s capability.Spec, within string) (key string, err error) {
	dir, err := dirWithin(within, s.Object.Name)
	if err != nil {
		return "", err
	}
	dom.startMu.Lock()
	defer dom.startMu.Unlock()
	change := s.Rights & (abi.FSWrite | abi.FSCreate | abi.FSDelete)
	return dom.gofer(ctx, dir, change == 0)
}
