package sentry

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// sendSignal is pidfd_send_signal. A number means nothing outside an agent, but
// a descriptor that names a process can be passed to another agent: there it is
// no right to signal, for which that agent needs a capability to this one. The
// descriptor is looked up once, so that another thread cannot change what it
// names after it was checked.
func (s *Kernel) sendSignal(call abi.Syscall) kernel.SyscallFn {
	return func(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		sig, flags := linux.Signal(args[1].Int()), args[3].Uint()
		switch flags {
		case 0, linux.PIDFD_SIGNAL_THREAD, linux.PIDFD_SIGNAL_THREAD_GROUP, linux.PIDFD_SIGNAL_PROCESS_GROUP:
		default:
			return 0, nil, linuxerr.EINVAL
		}
		if sig != 0 && !sig.IsValid() {
			return 0, nil, linuxerr.EINVAL
		}
		file := t.GetFile(args[0].Int())
		if file == nil {
			return 0, nil, linuxerr.EBADF
		}
		defer file.DecRef(t)
		var info *linux.SignalInfo
		if addr := args[2].Pointer(); addr != 0 {
			info = new(linux.SignalInfo)
			if _, err := info.CopyIn(t, addr); err != nil {
				return 0, nil, err
			}
		}
		if err := s.ownProcess(t, call, file); err != nil {
			return 0, nil, err
		}
		return 0, nil, t.PIDFDSendSignal(file, sig, info, flags)
	}
}

// ownDescriptors lets a call that takes things from the process that a
// descriptor names have those of the agent's own. The call looks the descriptor
// up again; what it then finds it may take only from its own children.
func (s *Kernel) ownDescriptors(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if file := t.GetFile(args[0].Int()); file != nil {
			defer file.DecRef(t)
			if err := s.ownProcess(t, call, file); err != nil {
				return 0, nil, err
			}
		}
		return inner(t, sysno, args)
	}
}

// ownProcess refuses, and notes, a descriptor of a process of another agent.
func (s *Kernel) ownProcess(t *kernel.Task, call abi.Syscall, file *vfs.FileDescription) error {
	target, err := kernel.PIDFDTask(file)
	if err != nil || target.ContainerID() == t.ContainerID() {
		return nil // Or it has ended, or is none: that is for the call to say.
	}
	d := Denial{Agent: t.ContainerID(), Operation: call.Name, Object: "a process of another agent", Errno: unix.EPERM}
	if call.Rule == abi.RuleSignal {
		d.Capability = abi.Held{Class: abi.ClassAgent, Object: target.ContainerID(), Rights: abi.AgentSignal}.String()
		d.Why = "another agent is signalled through /aios/ctl, by " + d.Capability
	}
	s.gate.denials.note(d)
	return linuxerr.EPERM
}
