package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// Bounds of a profile.
const (
	// MaxBytes bounds the text.
	MaxBytes = 1 << 20

	maxEntries = 2048  // of "syscalls"
	maxNames   = 16384 // in all entries
	maxArgs    = 32    // of one entry
	maxRules   = 32768 // names times alternatives
	maxName    = 64    // bytes
	maxErrno   = 4095
)

// file is a profile as it is written, in both dialects.
type file struct {
	DefaultAction    string   `json:"defaultAction"`
	DefaultErrno     *uint    `json:"defaultErrnoRet"`
	DefaultErrnoName string   `json:"defaultErrno"`
	Architectures    []string `json:"architectures"`
	ArchMap          []struct {
		Architecture     string   `json:"architecture"`
		SubArchitectures []string `json:"subArchitectures"`
	} `json:"archMap"`
	Flags            []string `json:"flags"`
	ListenerPath     string   `json:"listenerPath"`
	ListenerMetadata string   `json:"listenerMetadata"`
	Syscalls         []entry  `json:"syscalls"`
}

// entry is one of a profile's "syscalls".
type entry struct {
	Names     []string `json:"names"`
	Name      string   `json:"name"`
	Action    string   `json:"action"`
	Errno     *uint    `json:"errnoRet"`
	ErrnoName string   `json:"errno"`
	Args      []arg    `json:"args"`
	Comment   string   `json:"comment"`
	Includes  when     `json:"includes"`
	Excludes  when     `json:"excludes"`
}

type arg struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// flags of seccomp(2) that a profile may name. None changes anything here: an
// agent has one thread when its profile is applied, what it is refused is
// recorded anyway, and the others are about the host's kernel.
var flags = []string{
	"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
	"SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
}

// refuse returns the error about a place in a profile.
func refuse(where, detail, fix string) error {
	return errdefs.New(errdefs.SeccompInvalid, detail, errdefs.Op("read seccomp profile"), errdefs.Resource("%s", where), errdefs.Fix("%s", fix))
}

// Parse reads a profile. Rules of Docker's dialect are taken or left as the
// surroundings say. The error is a SECCOMP_INVALID that names the place.
func Parse(text []byte, s Surroundings) (*Profile, error) {
	if len(text) > MaxBytes {
		return nil, refuse("profile", fmt.Sprintf("it has %d bytes", len(text)), fmt.Sprintf("give at most %d", MaxBytes))
	}
	f, err := decode(text)
	if err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	p := &Profile{rules: map[uint32][]Rule{}}
	if p.fallback, err = verdict("defaultAction", f.DefaultAction, "defaultErrno", f.DefaultErrno, f.DefaultErrnoName); err != nil {
		return nil, err
	}
	names, rules := 0, 0
	for i, e := range f.Syscalls {
		alternatives, err := e.rules(fmt.Sprintf("syscalls[%d]", i))
		if err != nil {
			return nil, err
		}
		names += len(e.Names)
		rules += len(e.Names) * len(alternatives)
		if names > maxNames || rules > maxRules {
			return nil, refuse("syscalls", "there are too many rules", fmt.Sprintf("name at most %d calls and make at most %d rules", maxNames, maxRules))
		}
		if !s.included(e.Includes) || s.excluded(e.Excludes) {
			continue
		}
		for _, name := range e.Names {
			call, ok := numbers()[name]
			if !ok {
				p.unknown = append(p.unknown, name)
				continue
			}
			for _, r := range alternatives {
				p.add(call, r)
			}
		}
	}
	slices.Sort(p.unknown)
	p.unknown = slices.Compact(p.unknown)
	return p, nil
}

// decode reads the JSON.
func decode(text []byte) (*file, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var f *file
	err := d.Decode(&f)
	if err == nil {
		if f == nil {
			return nil, refuse("profile", "it is null", "write an object with defaultAction and syscalls")
		}
		if _, err = d.Token(); err == io.EOF {
			return f, nil
		}
		return nil, refuse(line(text, d.InputOffset()), "something follows the profile", "remove it")
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return nil, refuse(line(text, syntax.Offset), "it is not JSON: "+syntax.Error(), "correct it there")
	case errors.As(err, &kind):
		return nil, refuse(line(text, kind.Offset), fmt.Sprintf("%s may not be a %s", kind.Field, kind.Value), "see the schema of linux.seccomp in the OCI runtime specification")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, refuse(line(text, int64(len(text))), "it ends too early", "write an object with defaultAction and syscalls")
	}
	// What is left is a field that does not exist.
	return nil, refuse("before "+line(text, d.InputOffset()), strings.TrimPrefix(err.Error(), "json: "), "correct its name, or remove it")
}

// line says where in the text an offset is.
func line(text []byte, offset int64) string {
	before := text[:min(max(offset, 0), int64(len(text)))]
	n := bytes.Count(before, []byte("\n"))
	return fmt.Sprintf("line %d, column %d", n+1, len(before)-bytes.LastIndexByte(before, '\n')-1)
}

// check looks at everything but the rules.
func (f *file) check() error {
	if f.DefaultAction == "" {
		return refuse("defaultAction", "it is missing", "say what becomes of a call that no rule is about, such as SCMP_ACT_ERRNO")
	}
	if f.ListenerPath != "" || f.ListenerMetadata != "" {
		return refuse("listenerPath", "no supervisor can be notified of an agent's calls", "remove listenerPath and listenerMetadata")
	}
	for i, flag := range f.Flags {
		if !slices.Contains(flags, flag) {
			return refuse(fmt.Sprintf("flags[%d]", i), strconv.Quote(flag)+" is not known", "use any of "+strings.Join(flags, ", "))
		}
	}
	if len(f.Syscalls) > maxEntries {
		return refuse("syscalls", fmt.Sprintf("there are %d", len(f.Syscalls)), fmt.Sprintf("give at most %d, with several names each", maxEntries))
	}
	archs := f.Architectures
	for _, m := range f.ArchMap {
		archs = append(append(archs, m.Architecture), m.SubArchitectures...)
	}
	for _, a := range archs {
		if !strings.HasPrefix(a, "SCMP_ARCH_") {
			return refuse("architectures", strconv.Quote(a)+" is no architecture", "write it as SCMP_ARCH_X86_64")
		}
	}
	return nil
}

// rules returns the alternatives that an entry makes for each of its names. It
// joins both ways to write the names.
func (e *entry) rules(where string) ([]Rule, error) {
	if e.Name != "" {
		e.Names = append(e.Names, e.Name)
	}
	if len(e.Names) == 0 {
		return nil, refuse(where+".names", "it names no call", "name one, or remove the entry")
	}
	for i, n := range e.Names {
		if n == "" || len(n) > maxName {
			return nil, refuse(fmt.Sprintf("%s.names[%d]", where, i), "it is no name of a call", fmt.Sprintf("write 1 to %d characters", maxName))
		}
	}
	v, err := verdict(where+".action", e.Action, where+".errno", e.Errno, e.ErrnoName)
	if err != nil {
		return nil, err
	}
	if err := e.Includes.check(where + ".includes"); err != nil {
		return nil, err
	}
	if err := e.Excludes.check(where + ".excludes"); err != nil {
		return nil, err
	}
	if len(e.Args) > maxArgs {
		return nil, refuse(where+".args", fmt.Sprintf("there are %d", len(e.Args)), fmt.Sprintf("give at most %d", maxArgs))
	}
	all := Rule{Verdict: v}
	var each []Rule
	var seen [6]bool
	twice := false
	for i, a := range e.Args {
		c, err := a.condition(fmt.Sprintf("%s.args[%d]", where, i))
		if err != nil {
			return nil, err
		}
		twice = twice || seen[c.Arg]
		seen[c.Arg] = true
		all.Conditions = append(all.Conditions, c)
		each = append(each, Rule{[]Condition{c}, v})
	}
	if twice {
		// As in runc: conditions of which two are about one argument are
		// alternatives.
		return each, nil
	}
	return []Rule{all}, nil
}

func (a arg) condition(where string) (Condition, error) {
	if a.Index > 5 {
		return Condition{}, refuse(where+".index", fmt.Sprintf("there is no argument %d", a.Index), "count from 0 to 5")
	}
	op, ok := ops[a.Op]
	if !ok {
		return Condition{}, refuse(where+".op", strconv.Quote(a.Op)+" is no comparison", "use SCMP_CMP_EQ, _NE, _LT, _LE, _GT, _GE or _MASKED_EQ")
	}
	if op == MaskedEqual {
		return Condition{Arg: uint8(a.Index), Op: op, Mask: a.Value, Value: a.ValueTwo}, nil
	}
	return Condition{Arg: uint8(a.Index), Op: op, Value: a.Value}, nil
}

// verdict reads an action and its errno, which is a number, a name or both.
func verdict(where, name, errnoWhere string, errno *uint, errnoName string) (Verdict, error) {
	if name == "SCMP_ACT_NOTIFY" {
		return Verdict{}, refuse(where, "no supervisor can be notified of an agent's calls", "use SCMP_ACT_ERRNO, or SCMP_ACT_LOG to let it through and record it")
	}
	a, ok := actions[name]
	if !ok {
		return Verdict{}, refuse(where, strconv.Quote(name)+" is no action", "use SCMP_ACT_ALLOW, _ERRNO, _LOG, _TRACE, _TRAP, _KILL_THREAD or _KILL_PROCESS")
	}
	v := Verdict{Action: a}
	if a == Errno || a == Trace {
		v.Data = uint16(unix.EPERM)
	} else if errno != nil || errnoName != "" {
		return Verdict{}, refuse(errnoWhere, name+" returns no errno", "remove it")
	}
	if errnoName != "" {
		n, ok := errnoNamed(errnoName)
		if !ok || errno != nil && *errno != uint(n) {
			return Verdict{}, refuse(errnoWhere, strconv.Quote(errnoName)+" is no errno, or another than errnoRet", "write a name such as EPERM, or its number as errnoRet")
		}
		v.Data = n
	} else if errno != nil {
		if *errno > maxErrno {
			return Verdict{}, refuse(errnoWhere+"Ret", fmt.Sprintf("%d is no errno", *errno), fmt.Sprintf("give at most %d", maxErrno))
		}
		v.Data = uint16(*errno)
	}
	return v, nil
}

// errnoNamed returns the number of an errno.
func errnoNamed(name string) (uint16, bool) {
	for n := range syscall.Errno(256) {
		if n != 0 && unix.ErrnoName(n) == name {
			return uint16(n), true
		}
	}
	return 0, false
}
