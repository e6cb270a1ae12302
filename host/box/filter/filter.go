// Package filter holds the seccomp programs of AIOS's helper processes: which
// calls of the host's kernel a kernel process, a gofer and semantic memory may
// make, on each platform and for each class of what was granted.
//
// The tables of rules are the source: goRuntime, kernelBase, kernelFiles, the
// platforms, the gofers and semanticBase. `make generate` has libseccomp compile
// each into a BPF program; the programs are checked in and embedded, so that a
// process takes its own as it is and installs it. Nothing is compiled when a
// domain starts, and no C is linked. A test runs every program through an interpreter
// and compares it with its table, and each table with gVisor's own rules.
//
// Key types: Guard, Rule and Table are the rules; Spec is one program with its
// table; Class is what a kernel process was granted.
//
// A filter cannot be widened. The class is chosen when a domain starts and
// holds for its life: a domain of class Compute has no use for a gofer, and
// giving it one kills it.
//
// The package holds no state. It imports package box, for the form of
// programs, and no gVisor: only its tests compare with it.
package filter

import (
	"embed"
	"slices"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/host/box"
)

// Class is what was granted to a kernel process, as far as its calls of the
// host depend on it.
type Class uint8

// The classes.
const (
	// Compute is a domain whose agents see imported images and what they make
	// themselves, and no directory of the host.
	Compute Class = iota
	// Files is a domain that directories of the host may be granted to, through
	// gofers. The host image is made of such directories.
	Files
)

// String returns the class as it stands in the names of programs.
func (c Class) String() string {
	if c == Files {
		return "files"
	}
	return "compute"
}

// GoferOptions is what a gofer was granted.
type GoferOptions struct {
	// ReadOnly is a gofer that changes nothing.
	ReadOnly bool
	// KeepOwner makes giving a file to root do nothing and succeed. What an
	// agent's root makes is given to root; a gofer that cannot give files away
	// keeps it for its user instead.
	KeepOwner bool
}

func (o GoferOptions) name() string {
	switch {
	case o.ReadOnly:
		return "gofer-read"
	case o.KeepOwner:
		return "gofer-keep"
	}
	return "gofer-write"
}

// Spec is one program.
type Spec struct {
	// Name is that of its file, without ".bpf".
	Name  string
	Table Table
	// First are the calls to look for first, being the most frequent.
	First []uint32
}

// Specs returns every program there is, by name.
func Specs() []Spec {
	var out []Spec
	for _, name := range []string{"kvm", "ptrace", "systrap"} {
		for _, c := range []Class{Compute, Files} {
			t := append(kernelBase(), platforms[name]()...)
			if c == Files {
				t = append(t, kernelFiles()...)
			}
			out = append(out, Spec{Name: kernelName(name, c), Table: needed(t), First: first[name]})
		}
	}
	write := append(goferBase(), goferWrite()...)
	return append(out,
		Spec{Name: GoferOptions{KeepOwner: true}.name(), Table: needed(append(slices.Clone(write), goferKeepOwner()...)), First: first["gofer"]},
		Spec{Name: GoferOptions{ReadOnly: true}.name(), Table: needed(append(goferBase(), goferRead()...)), First: first["gofer"]},
		Spec{Name: GoferOptions{}.name(), Table: needed(append(slices.Clone(write), goferOwner()...)), First: first["gofer"]},
		Spec{Name: semanticName, Table: needed(semanticBase()), First: first[semanticName]},
	)
}

// first is what each process calls most: the host's kernel remembers the
// answer to a call whose arguments do not matter, so only the others count.
var first = map[string][]uint32{
	"systrap":    {unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_PTRACE, unix.SYS_MMAP, unix.SYS_IOCTL, unix.SYS_RECVMSG, unix.SYS_SENDMSG},
	"ptrace":     {unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_MMAP, unix.SYS_RECVMSG, unix.SYS_SENDMSG},
	"kvm":        {unix.SYS_IOCTL, unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_MMAP, unix.SYS_RECVMSG, unix.SYS_SENDMSG},
	semanticName: {unix.SYS_FCNTL, unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_MMAP, unix.SYS_ACCEPT4},
	"gofer":      {unix.SYS_FUTEX, unix.SYS_OPENAT, unix.SYS_STATX, unix.SYS_RECVMSG, unix.SYS_SENDMSG},
}

func kernelName(platform string, c Class) string { return "kernel-" + platform + "-" + c.String() }

// needed drops rules that others make needless.
func needed(t Table) Table {
	var out Table
	for i, r := range t {
		if !slices.ContainsFunc(t[:i], r.within) && !slices.ContainsFunc(t[i+1:], func(o Rule) bool { return r.within(o) && !o.within(r) }) {
			out = append(out, r)
		}
	}
	return out
}

//go:embed *.bpf
var programs embed.FS

// Kernel returns the program of a kernel process, for box.InstallProgram.
func Kernel(platform string, c Class) ([]byte, error) {
	return read(kernelName(platform, c))
}

// Gofer returns the program of a gofer.
func Gofer(o GoferOptions) ([]byte, error) { return read(o.name()) }

// Semantic returns the program of semantic memory.
func Semantic() ([]byte, error) { return read(semanticName) }

func read(name string) ([]byte, error) {
	p, err := programs.ReadFile(name + ".bpf")
	if err != nil {
		return nil, errdefs.New(errdefs.InvalidArgument, "there is no such program", errdefs.Op("read seccomp program"),
			errdefs.Resource("%s", name), errdefs.Fix("name one of the platforms systrap, ptrace and kvm"))
	}
	if _, err := box.ReadProgram(p); err != nil {
		return nil, err
	}
	return p, nil
}
