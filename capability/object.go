package capability

import (
	"path"
	"slices"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/smp"
)

// Object is what a capability is about. What Name is depends on the class: an
// absolute host path, "loopback" or "*", an agent, a group of system calls,
// topics of events (see Topic), a service, or "self".
type Object struct {
	Class abi.Class
	Name  string
}

// self is the object of classes that are about the holder itself.
const self = "self"

// The longest names.
const (
	maxPath = 4095
	maxName = 255
)

// String returns class and name as the text of a grant has them.
func (o Object) String() string { return o.Class.String() + ":" + escape(o.Name) }

// Contains reports whether whoever may use o may use other: the same object,
// or a part of it.
func (o Object) Contains(other Object) bool {
	if o.Class != other.Class {
		return false
	}
	if o.Name == other.Name {
		return true
	}
	switch o.Class {
	case abi.ClassFS:
		_, ok := below(o.Name, other.Name)
		return ok
	case abi.ClassCPU:
		return o.Name == self || other.Name != self && other.cpus().Minus(o.cpus()).Empty()
	case abi.ClassNet, abi.ClassAgent, abi.ClassSvc:
		return o.Name == "*"
	case abi.ClassEvent:
		topic, whose := o.Topic()
		part, of := other.Topic()
		return (whose == "" || whose == of) && topicCovers(topic, part)
	case abi.ClassSemantic:
		pattern, tags := o.Namespace()
		part, more := other.Namespace()
		return NamespaceCovers(pattern, part) && !slices.ContainsFunc(tags, func(t string) bool { return !slices.Contains(more, t) })
	}
	return false
}

// CPUs returns the CPUs that an object of class cpu names; all says that it is
// the holder itself, which means any.
func (o Object) CPUs() (set smp.Set, all bool) { return o.cpus(), o.Name == self }

func (o Object) cpus() smp.Set {
	if o.Name == self {
		return smp.Set{}
	}
	set, _ := smp.Parse(o.Name) // check has seen it.
	return set
}

// Topic splits the name of an object of class event, TOPIC[@AGENT], into the
// pattern of topics and the agent that the events are about. Without one they
// are all of the domain: of every agent, and of the domain itself.
//
// Whose events they are is part of the object because it can be compared: a
// capability that is derived has the same agent or a lesser pattern. A filter
// could not be, since whether one expression lets through no more than another
// cannot be decided; it belongs to a subscription.
func (o Object) Topic() (pattern, whose string) {
	pattern, whose, _ = strings.Cut(o.Name, "@")
	return pattern, whose
}

// HeldBy puts the holder in the place of "self" where an object names agents:
// what is handed on is about the giver still.
func (o Object) HeldBy(holder string) Object {
	if o.Class != abi.ClassEvent || holder == "" { // It is in another domain.
		return o
	}
	if pattern, whose := o.Topic(); whose == self {
		o.Name = pattern + "@" + holder
	}
	return o
}

// below returns what has to be appended to dir to get p, both clean: "" or
// something that starts with a slash.
func below(dir, p string) (rest string, ok bool) {
	if dir == "/" {
		return p, true
	}
	rest, ok = strings.CutPrefix(p, dir)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// topicCovers reports whether every topic that part matches is one that whole
// matches. "a.*" stands for everything below a, however deep, and not for a.
func topicCovers(whole, part string) bool {
	if whole == "*" || whole == part {
		return true
	}
	stem, pattern := strings.CutSuffix(whole, "*")
	return pattern && strings.HasPrefix(part, stem)
}

// check refuses a name that is not of the form its class wants.
func (o Object) check() error {
	info, ok := o.Class.Info()
	if !ok {
		return invalid("", "there is no class with the number "+formatCount(uint64(o.Class)), "classes are "+classNames())
	}
	bad := func(detail, fix string) error { return invalid(o.String(), detail, fix) }
	switch {
	case o.Name == "":
		return bad("the object is missing", "write "+info.Name+":"+exampleName[o.Class])
	case o.Class == abi.ClassCPU && o.Name != self:
		if set, err := smp.Parse(o.Name); err != nil || set.Empty() || set.String() != o.Name {
			return bad("it names no processors", "write cpu:self, or which of them, as in cpu:0-3")
		}
		return nil
	case info.Self && o.Name != self:
		return bad("the object of class "+info.Name+" is always the holder itself", "write "+info.Name+":self")
	case info.Self:
		return nil
	case o.Class == abi.ClassFS:
		if why := badPath(o.Name); why != "" {
			return bad("the path "+why, "write an absolute path without '.', '..' or doubled slashes, as in fs:/data:ro")
		}
	case len(o.Name) > maxName:
		return bad("the name is longer than 255 bytes", "name an object that exists")
	case o.Class == abi.ClassNet:
		if o.Name != "*" && o.Name != "loopback" {
			return bad("no such network endpoint", "write net:loopback or net:*")
		}
	case o.Class == abi.ClassEvent:
		switch topic, whose := o.Topic(); {
		case !validTopic(topic):
			return bad("it is not a topic", "write parts of letters, digits, '_' and '-' with '.' between them, the last may be '*'")
		case whose == "*":
			return bad("every agent is meant where none is named", "leave out @*")
		case whose == "" && topic != o.Name, whose != "" && !abi.ValidName(whose) && !abi.IsAgentID(whose):
			return bad("what follows '@' is no agent", "write @self, or @ and the name or ID of an agent")
		}
	case o.Class == abi.ClassSys:
		if !validWord(o.Name) {
			return bad("it is not the name of a group of system calls", "write one as in sys:namespace")
		}
	case o.Class == abi.ClassRegion:
		if !abi.ValidName(o.Name) {
			return bad("it is not the name of a region", "write 1 to 63 letters, digits, '.', '_' and '-'")
		}
	case o.Class == abi.ClassSemantic:
		if why := badNamespace(o.Name); why != "" {
			return bad(why, "write a namespace as in semantic:notes, semantic:notes/* or semantic:*, and behind '@' tags that items have, with '+' between them")
		}
	case o.Name != "*" && !abi.ValidName(o.Name) && !(o.Class == abi.ClassAgent && abi.IsAgentID(o.Name)):
		return bad("it is not a name", "write 1 to 63 letters, digits, '.', '_' and '-', or * for all")
	}
	return nil
}

// exampleName is an object of each class.
var exampleName = map[abi.Class]string{
	abi.ClassFS: "/data:ro", abi.ClassNet: "loopback", abi.ClassMem: self, abi.ClassCPU: self, abi.ClassIO: self,
	abi.ClassProc: self, abi.ClassAgent: "worker", abi.ClassSys: "namespace", abi.ClassEvent: "agent.*", abi.ClassSvc: "*",
	abi.ClassRegion: "table", abi.ClassSemantic: "notes",
}

// badPath says what is wrong with a path that ought to be absolute and clean.
func badPath(p string) string {
	switch {
	case len(p) > maxPath:
		return "is longer than 4095 bytes"
	case p == "" || p[0] != '/':
		return "is not absolute"
	case strings.IndexByte(p, 0) >= 0:
		return "holds a zero byte"
	case path.Clean(p) != p:
		return "is not clean"
	}
	return ""
}

func validTopic(t string) bool {
	parts := strings.Split(t, ".")
	for i, p := range parts {
		if !validWord(p) && !(p == "*" && i == len(parts)-1) {
			return false
		}
	}
	return true
}

// validWord reports whether w is made of letters, digits, '_' and '-'.
func validWord(w string) bool {
	for i := range len(w) {
		c := w[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return w != ""
}

func classNames() string {
	var names []string
	for _, c := range abi.Classes() {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

func invalid(what, detail, fix string) *errdefs.Error {
	return errdefs.New(errdefs.CapabilityInvalid, detail, errdefs.Op("read grant"), errdefs.Resource("%s", what), errdefs.Fix("%s", fix))
}
