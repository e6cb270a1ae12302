// Package filter makes the seccomp programs of AIOS's helper processes out of
// gVisor's rules.
//
// gVisor knows which system calls its kernel and its platforms make. This
// package adds the few that a kernel process of AIOS makes beyond them, and
// takes the process's identity out, so that one program serves every process:
// box.InstallProgram puts the PID in.
//
// Making an optimised program takes several milliseconds, which is as long as
// the rest of a domain's boot. LoadProgram therefore keeps it in a file under
// the digest of the rules it was made from: a new gVisor, platform or option
// changes the digest, and the file is made anew.
//
// The package holds no state. Besides gVisor's rules it imports package box,
// for the form of programs, and nothing of AIOS's kernel.
package filter

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bpf"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot/filter/config"
	goferconfig "gvisor.dev/gvisor/runsc/fsgofer/filter/config"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/host/box"
)

// Options says what a kernel process does after it is sealed.
type Options struct {
	// Platform tells the calls of the platform. A platform that has not been
	// started yet describes itself through its constructor's
	// PrecompiledSeccompInfo.
	Platform platform.SeccompInfo
	// HostFS allows calls on files below directories handed down as
	// descriptors; without it nothing can be opened at all.
	HostFS bool
	// Listen lists descriptors of listening sockets to accept from.
	Listen []int
	// Profile allows opening files for reading by path, for profilers. Not
	// for production.
	Profile bool
	// Extra are further rules.
	Extra seccomp.SyscallRules
}

// GoferOptions says what a gofer does after it is sealed.
type GoferOptions struct {
	// Sockets allows agents to connect to and make Unix sockets below the
	// directory.
	Sockets bool
	// KeepOwner makes giving a file to root do nothing and succeed. What an
	// agent's root makes is given to root; a gofer that cannot give files away
	// keeps it for its user instead.
	KeepOwner bool
}

// rules is a program before it is built.
type rules struct {
	allow, deny seccomp.SyscallRules
	skip        seccomp.SyscallRules // calls that succeed and do nothing
	options     seccomp.ProgramOptions
}

func (o Options) rules() (rules, error) {
	if o.Platform == nil {
		return rules{}, errdefs.New(errdefs.InvalidArgument, "no platform given", errdefs.Op("build seccomp program"),
			errdefs.Fix("pass the SeccompInfo of the platform that the kernel runs on"))
	}
	opt := config.Options{Platform: o.Platform, HostFilesystem: o.HostFS, ProfileEnable: o.Profile}
	allow, deny := config.Rules(opt)
	removeSelf(allow, o.Platform.SyscallFilters(o.Platform.Variables()))
	// gVisor's rule accepts from its one control socket, descriptor 0 here.
	if allow.Has(unix.SYS_ACCEPT4) {
		allow.Remove(unix.SYS_ACCEPT4)
	}
	if allow.Has(unix.SYS_LISTEN) {
		allow.Remove(unix.SYS_LISTEN)
	}
	for _, fd := range o.Listen {
		if fd < 0 {
			return rules{}, errdefs.Newf(errdefs.InvalidArgument, "%d is no descriptor", fd).
				With(errdefs.Op("build seccomp program"), errdefs.Fix("list the descriptors of listening sockets"))
		}
		allow.Add(unix.SYS_ACCEPT4, seccomp.PerArg{seccomp.EqualTo(fd)})
	}
	allow.Merge(kernelRules())
	allow.Merge(runtimeRules())
	if o.Extra.Size() > 0 {
		allow.Merge(o.Extra)
	}
	return rules{allow: allow, deny: deny, options: config.SeccompOptions(opt)}, nil
}

func (o GoferOptions) rules() (rules, error) {
	allow, deny := goferconfig.Rules(goferconfig.Options{UDSOpenEnabled: o.Sockets, UDSCreateEnabled: o.Sockets, LisafsNeeded: true})
	removeSelf(allow, seccomp.NewSyscallRules())
	allow.Merge(runtimeRules())
	r := rules{allow: allow, deny: deny, options: seccomp.ProgramOptions{HotSyscalls: []uintptr{unix.SYS_FUTEX}}}
	if o.KeepOwner {
		r.skip = seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
			unix.SYS_FCHOWNAT: seccomp.PerArg{seccomp.AnyValue{}, seccomp.AnyValue{}, seccomp.EqualTo(0), seccomp.EqualTo(0)},
		})
	}
	return r, nil
}

// removeSelf replaces the rules that name the PID of the process that makes
// the program by ones that name the process that installs it.
func removeSelf(allow, ofPlatform seccomp.SyscallRules) {
	self := seccomp.EqualTo(box.PIDPlaceholder)
	// Platforms that signal their stub processes may use tgkill at will.
	if allow.Has(unix.SYS_TGKILL) && !ofPlatform.Has(unix.SYS_TGKILL) {
		allow.Remove(unix.SYS_TGKILL)
		allow.Set(unix.SYS_TGKILL, seccomp.PerArg{self})
	}
	if allow.Has(unix.SYS_RT_TGSIGQUEUEINFO) {
		allow.Remove(unix.SYS_RT_TGSIGQUEUEINFO)
		allow.Set(unix.SYS_RT_TGSIGQUEUEINFO, seccomp.PerArg{self, seccomp.AnyValue{}, seccomp.EqualTo(unix.SIGKILL)})
	}
}

// kernelRules are the calls of AIOS's own kernel process: it talks to the
// daemon over Unix sockets it was given, descriptors travel beside messages,
// and what it is handed becomes an os.File or a net.Conn.
func kernelRules() seccomp.SyscallRules {
	anyFD := seccomp.NonNegativeFD{}
	recv := seccomp.Or{}
	for _, flags := range []int{0, unix.MSG_CMSG_CLOEXEC, unix.MSG_PEEK, unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC} {
		recv = append(recv, seccomp.PerArg{anyFD, seccomp.AnyValue{}, seccomp.EqualTo(flags)})
	}
	send := seccomp.Or{}
	for _, flags := range []int{0, unix.MSG_NOSIGNAL, unix.MSG_DONTWAIT} {
		send = append(send, seccomp.PerArg{anyFD, seccomp.AnyValue{}, seccomp.EqualTo(flags)})
	}
	fcntl := seccomp.Or{}
	for _, cmd := range []int{unix.F_SETFD, unix.F_DUPFD_CLOEXEC} {
		fcntl = append(fcntl, seccomp.PerArg{anyFD, seccomp.EqualTo(cmd)})
	}
	return seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		unix.SYS_RECVMSG:     recv,
		unix.SYS_SENDMSG:     send,
		unix.SYS_FCNTL:       fcntl,
		unix.SYS_GETSOCKNAME: seccomp.PerArg{anyFD},
		unix.SYS_GETPEERNAME: seccomp.PerArg{anyFD},
		unix.SYS_EPOLL_CREATE1: seccomp.PerArg{
			seccomp.EqualTo(unix.EPOLL_CLOEXEC),
		},
		unix.SYS_MEMFD_CREATE: seccomp.PerArg{
			seccomp.AnyValue{}, seccomp.EqualTo(unix.MFD_CLOEXEC),
		},
	})
}

// runtimeRules are calls that gVisor's lists lack and that give nothing away:
// the Go runtime looks at the number of CPUs again from time to time, and a
// process may ask who it is.
func runtimeRules() seccomp.SyscallRules {
	return seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{
		unix.SYS_SCHED_GETAFFINITY: seccomp.PerArg{seccomp.EqualTo(0)},
		unix.SYS_GETUID:            seccomp.MatchAll{},
		unix.SYS_GETEUID:           seccomp.MatchAll{},
		unix.SYS_GETGID:            seccomp.MatchAll{},
		unix.SYS_GETEGID:           seccomp.MatchAll{},
	})
}

// BuildProgram makes the program of a kernel process, for
// box.InstallProgram.
func BuildProgram(o Options) ([]byte, error) {
	r, err := o.rules()
	if err != nil {
		return nil, err
	}
	return r.build()
}

// BuildGoferProgram makes the program of a gofer.
func BuildGoferProgram(o GoferOptions) ([]byte, error) {
	r, err := o.rules()
	if err != nil {
		return nil, err
	}
	return r.build()
}

// LoadProgram returns the program of a kernel process from cache, or makes it
// and writes it there. The cache is a file open for reading and writing, or
// nil; a damaged one is made anew, one that cannot be written is no error.
// LoadProgram is for the time before anything untrusted runs: who can write
// the cache decides what the next kernel process may do, so the caller closes
// it at once.
func LoadProgram(cache *os.File, o Options) (program []byte, cached bool, err error) {
	r, err := o.rules()
	if err != nil {
		return nil, false, err
	}
	return r.load(cache)
}

// LoadGoferProgram is LoadProgram for a gofer.
func LoadGoferProgram(cache *os.File, o GoferOptions) (program []byte, cached bool, err error) {
	r, err := o.rules()
	if err != nil {
		return nil, false, err
	}
	return r.load(cache)
}

func (r rules) load(cache *os.File) ([]byte, bool, error) {
	if cache == nil {
		p, err := r.build()
		return p, false, err
	}
	old, err := io.ReadAll(io.NewSectionReader(cache, 0, int64(box.MaxProgram)+1))
	if err == nil {
		if _, err := box.CheckProgram(old, r.key()); err == nil {
			return old, true, nil
		}
	}
	p, err := r.build()
	if err != nil {
		return nil, false, err
	}
	// Torn by a crash or by a second writer, the file fails its checksum and
	// is made anew.
	if _, err := cache.WriteAt(p, 0); err == nil {
		_ = cache.Truncate(int64(len(p)))
	}
	return p, false, nil
}

// key is the digest of everything a program is made from. The builder itself
// comes with the rules: both change with gVisor's version only, and its text
// forms are part of what is digested.
func (r rules) key() [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s\x00%v", gvisorVersion(), r.allow, r.deny, r.skip, r.options)
	return [sha256.Size]byte(h.Sum(nil))
}

func (r rules) build() ([]byte, error) {
	// The builder rewrites the rules that it is given, gVisor's own included.
	p := &seccomp.Program{RuleSets: []seccomp.RuleSet{{Rules: r.deny.Copy()}}, Options: r.options}
	if r.skip.Size() > 0 {
		p.RuleSets = append(p.RuleSets, seccomp.RuleSet{Rules: r.skip.Copy(), Action: seccomp.ReturnError.Code(0)})
	}
	p.RuleSets = append(p.RuleSets, seccomp.RuleSet{Rules: r.allow.Copy(), Action: seccomp.Allow})
	instructions, _, err := p.Build()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "build seccomp program")
	}
	return box.PackProgram(r.key(), encode(instructions))
}

// encode lays instructions out as the kernel reads them.
func encode(instructions []bpf.Instruction) []byte {
	var b bytes.Buffer
	for _, i := range instructions {
		var raw [8]byte
		binary.NativeEndian.PutUint16(raw[0:], i.OpCode)
		raw[2], raw[3] = i.JumpIfTrue, i.JumpIfFalse
		binary.NativeEndian.PutUint32(raw[4:], i.K)
		b.Write(raw[:])
	}
	return b.Bytes()
}
