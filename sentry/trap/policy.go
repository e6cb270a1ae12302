package trap

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/errdefs"
)

// Rule is what to do, and when to do more.
type Rule struct {
	Action Action
	// After so many within the time, the action is Then. 0: never.
	After  uint32
	Within time.Duration
	Then   Action
}

// Bounds of a rule's escalation.
const (
	maxAfter  = 1_000_000
	maxWithin = 24 * time.Hour
)

// String is the rule's text: "freeze", or "deliver,20/1s:kill-agent".
func (r Rule) String() string {
	text := r.Action.String()
	if r.After > 0 {
		text += "," + strconv.Itoa(int(r.After)) + "/" + r.Within.String() + ":" + r.Then.String()
	}
	return text
}

func parseRule(text string, u Use) (r Rule, err error) {
	first, more, escalates := strings.Cut(text, ",")
	if r.Action, err = parseAction(first, u); err != nil || !escalates {
		return r, err
	}
	rate, then, ok1 := strings.Cut(more, ":")
	count, within, ok2 := strings.Cut(rate, "/")
	n, err1 := strconv.ParseUint(count, 10, 32)
	d, err2 := time.ParseDuration(within)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || n == 0 || n > maxAfter || d <= 0 || d > maxWithin {
		return r, errdefs.New(errdefs.InvalidArgument, "it does not say when to do more", errdefs.Resource("%q", text),
			errdefs.Fix("write ACTION,COUNT/TIME:ACTION, such as deliver,20/1s:kill-agent; at most %d in %v", maxAfter, maxWithin))
	}
	r.After, r.Within = uint32(n), d
	if r.Then, err = parseAction(then, u); err != nil {
		return r, err
	}
	if r.Then.Info().Scope < r.Action.Info().Scope || r.Then == r.Action {
		return r, errdefs.New(errdefs.InvalidArgument, "the second action must be a harder one", errdefs.Resource("%q", text),
			errdefs.Fix("turn them round: the first is for what happens seldom"))
	}
	return r, nil
}

// FaultPolicy is what an agent's owner wants done about exceptions. Its zero
// value delivers all.
type FaultPolicy struct {
	rules [VectorCount]Rule
}

// Rule returns the rule for an exception.
func (p *FaultPolicy) Rule(v Vector) Rule {
	if v >= VectorCount {
		return Rule{}
	}
	return p.rules[v]
}

// Plain reports whether every exception is delivered, and nothing else done.
func (p *FaultPolicy) Plain() bool { return *p == FaultPolicy{} }

// Exceptionless reports whether every exception of the CPU is delivered: what it
// says of lockups may be anything.
func (p *FaultPolicy) Exceptionless() bool {
	q := *p
	q.rules[NMI] = Rule{}
	return q.Plain()
}

// ParseFaults reads a policy: each text is [EXCEPTION=]RULE; one without an
// exception is for all that none names, but for breakpoints and single steps,
// which are a debugger's, and for lockups, which are not the program's fault
// alone.
func ParseFaults(texts []string) (FaultPolicy, error) {
	var p FaultPolicy
	var named [VectorCount]bool
	var rest Rule
	for _, text := range texts {
		key, rule, one := strings.Cut(text, "=")
		if !one {
			rule = text
		}
		r, err := parseRule(rule, OnFault)
		if err != nil {
			return p, err
		}
		if !one {
			if r.Action == Ignore {
				return p, onlyAlignment(text)
			}
			rest = r
			continue
		}
		v, err := ParseVector(key)
		if err != nil {
			return p, err
		}
		if v != AlignmentCheck && (r.Action == Ignore || r.Then == Ignore) {
			return p, onlyAlignment(text)
		}
		p.rules[v], named[v] = r, true
	}
	for _, i := range vectors {
		if v := i.Vector; !named[v] && v != Breakpoint && v != Debug && v != NMI {
			p.rules[v] = rest
		}
	}
	return p, nil
}

func onlyAlignment(text string) error {
	return errdefs.New(errdefs.InvalidArgument, "only alignment-check can be ignored", errdefs.Resource("%q", text),
		errdefs.Fix("an instruction that raises another exception has not been executed: use deliver"))
}

// Violation is a kind of thing that an agent must not do.
type Violation uint8

// Kinds of violations: of the capability classes, and those that no capability
// allows.
const (
	ViolatesFS Violation = iota
	ViolatesNet
	ViolatesMem
	ViolatesCPU
	ViolatesIO
	ViolatesProc
	ViolatesAgent
	ViolatesSys
	ViolatesEvent
	ViolatesSvc
	ViolatesExec    // make memory executable
	ViolatesSeccomp // a system call that its seccomp profile refuses
	ViolatesEscape  // what no agent may do, and nobody does by mistake
	ViolatesCap     // use authority that it does not hold, through /aios

	// ViolationCount is how many kinds there are.
	ViolationCount
)

// ViolationInfo is what is known of a kind of violation.
type ViolationInfo struct {
	Violation Violation
	Name      string
	Meaning   string
}

var violations = [ViolationCount]ViolationInfo{
	{ViolatesFS, "fs", "use a file without the right to it"},
	{ViolatesNet, "net", "use the network without the right to it"},
	{ViolatesMem, "mem", "take memory without the right to any"},
	{ViolatesCPU, "cpu", "use processor time without the right to any"},
	{ViolatesIO, "io", "read or write without the right to"},
	{ViolatesProc, "proc", "make, signal or trace processes without the right to"},
	{ViolatesAgent, "agent", "act on another agent without the right to"},
	{ViolatesSys, "sys", "make a privileged system call without the right to"},
	{ViolatesEvent, "event", "hear of events without the right to"},
	{ViolatesSvc, "svc", "use a service without the right to"},
	{ViolatesExec, "wx", "make memory executable that no file backs, or that can be written"},
	{ViolatesSeccomp, "seccomp", "make a system call that its seccomp profile refuses"},
	{ViolatesEscape, "escape", "do what no capability allows: administer the machine, reach into another agent"},
	{ViolatesCap, "cap", "hand on or take back authority that it does not hold"},
}

// Violations returns every kind. The caller must not change it.
func Violations() []ViolationInfo { return violations[:] }

// String is the kind's name.
func (v Violation) String() string {
	if v >= ViolationCount {
		return "?"
	}
	return violations[v].Name
}

// ParseViolation reads the name of a kind.
func ParseViolation(text string) (Violation, error) {
	var names []string
	for _, i := range violations {
		if i.Name == text {
			return i.Violation, nil
		}
		names = append(names, i.Name)
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "no kind of violation has that name", errdefs.Resource("%q", text),
		errdefs.Fix("the kinds are: %s", strings.Join(names, ", ")))
}

// ViolationPolicy is what is done about violations, besides refusing them. Its
// zero value does no more than that: see ParseViolations.
type ViolationPolicy struct {
	rules [ViolationCount]Rule
}

// Rule returns the rule for a kind of violation.
func (p *ViolationPolicy) Rule(v Violation) Rule {
	if v >= ViolationCount || p.rules[v].Action == Deliver {
		return Rule{Action: Deny}
	}
	return p.rules[v]
}

// Plain reports whether violations are refused, and nothing else done.
func (p *ViolationPolicy) Plain() bool {
	for v := range ViolationCount {
		if r := p.Rule(v); r.Action != Deny || r.After > 0 {
			return false
		}
	}
	return true
}

// ParseViolations reads a policy: each text is [KIND=]RULE; one without a kind
// is for all that none names.
func ParseViolations(texts []string) (ViolationPolicy, error) {
	var p ViolationPolicy
	var named [ViolationCount]bool
	rest := Rule{Action: Deny}
	for _, text := range texts {
		key, rule, one := strings.Cut(text, "=")
		if !one {
			rule = text
		}
		r, err := parseRule(rule, OnViolation)
		if err != nil {
			return p, err
		}
		if !one {
			rest = r
			continue
		}
		v, err := ParseViolation(key)
		if err != nil {
			return p, err
		}
		p.rules[v], named[v] = r, true
	}
	for v := range p.rules {
		if !named[v] {
			p.rules[v] = rest
		}
	}
	return p, nil
}

// ParseWatchdog reads the rule for a watchdog that expires; "" is kill-agent.
func ParseWatchdog(text string) (Rule, error) {
	if text == "" {
		return Rule{Action: KillAgent}, nil
	}
	return parseRule(text, OnWatchdog)
}

// ParseOOM reads the rule for memory that runs out; "" is kill-agent.
func ParseOOM(text string) (Rule, error) {
	if text == "" {
		return Rule{Action: KillAgent}, nil
	}
	return parseRule(text, OnOOM)
}

// Restarts reports whether the rule may start the agent again.
func (r Rule) Restarts() bool { return r.Action == Restart || r.After > 0 && r.Then == Restart }

// Restarts reports whether a rule of the policy may start the agent again.
func (p *FaultPolicy) Restarts() bool { return slices.ContainsFunc(p.rules[:], Rule.Restarts) }

// Restarts reports whether a rule of the policy may start the agent again.
func (p *ViolationPolicy) Restarts() bool { return slices.ContainsFunc(p.rules[:], Rule.Restarts) }
