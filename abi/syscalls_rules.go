package abi

// Rule says how the arguments of a call change what it needs.
type Rule uint8

// The rules.
const (
	RulePlain    Rule = iota // the call needs its group
	RuleMmap                 // mmap: PROT_EXEC of memory, or with PROT_WRITE, needs memory-exec
	RuleBrk                  // brk: asking where the break is needs nothing
	RuleShmat                // shmat: SHM_EXEC needs memory-exec
	RuleProtect              // mprotect: only PROT_EXEC needs the right
	RuleClone                // clone: new namespaces need namespace
	RuleClone3               // clone3: the same, the flags being in memory
	RuleExec                 // execve: files of memory need memory-exec
	RuleSignal               // kill: oneself, and signal 0, need nothing
	RuleSelf                 // process_vm_readv: one's own memory needs nothing
	RuleSocket               // socket: the family decides
	RuleEndpoint             // bind: only network sockets need the right
	RuleDatagram             // sendto: only network sockets that are no streams need the right
	RuleUnshare              // unshare: only new namespaces need the right
	RuleDevice               // mknod: device nodes need admin
	ruleCount
)

var ruleTexts = [ruleCount]string{
	RulePlain:    "",
	RuleMmap:     "with PROT_EXEC also `memory-exec`, if the mapping is anonymous, writable, or of a file that is memory (memfd)",
	RuleBrk:      "where the break is may always be asked",
	RuleShmat:    "with SHM_EXEC also `memory-exec`",
	RuleProtect:  "only with PROT_EXEC",
	RuleClone:    "with CLONE_NEW… also `namespace`",
	RuleClone3:   "with CLONE_NEW… or CLONE_INTO_CGROUP also `namespace`",
	RuleExec:     "of a file that is memory (memfd) also `memory-exec`",
	RuleSignal:   "not for the calling process itself, nor for signal 0",
	RuleSelf:     "not for the calling process itself",
	RuleSocket:   "AF_UNIX is free; SOCK_RAW, SOCK_PACKET and AF_PACKET are `raw`; families other than AF_INET, AF_INET6 and AF_NETLINK answer EAFNOSUPPORT",
	RuleEndpoint: "only for sockets of AF_INET and AF_INET6",
	RuleDatagram: "only for sockets of AF_INET and AF_INET6 that are no streams",
	RuleUnshare:  "only with CLONE_NEW…; the rest is free",
	RuleDevice:   "character and block devices are `admin`; files, pipes and sockets are free",
}

// String is what the reference says of the rule; empty for RulePlain.
func (r Rule) String() string {
	if r >= ruleCount {
		return "?"
	}
	return ruleTexts[r]
}

// What Linux calls the numbers that the rules look at.
const (
	nrTkill            = 200
	nrTgkill           = 234
	nrMknodat          = 259
	nrRtTgsigqueueinfo = 297
	nrPidfdSendSignal  = 424

	protWrite    = 0x2
	protExec     = 0x4
	mapAnonymous = 0x20
	shmExec      = 0o100000

	modeType  = 0o170000
	modeChar  = 0o020000
	modeBlock = 0o060000

	familyUnspec  = 0
	familyUnix    = 1
	familyInet    = 2
	familyInet6   = 10
	familyNetlink = 16
	familyPacket  = 17
	socketType    = 0xf
	socketRaw     = 3
	socketPacket  = 10

	cloneNamespaces = 0x00000080 | // CLONE_NEWTIME, of unshare
		0x00020000 | // CLONE_NEWNS
		0x02000000 | // CLONE_NEWCGROUP
		0x04000000 | // CLONE_NEWUTS
		0x08000000 | // CLONE_NEWIPC
		0x10000000 | // CLONE_NEWUSER
		0x20000000 | // CLONE_NEWPID
		0x40000000 // CLONE_NEWNET
	cloneExitSignal = 0xff
	cloneIntoCgroup = 1 << 33 // clone3 only
)

// Needs returns the groups that the call needs, as far as the numbers in its
// arguments tell. What they do not tell is for the kernel to see: which file
// or socket a descriptor is (RuleMmap, RuleExec, RuleEndpoint, RuleDatagram),
// what memory holds (RuleClone3), who a number names (RuleSignal, RuleSelf).
func (c Syscall) Needs(args [6]uint64) uint64 {
	own := c.Group.Bit()
	switch c.Rule {
	case RuleMmap:
		return own | mmapNeeds(uint32(args[2]), uint32(args[3]))
	case RuleBrk:
		if args[0] == 0 {
			return 0
		}
	case RuleShmat:
		if args[2]&shmExec != 0 {
			own |= GroupMemExec.Bit()
		}
	case RuleProtect:
		if args[2]&protExec == 0 {
			return 0
		}
	case RuleClone:
		// The lowest byte is a signal, not CLONE_NEWTIME.
		return own | namespaceNeeds(uint64(uint32(args[0]))&^cloneExitSignal)
	case RuleSignal:
		if signalOf(c.Nr, args) == 0 {
			return 0
		}
	case RuleSocket:
		return SocketNeeds(int32(args[0]), int32(args[1]))
	case RuleUnshare:
		return namespaceNeeds(uint64(uint32(args[0])))
	case RuleDevice:
		mode := args[1]
		if c.Nr == nrMknodat {
			mode = args[2]
		}
		if t := mode & modeType; t == modeChar || t == modeBlock {
			own |= GroupAdmin.Bit()
		}
	}
	return own
}

// May returns every group that the call can need, whatever its arguments. It
// holds all that Needs returns.
func (c Syscall) May() uint64 {
	own := c.Group.Bit()
	switch c.Rule {
	case RuleMmap, RuleShmat, RuleExec:
		own |= GroupMemExec.Bit()
	case RuleClone, RuleClone3:
		own |= GroupNamespace.Bit()
	case RuleSocket:
		own |= GroupRaw.Bit()
	case RuleDevice:
		own |= GroupAdmin.Bit()
	}
	return own
}

func mmapNeeds(prot, flags uint32) uint64 {
	if prot&protExec != 0 && (prot&protWrite != 0 || flags&mapAnonymous != 0) {
		return GroupMemExec.Bit()
	}
	return 0
}

func namespaceNeeds(flags uint64) uint64 {
	if flags&cloneNamespaces != 0 {
		return GroupNamespace.Bit()
	}
	return 0
}

// Clone3Needs is Needs for the flags that clone3 finds in memory.
func Clone3Needs(flags uint64) uint64 {
	if flags&cloneIntoCgroup != 0 {
		return GroupNamespace.Bit()
	}
	return namespaceNeeds(flags)
}

// SocketNeeds returns what making a socket needs. Families that the kernel
// does not have need nothing: it refuses them itself.
func SocketNeeds(family, typ int32) uint64 {
	if typ &= socketType; family != familyNetlink && family != familyUnix && typ == socketRaw || typ == socketPacket {
		return GroupRaw.Bit()
	}
	switch family {
	case familyInet, familyInet6, familyNetlink:
		return GroupSocket.Bit()
	case familyPacket:
		return GroupRaw.Bit()
	}
	return 0
}

// KnownFamily reports whether sockets of the family can exist in an agent.
// Others are refused with EAFNOSUPPORT, whatever the kernel may learn.
func KnownFamily(family int32) bool {
	switch family {
	case familyUnspec, familyUnix, familyInet, familyInet6, familyNetlink, familyPacket:
		return true
	}
	return false
}

// signalOf returns the signal that a call of RuleSignal sends.
func signalOf(nr uint16, args [6]uint64) uint32 {
	switch nr {
	case nrTgkill, nrRtTgsigqueueinfo:
		return uint32(args[2])
	}
	return uint32(args[1])
}

// TargetOf returns the process or thread that a call of RuleSignal or RuleSelf
// is aimed at; ok is false if it is no positive number, or a descriptor. When
// a call names both a process and a thread of it, the process is returned.
func (c Syscall) TargetOf(args [6]uint64) (id int32, thread, ok bool) {
	id = int32(args[0])
	return id, c.Nr == nrTkill, id > 0 && c.Nr != nrPidfdSendSignal
}
