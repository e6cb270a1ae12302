package capability

import (
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/abi"
)

// Spec says what is granted.
type Spec struct {
	Object Object
	Rights abi.Rights
	Limits Limits
	// At is where files appear inside; "" is at the object's own path.
	At string
	// Lease is for how long; 0 is for as long as the parent.
	Lease time.Duration
	// Badge tells the one who serves requests which capability they came by.
	Badge uint64
	// Sealed forbids to derive anything.
	Sealed bool
}

// maxText bounds the text of a grant.
const maxText = 16 << 10

// Target returns where files appear inside.
func (s Spec) Target() string {
	if s.At != "" {
		return s.At
	}
	return s.Object.Name
}

// ParseSpec reads the text of a grant:
//
//	CLASS:OBJECT[:RIGHTS][,KEY=VALUE]...
//
// RIGHTS are names joined by '+', or "all"; for files also "ro", which is
// read+exec, and "rw", which is all. Left out they are all of the class, except
// for files, where they must be said. The keys are
//
//	fs    quota=SIZE inodes=N at=PATH
//	mem   bytes=SIZE count=N swap=SIZE
//	cpu   cpu=PROCESSORS period=TIME burst=TIME weight=N idle=1 priority=N
//	      reserve=PROCESSORS every=TIME
//	io    bps=SIZE ops=N
//	proc  count=N
//	semantic  bytes=SIZE count=N
//	any   lease=DURATION badge=N sealed
//
// OBJECT of class event is TOPIC[@AGENT]; see Object.Topic. That of class cpu is
// self, or processors such as 0-3; that of class semantic is
// NAMESPACE[@TAG[+TAG]...]; see Object.Namespace.
//
// In OBJECT and PATH, %XX stands for the byte with that hexadecimal number;
// ':', ',' and '%' are written that way.
func ParseSpec(text string) (Spec, error) {
	if len(text) > maxText {
		return Spec{}, invalid("", "the grant is longer than 16 KiB", "split it")
	}
	head, options, hasOptions := strings.Cut(text, ",")
	s, err := parseHead(text, head)
	if err != nil {
		return Spec{}, err
	}
	if hasOptions {
		seen := make(map[string]bool)
		for option := range strings.SplitSeq(options, ",") {
			key, value, valued := strings.Cut(option, "=")
			if seen[key] {
				return Spec{}, invalid(quote(text), "the key "+quote(key)+" comes twice", "say it once")
			}
			seen[key] = true
			if err := s.parseOption(text, key, value, valued); err != nil {
				return Spec{}, err
			}
		}
	}
	if s.At == s.Object.Name {
		s.At = ""
	}
	if err := s.check(); err != nil {
		return Spec{}, err
	}
	return s, nil
}

func parseHead(text, head string) (Spec, error) {
	parts := strings.Split(head, ":")
	class, ok := abi.ClassNamed(parts[0])
	if !ok {
		return Spec{}, invalid(quote(text), "there is no class "+quote(parts[0]), "write CLASS:OBJECT[:RIGHTS][,KEY=VALUE]..., where CLASS is one of "+classNames())
	}
	if len(parts) == 1 {
		return Spec{}, invalid(quote(text), "the object is missing", "write "+parts[0]+":"+exampleName[class])
	}
	if len(parts) > 3 {
		return Spec{}, invalid(quote(text), "there are too many colons", "write a colon that belongs to the object as %3A")
	}
	name, err := unescape(parts[1])
	if err != nil {
		return Spec{}, invalid(quote(text), "the object is not readable: "+err.Error(), "write %25 for a percent sign")
	}
	s := Spec{Object: Object{Class: class, Name: name}, Rights: class.All()}
	switch {
	case len(parts) == 3:
		s.Rights, err = parseRights(class, parts[2])
	case class == abi.ClassFS:
		err = invalid(quote(text), "rights to files must be said", "append :ro, :rw, or names joined by '+' out of "+class.All().Format(class))
	}
	return s, err
}

// parseRights reads rights of a class.
func parseRights(class abi.Class, text string) (abi.Rights, error) {
	switch {
	case text == "all" || text == "rw" && class == abi.ClassFS:
		return class.All(), nil
	case text == "ro" && class == abi.ClassFS:
		return abi.FSRead | abi.FSExec, nil
	}
	var out abi.Rights
	for name := range strings.SplitSeq(text, "+") {
		r, ok := class.RightNamed(name)
		if !ok {
			return 0, invalid(quote(text), "class "+class.String()+" has no right "+quote(name), "its rights are "+class.All().Format(class))
		}
		out |= r
	}
	return out, nil
}

// ParseRights reads rights of a class as the text of a grant has them.
func ParseRights(class abi.Class, text string) (abi.Rights, error) { return parseRights(class, text) }

// FormatRights is the shortest text that ParseRights reads as r.
func FormatRights(class abi.Class, r abi.Rights) string {
	switch {
	case r == class.All() && class == abi.ClassFS:
		return "rw"
	case r == class.All():
		return "all"
	case r == abi.FSRead|abi.FSExec && class == abi.ClassFS:
		return "ro"
	}
	return r.Format(class)
}

func (s *Spec) parseOption(text, key, value string, valued bool) error {
	var err error
	bad := func(detail, fix string) error { return invalid(quote(text), detail, fix) }
	if key == "sealed" {
		if valued {
			return bad("sealed takes no value", "write sealed alone")
		}
		s.Sealed = true
		return nil
	}
	for _, k := range keysOf(s.Object.Class) {
		if k.name != key {
			continue
		}
		v, err := k.parse(value)
		if err == nil && v == 0 {
			return bad(key+" is zero", "leave it out to set no limit")
		}
		if err != nil || v > k.max {
			return bad(key+"="+quote(value)+": "+reasonOf(err, k.max), "give a number from 1 to "+k.format(k.max))
		}
		s.Limits.Set(k.kind, v)
		return nil
	}
	switch {
	case key == "at" && s.Object.Class == abi.ClassFS:
		if s.At, err = unescape(value); err != nil || s.At == "" {
			return bad("at="+quote(value)+" is not a path", "write an absolute path, %25 for a percent sign")
		}
	case key == "lease":
		if s.Lease, err = time.ParseDuration(value); err != nil || s.Lease <= 0 {
			return bad("lease="+quote(value)+" is not a length of time", "write one as in lease=30s")
		}
	case key == "badge":
		if s.Badge, err = strconv.ParseUint(value, 10, 64); err != nil {
			return bad("badge="+quote(value)+" is not a whole number", "write one as in badge=7")
		}
	default:
		return bad("class "+s.Object.Class.String()+" has no key "+quote(key), "its keys are "+s.keys())
	}
	return nil
}

func reasonOf(err error, top uint64) string {
	if err != nil {
		return err.Error()
	}
	return "it is more than " + formatCount(top)
}

func (s *Spec) keys() string {
	var names []string
	for _, k := range keysOf(s.Object.Class) {
		names = append(names, k.name)
	}
	if s.Object.Class == abi.ClassFS {
		names = append(names, "at")
	}
	return strings.Join(append(names, "lease", "badge", "sealed"), ", ")
}

// check refuses what no capability may say. What it accepts, String writes so
// that ParseSpec reads the same.
func (s *Spec) check() error {
	if err := s.Object.check(); err != nil {
		return err
	}
	class := s.Object.Class
	bad := func(detail, fix string) error { return invalid(s.Object.String(), detail, fix) }
	switch {
	case s.Rights == 0:
		return bad("it gives no right", "name rights out of "+class.All().Format(class))
	case s.Rights&^class.All() != 0:
		return bad("it names rights that class "+class.String()+" does not have", "name rights out of "+class.All().Format(class))
	case s.Lease < 0:
		return bad("the lease is negative", "leave it out to set none")
	case s.At != "" && class != abi.ClassFS:
		return bad("only files appear at a path", "leave out at")
	case s.At != "" && badPath(s.At) != "":
		return bad("at: the path "+badPath(s.At), "write an absolute path without '.', '..' or doubled slashes")
	}
	rest := s.Limits
	for _, k := range keysOf(class) {
		if v := rest.Get(k.kind); v > k.max {
			return bad(k.name+" is more than "+k.format(k.max), "ask for less")
		}
		rest.Set(k.kind, 0)
	}
	if rest != (Limits{}) {
		return bad("it has a limit that class "+class.String()+" does not know", "its keys are "+s.keys())
	}
	return nil
}

// String is the canonical text of s.
func (s Spec) String() string {
	b := make([]byte, 0, 96)
	class := s.Object.Class
	b = append(b, class.String()...)
	b = append(b, ':')
	b = append(b, escape(s.Object.Name)...)
	if s.Rights != class.All() || class == abi.ClassFS {
		b = append(b, ':')
		b = append(b, FormatRights(class, s.Rights)...)
	}
	for _, k := range keysOf(class) {
		if v := s.Limits.Get(k.kind); v != 0 {
			b = append(append(append(append(b, ','), k.name...), '='), k.format(v)...)
		}
	}
	if s.At != "" && s.At != s.Object.Name {
		b = append(append(b, ",at="...), escape(s.At)...)
	}
	if s.Lease != 0 {
		b = append(append(b, ",lease="...), s.Lease.String()...)
	}
	if s.Badge != 0 {
		b = strconv.AppendUint(append(b, ",badge="...), s.Badge, 10)
	}
	if s.Sealed {
		b = append(b, ",sealed"...)
	}
	return string(b)
}

// quote shows what somebody wrote, shortened.
func quote(text string) string {
	const most = 80
	if len(text) > most {
		text = text[:most] + "..."
	}
	return strconv.Quote(text)
}
