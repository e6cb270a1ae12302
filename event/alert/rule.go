package alert

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
)

// Kind is what a rule looks at.
type Kind uint8

// Kinds of rules.
const (
	KindCounter Kind = iota // a threshold of a counter
	KindValue               // a threshold of a number in events
	KindRate
	KindAbsence
)

// String returns the kind as the configuration calls it.
func (k Kind) String() string {
	switch k {
	case KindRate:
		return "rate"
	case KindAbsence:
		return "absence"
	}
	return "threshold"
}

// By is what has a state of its own.
type By uint8

// Ways to group.
const (
	ByAgent By = iota
	ByDomain
	ByNone
)

// String returns the way as the configuration calls it.
func (b By) String() string { return [...]string{"agent", "domain", "none"}[b] }

// Rule is a rule that can be put to work. It does not change.
type Rule struct {
	cfg      Config
	kind     Kind
	by       By
	types    event.Set
	filter   *filter.Filter
	value    *filter.Value
	counter  Counter
	severity event.Severity
	// below turns what is compared around: all is then as if it were above.
	below        bool
	limit, clear float64
	within       int64
	forNS, hold  int64
}

// about are the types that rules make: none looks at them, or it would feed
// itself.
var about = event.SetOf(event.AlertFire, event.AlertResolve)

// Compile examines a configuration. If something is wrong, key says which
// value.
func (c *Config) Compile() (r *Rule, key string, err error) {
	if key, err := c.checkPlain(); err != nil {
		return nil, key, err
	}
	r = &Rule{cfg: *c, forNS: int64(c.For), hold: int64(c.Hold)}
	switch c.By {
	case "domain":
		r.by = ByDomain
	case "none":
		r.by = ByNone
	}
	for i, pattern := range c.On {
		set, err := event.Select([]string{pattern})
		if err == nil && set.Without(about).Empty() {
			err = bad("alerts are not made of alerts", "name other topics")
		}
		if err != nil {
			return nil, fmt.Sprintf("on[%d]", i), err
		}
		r.types = r.types.Or(set.Without(about))
	}
	if r.severity, err = event.ParseSeverity(c.Severity); err != nil {
		return nil, "severity", err
	}
	if c.Filter != "" {
		if r.filter, err = filter.Compile(c.Filter); err != nil {
			return nil, "filter", err
		}
	}
	if key, err := r.compileKind(); err != nil {
		return nil, key, err
	}
	if r.below {
		r.limit, r.clear = -r.limit, -r.clear
	}
	return r, "", nil
}

// compileKind takes over what is particular to the kind.
func (r *Rule) compileKind() (key string, err error) {
	orLimit := func(n *Number) float64 {
		if n == nil {
			return r.limit
		}
		return float64(*n)
	}
	switch c := &r.cfg; {
	case c.Rate != nil:
		r.kind, r.limit, r.within = KindRate, float64(*c.Rate.Above), int64(c.Rate.Within)
		r.clear = orLimit(c.Rate.Clear)
		if c.Rate.Value != "" {
			if r.value, err = filter.CompileValue(c.Rate.Value); err != nil {
				return "rate.value", err
			}
		}
	case c.Absence != nil:
		r.kind, r.limit = KindAbsence, c.Absence.After.Seconds()
		r.within = int64(c.Absence.After)
	default:
		t := c.Threshold
		if r.below = t.Below != nil; r.below {
			r.limit = float64(*t.Below)
		} else {
			r.limit = float64(*t.Above)
		}
		r.clear = orLimit(t.Clear)
		if t.Counter != "" {
			r.kind = KindCounter
			if r.counter, err = parseCounter(t.Counter); err != nil {
				return "threshold.counter", err
			}
			return "", nil
		}
		r.kind, r.within = KindValue, int64(t.Within)
		if r.value, err = filter.CompileValue(t.Value); err != nil {
			return "threshold.value", err
		}
	}
	return "", nil
}

// Name is that of the rule.
func (r *Rule) Name() string { return r.cfg.Name }

// Kind is what it looks at.
func (r *Rule) Kind() Kind { return r.kind }

// By is what has a state of its own.
func (r *Rule) By() By { return r.by }

// Severity is that of its alerts.
func (r *Rule) Severity() event.Severity { return r.severity }

// Note is what the configuration says of it, for people.
func (r *Rule) Note() string { return r.cfg.Note }

// Filter is the expression that chooses events, "" for none.
func (r *Rule) Filter() string { return r.cfg.Filter }

// Actions are what is done while it holds; nil for nothing.
func (r *Rule) Actions() *Actions { return r.cfg.Actions }

// Hold is how long it must not hold before it is resolved.
func (r *Rule) Hold() time.Duration { return r.cfg.Hold }

// Same reports whether two rules are the same in everything.
func (r *Rule) Same(o *Rule) bool { return reflect.DeepEqual(r.cfg, o.cfg) }

// Print tells one version of a rule from others.
func (r *Rule) Print() string {
	text, err := json.Marshal(r.cfg)
	if err != nil { // There is nothing in it that JSON cannot say.
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Every is how often the rule wants counters sampled, and 0 when it wants none.
func (r *Rule) Every() time.Duration {
	if r.kind != KindCounter {
		return 0
	}
	return r.cfg.Threshold.Every
}

// Topics are the topics of the events that it looks at.
func (r *Rule) Topics() []string { return r.types.Topics() }

// Of is what the rule looks at, in few words.
func (r *Rule) Of() string {
	switch {
	case r.kind == KindCounter:
		return r.counter.String()
	case r.kind == KindValue:
		return r.cfg.Threshold.Value
	case r.value != nil:
		return r.cfg.Rate.Value + " of " + strings.Join(r.cfg.On, ", ")
	}
	return strings.Join(r.cfg.On, ", ")
}

// Limit is what must not be passed, and whether it is a lower bound.
func (r *Rule) Limit() (limit float64, below bool) { return r.turned(r.limit), r.below }

// turned is a number as people see it.
func (r *Rule) turned(v float64) float64 {
	if r.below {
		return -v
	}
	return v
}

// Condition is when the rule holds, in few words.
func (r *Rule) Condition() string {
	limit, below := r.Limit()
	text := ""
	switch r.kind {
	case KindAbsence:
		return "no " + r.Of() + " for " + config.FormatDuration(r.cfg.Absence.After)
	case KindRate:
		text = fmt.Sprintf("%s > %s in %s", r.Of(), r.show(limit), config.FormatDuration(r.cfg.Rate.Within))
	default:
		sign := ">"
		if below {
			sign = "<"
		}
		text = fmt.Sprintf("%s %s %s", r.Of(), sign, r.show(limit))
	}
	if r.cfg.For > 0 {
		text += " for " + config.FormatDuration(r.cfg.For)
	}
	return text
}

// Reason says why it holds, or holds no longer, with what was looked at last.
func (r *Rule) Reason(value float64, firing bool) string {
	limit, below := r.Limit()
	than := "more than "
	if below {
		than = "less than "
	}
	if !firing {
		than = "and the limit is "
	}
	switch r.kind {
	case KindAbsence:
		if firing {
			return "there was no " + r.Of() + " for " + config.FormatDuration(r.cfg.Absence.After)
		}
		return "there is " + r.Of() + " again"
	case KindRate:
		return fmt.Sprintf("%s in %s: %s, %s%s", r.Of(), config.FormatDuration(r.cfg.Rate.Within), r.show(value), than, r.show(limit))
	}
	return fmt.Sprintf("%s is %s, %s%s", r.Of(), r.show(value), than, r.show(limit))
}

// Show writes a number of what the rule looks at for people.
func (r *Rule) Show(v float64) string {
	if r.kind == KindAbsence {
		return time.Duration(v * float64(time.Second)).Round(10 * time.Millisecond).String()
	}
	return r.show(v)
}

func (r *Rule) show(v float64) string {
	if r.kind != KindCounter || !r.counter.Bytes() || v < 1024 {
		return plain(v)
	}
	for _, unit := range []string{"KiB", "MiB", "GiB"} {
		if v /= 1024; v < 1024 || unit == "GiB" {
			return plain(v) + " " + unit
		}
	}
	return ""
}

// plain writes a number with at most three digits behind the point.
func plain(v float64) string {
	return strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64)
}
