package command

import (
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// specKeys are the keys that a grant has as well, which reads their values.
var specKeys = []string{"quota", "bytes", "inodes", "count", "cpu", "weight", "bps", "ops", "at", "lease", "badge"}

// Change returns what the command wants to be different from of, which is what
// the capability says now. What is not said stays; of limits, see
// capability.Change.
func (c *Command) Change(of capability.Spec) (capability.Change, error) {
	var out capability.Change
	want, err := c.wanted(of)
	if err != nil {
		return out, errdefs.Wrap(err, errdefs.InvalidArgument, string(c.Verb))
	}
	said := func(key string) bool { return c.keys[key] != "" }
	if said("object") {
		out.Object = &want.Object.Name
	}
	if said("rights") {
		out.Rights = &want.Rights
	}
	if want.Limits != (capability.Limits{}) {
		out.Limits = &want.Limits
	}
	if said("at") {
		at := want.Target()
		out.At = &at
	}
	if said("lease") {
		out.Lease = &want.Lease
	}
	if said("badge") {
		out.Badge = &want.Badge
	}
	out.Sealed = c.sealed
	return out, nil
}

// wanted reads the keys as the text of a grant of the same class. Whatever
// they do not say has some value that Change ignores.
func (c *Command) wanted(of capability.Spec) (capability.Spec, error) {
	object, rights := of.Object.String(), "all"
	if name, said := c.keys["object"]; said {
		object = of.Object.Class.String() + ":" + name
	}
	if r, said := c.keys["rights"]; said {
		rights = r
	}
	text := object + ":" + rights
	for _, k := range specKeys {
		if v, said := c.keys[k]; said {
			text += "," + k + "=" + v
		}
	}
	for k, v := range c.keys {
		// They would say something about another key.
		if strings.Contains(v, ",") || k != "object" && strings.Contains(v, ":") {
			return capability.Spec{}, bad("%s=%s holds a ',' or ':'", k, clip(v)).With(errdefs.Fix("write them as %%2C and %%3A"))
		}
	}
	return capability.ParseSpec(text)
}

// Line describes a capability to the agent that holds it, or to one that it
// comes from:
//
//	HANDLE ID SPEC [KEY=VALUE]...
//
// SPEC is the text of a grant. The keys are holder, if it is not in the table
// of its reader; parent, what it was derived from; expires, how long it still
// lives; rest, what it has not handed on of its limits.
func Line(c *capability.Capability, reader string) string {
	spec := c.Spec()
	b := strconv.AppendUint(nil, uint64(c.Handle()), 10)
	b = append(append(b, ' '), c.ID()...)
	b = append(append(b, ' '), spec.String()...)
	if h := Holder(c); h != reader {
		b = append(append(b, " holder="...), h...)
	}
	if p := c.Parent(); p != nil {
		b = append(append(b, " parent="...), p.ID()...)
	}
	if left, leased := c.Expires(); leased {
		b = append(append(b, " expires="...), left.Round(time.Millisecond).String()...)
	}
	if rest := restText(c); rest != "" {
		b = append(append(b, " rest="...), rest...)
	}
	return string(b)
}

// Holder names who holds c: an agent ID, or DOMAIN/AGENT.
func Holder(c *capability.Capability) string {
	if r := c.Remote(); r != "" {
		return r
	}
	return c.Holder()
}

// kindNames are the limits as rest and /aios/self/limits name them, by
// capability.Kind; of others they say nothing.
var kindNames = [...]string{"bytes", "count", "millicpu", "weight", "bps", "ops", capability.KindSwap: "swap"}

// restText names what is left of limits that are divided.
func restText(c *capability.Capability) string {
	own := c.Spec().Limits
	var out []string
	for k, name := range kindNames {
		if left, limited := c.Left(capability.Kind(k)); limited && name != "" && left != own.Get(capability.Kind(k)) {
			out = append(out, name+":"+strconv.FormatUint(left, 10))
		}
	}
	return strings.Join(out, ",")
}

// LimitsText is the text of /aios/self/limits: for every class that has any, the
// sum of what the agent's capabilities allow.
func LimitsText(e capability.Effective) string {
	var b strings.Builder
	for _, class := range abi.Classes() {
		a, held := e[class.Class]
		if !held {
			continue
		}
		b.WriteString(class.Name)
		for k, name := range kindNames {
			if v, bounded := a.Limit(capability.Kind(k)); bounded && name != "" {
				b.WriteString(" " + name + "=" + strconv.FormatUint(v, 10))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
