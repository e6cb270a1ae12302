package abi

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Operation is something that an agent could do, for the question whether it
// may.
type Operation struct {
	// Verb is the first word of the text, or the name of the system call.
	Verb string
	// Call is the system call it comes to, if it is one of the table's.
	Call Syscall
	// Groups is what the gate asks for.
	Groups uint64
	// Needs is what is asked for behind the gate, by class.
	Needs []Held
	// Path is the file that it is about, if there is one, and Want what
	// rights to it are needed.
	Path string
	Want Rights
}

// OperationUsage says what ParseOperation understands.
const OperationUsage = `open PATH [r|w|rw|create|exec], exec PATH, delete PATH, connect ADDRESS, bind ADDRESS, socket FAMILY, fork, ` +
	`kill PID|AGENT, pause AGENT, inspect AGENT, mmap [exec], ptrace, mount, unshare, subscribe TOPIC[@AGENT], call SERVICE, ` +
	`memory NAMESPACE[@TAG+TAG] [RIGHT], region NAME [RIGHT], or syscall NAME`

// maxOperation bounds the text of an operation, in bytes.
const maxOperation = 4096

// verbs of operations; take is given what follows the verb and returns what is
// wrong with it.
var verbs = map[string]func(op *Operation, rest string) (problem string){
	"open":      takeOpen,
	"read":      takePath(FSRead, "read"),
	"stat":      takePath(FSRead, "stat"),
	"list":      takePath(FSRead, "getdents64"),
	"write":     takePath(FSWrite, "write"),
	"truncate":  takePath(FSWrite, "truncate"),
	"chmod":     takePath(FSWrite, "chmod"),
	"create":    takePath(FSCreate|FSWrite, "open"),
	"mkdir":     takePath(FSCreate, "mkdir"),
	"link":      takePath(FSCreate, "link"),
	"symlink":   takePath(FSCreate, "symlink"),
	"delete":    takePath(FSDelete, "unlink"),
	"unlink":    takePath(FSDelete, "unlink"),
	"rmdir":     takePath(FSDelete, "rmdir"),
	"rename":    takePath(FSDelete, "rename"),
	"exec":      takeExec,
	"execve":    takeExec,
	"socket":    takeSocket,
	"connect":   takeAddress("connect", GroupConnect, NetConnect),
	"send":      takeAddress("sendto", GroupConnect, NetConnect),
	"bind":      takeAddress("bind", GroupBind, NetBind),
	"listen":    takeAddress("listen", GroupBind, NetBind),
	"fork":      takeCall("fork"),
	"spawn":     takeCall("fork"),
	"thread":    takeCall("clone"),
	"ptrace":    takeCall("ptrace"),
	"debug":     takeCall("ptrace"),
	"mount":     takeCall("mount"),
	"unshare":   takeCall("unshare"),
	"mmap":      takeMmap,
	"mprotect":  takeMmap,
	"kill":      takeTarget,
	"signal":    takeTarget,
	"pause":     takeObject(ClassAgent, AgentPause, "an agent"),
	"resume":    takeObject(ClassAgent, AgentPause, "an agent"),
	"inspect":   takeObject(ClassAgent, AgentInspect, "an agent"),
	"subscribe": takeObject(ClassEvent, EventSubscribe, "a topic"),
	"call":      takeObject(ClassSvc, SvcConnect, "a service"),
	"memory":    takeRight(ClassSemantic, SemanticRead, "a namespace of semantic memory"),
	"region":    takeRight(ClassRegion, RegionRead, "a region"),
}

// ParseOperation understands text such as "open /etc/shadow", "connect
// 127.0.0.1:80" or "mount". A problem that is not empty says what is wrong
// with the text.
func ParseOperation(text string) (op Operation, problem string) {
	if len(text) > maxOperation || strings.ContainsRune(text, 0) {
		return Operation{}, "it is no text of at most 4096 bytes"
	}
	verb, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	rest = strings.TrimSpace(rest)
	if verb == "" {
		return Operation{}, "it names no operation"
	}
	if verb == "syscall" {
		verb = rest
		rest = ""
	} else if take := verbs[verb]; take != nil && (rest != "" || !isSyscall(verb)) {
		op.Verb = verb
		problem = take(&op, rest)
		return op, problem
	}
	if rest != "" || !isSyscall(verb) {
		return Operation{}, "it is neither an operation nor a system call"
	}
	op.Verb = verb
	op.call(verb)
	return op, ""
}

func isSyscall(name string) bool {
	_, ok := SyscallNamed(name)
	return ok
}

// call makes op the system call of that name, which exists.
func (op *Operation) call(name string) {
	op.Call, _ = SyscallNamed(name)
	op.Groups |= op.Call.Group.Bit()
}

func takeCall(name string) func(*Operation, string) string {
	return func(op *Operation, rest string) string {
		op.call(name)
		return ""
	}
}

func takePath(want Rights, call string) func(*Operation, string) string {
	return func(op *Operation, rest string) string {
		if !path.IsAbs(rest) {
			return "it names no absolute path"
		}
		op.call(call)
		op.Path, op.Want = path.Clean(rest), want
		return ""
	}
}

// openModes are the last words of "open".
var openModes = map[string]Rights{
	"r": FSRead, "ro": FSRead, "w": FSWrite, "rw": FSRead | FSWrite, "create": FSWrite | FSCreate, "exec": FSExec,
}

func takeOpen(op *Operation, rest string) string {
	want := FSRead
	if i := strings.LastIndexByte(rest, ' '); i >= 0 {
		if mode, ok := openModes[rest[i+1:]]; ok {
			want, rest = mode, strings.TrimSpace(rest[:i])
		}
	}
	return takePath(want, "open")(op, rest)
}

func takeExec(op *Operation, rest string) string {
	return takePath(FSExec, "execve")(op, rest)
}

func takeMmap(op *Operation, rest string) string {
	op.call(op.Verb)
	switch words := strings.Fields(rest); {
	case len(words) == 0:
	case len(words) == 1 && (words[0] == "exec" || words[0] == "rwx" || words[0] == "wx"):
		op.Groups |= GroupMemExec.Bit()
	default:
		return "what follows is neither nothing nor exec"
	}
	return ""
}

// families are the words for socket.
var families = map[string]uint64{
	"unix": 0, "inet": GroupSocket.Bit(), "inet6": GroupSocket.Bit(), "netlink": GroupSocket.Bit(), "raw": GroupRaw.Bit(), "packet": GroupRaw.Bit(),
}

func takeSocket(op *Operation, rest string) string {
	words := strings.Fields(strings.ToLower(rest))
	op.call("socket")
	op.Groups = 0
	for _, w := range words {
		if strings.HasPrefix(w, "sock_") { // Of which only raw ones matter.
			w = strings.TrimPrefix(w, "sock_")
			if w != "raw" && w != "packet" {
				continue
			}
		}
		need, ok := families[strings.TrimPrefix(w, "af_")]
		if !ok {
			return "its family is none of unix, inet, inet6, netlink, packet; raw may follow"
		}
		op.Groups |= need
	}
	if op.Groups&GroupRaw.Bit() != 0 {
		op.Groups = GroupRaw.Bit()
	}
	return ""
}

func takeAddress(call string, group Group, right Rights) func(*Operation, string) string {
	return func(op *Operation, rest string) string {
		if rest == "" {
			return "it names no address"
		}
		op.call(call)
		if service, ok := strings.CutPrefix(rest, "svc:"); ok && group == GroupConnect {
			op.Groups = 0
			return takeObject(ClassSvc, SvcConnect, "a service")(op, service)
		}
		if rest[0] == '/' || rest[0] == '@' || strings.HasPrefix(rest, "unix:") {
			op.Groups = 0 // Whoever can name a Unix socket may use it.
			return ""
		}
		object, ok := netObject(rest, right)
		if !ok {
			return "its address is no HOST:PORT, /path or svc:NAME"
		}
		op.Groups = GroupSocket.Bit() | group.Bit()
		op.Needs = []Held{{ClassNet, object, right}}
		return ""
	}
}

// netObject returns the object of the capability that reaches address.
func netObject(address string, right Rights) (string, bool) {
	for _, scheme := range []string{"tcp:", "udp:"} {
		if rest, ok := strings.CutPrefix(address, scheme); ok {
			address = strings.TrimPrefix(rest, "//")
		}
	}
	host := address
	if _, err := netip.ParseAddr(address); err != nil {
		i := strings.LastIndexByte(address, ':')
		if i < 0 || strings.ContainsAny(address, " /") || !isPort(address[i+1:]) {
			return "", false
		}
		host = strings.TrimSuffix(strings.TrimPrefix(address[:i], "["), "]")
	}
	if host == "" || host == "*" || host == "localhost" {
		return "loopback", true
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil && (ip.Unmap().IsLoopback() || ip.IsUnspecified()):
		return "loopback", true
	case err != nil && strings.Trim(host, "0123456789.:") == "":
		return "", false // It was meant to be an address.
	case err == nil || ValidHost(host):
		return "*", true
	}
	return "", false
}

func isPort(s string) bool {
	return s != "" && len(s) <= 5 && strings.Trim(s, "0123456789") == ""
}

// ValidHost reports whether s has the form of a host's name.
func ValidHost(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, label := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") {
			return false
		}
		for _, c := range []byte(strings.ToLower(label)) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// takeTarget is for signals: a number is a process of the agent's own, a name
// another agent.
func takeTarget(op *Operation, rest string) string {
	words := strings.Fields(rest)
	if len(words) == 0 || len(words) > 2 {
		return "it names no process or agent"
	}
	switch target := words[0]; {
	case target == "self":
		op.call("kill")
		op.Groups = 0
	case strings.Trim(strings.TrimPrefix(target, "-"), "0123456789") == "":
		op.call("kill")
	default:
		return takeObject(ClassAgent, AgentSignal, "a process or agent")(op, target)
	}
	return ""
}

func takeObject(class Class, right Rights, what string) func(*Operation, string) string {
	return func(op *Operation, rest string) string {
		if rest == "" || len(rest) > 255 || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == ':' || r == ',' }) {
			return "it does not name " + what
		}
		op.Needs = []Held{{class, rest, right}}
		return ""
	}
}

// takeRight is takeObject, but that another right than the usual one can follow.
func takeRight(class Class, usual Rights, what string) func(*Operation, string) string {
	return func(op *Operation, rest string) string {
		name, word, said := strings.Cut(rest, " ")
		right := usual
		if said {
			var ok bool
			if right, ok = class.RightNamed(strings.TrimSpace(word)); !ok {
				return "what follows is no right to " + what + ": " + class.All().Format(class)
			}
		}
		return takeObject(class, right, what)(op, name)
	}
}

// Verbs returns the words with which an operation can begin, in order.
func Verbs() []string {
	out := []string{"syscall"}
	for v := range verbs {
		out = append(out, v)
	}
	slices.Sort(out)
	return out
}
