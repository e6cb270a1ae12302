package kvm

import (
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// machine is a virtual machine with one virtual CPU and guestSize bytes of
// memory at guest-physical address 0. It is used by one goroutine.
type machine struct {
	vm, cpu int
	memory  []byte // the guest's
	shared  []byte // holds the runState
	offered *cpuidTable
}

// newMachine makes a machine that could be started: everything but its
// registers and its memory's contents is set. close it, also after an error.
func newMachine(dev int) (*machine, error) {
	m := &machine{vm: -1, cpu: -1}
	version, err := ioctl(dev, kvmGetAPIVersion, 0)
	if err != nil {
		return m, refused("KVM_GET_API_VERSION", err)
	}
	if version != apiVersion {
		return m, errdefs.Newf(errdefs.PlatformUnusable, "KVM has interface version %d instead of %d", version, apiVersion)
	}
	if m.vm, err = ioctl(dev, kvmCreateVM, 0); err != nil {
		m.vm = -1
		return m, refused("KVM_CREATE_VM", err)
	}
	for _, c := range []struct {
		name   string
		number uintptr
	}{
		{"KVM_CAP_USER_NMI", capUserNMI},
		{"KVM_CAP_VCPU_EVENTS", capVCPUEvents},
		{"KVM_CAP_READONLY_MEM", capReadonlyMem},
	} {
		if n, err := ioctl(m.vm, kvmCheckExtension, c.number); err != nil || n == 0 {
			return m, errdefs.Newf(errdefs.PlatformUnusable, "KVM lacks %s", c.name)
		}
	}
	if _, err := ioctl(m.vm, kvmSetTSSAddr, 0xfffbd000); err != nil {
		return m, refused("KVM_SET_TSS_ADDR", err)
	}
	m.memory, err = unix.Mmap(-1, 0, guestSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return m, refused("mmap of guest memory", err)
	}
	region := userMemoryRegion{length: guestSize, userspace: uint64(uintptr(unsafe.Pointer(&m.memory[0])))}
	if err := ioctlPtr(m.vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return m, refused("KVM_SET_USER_MEMORY_REGION", err)
	}
	return m, m.newCPU(dev)
}

// newCPU adds the virtual CPU and tells it which features it has.
func (m *machine) newCPU(dev int) (err error) {
	if m.cpu, err = ioctl(m.vm, kvmCreateVCPU, 0); err != nil {
		m.cpu = -1
		return refused("KVM_CREATE_VCPU", err)
	}
	size, err := ioctl(dev, kvmGetVCPUMmapSize, 0)
	if err != nil {
		return refused("KVM_GET_VCPU_MMAP_SIZE", err)
	}
	if size < int(unsafe.Sizeof(runState{})) {
		return errdefs.Newf(errdefs.PlatformUnusable, "KVM shares only %d bytes per CPU", size)
	}
	if m.shared, err = unix.Mmap(m.cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return refused("mmap of CPU state", err)
	}
	if m.offered, err = supportedCPUID(dev); err != nil {
		return err
	}
	if err := ioctlPtr(m.cpu, kvmSetCPUID2, unsafe.Pointer(m.offered)); err != nil {
		return refused("KVM_SET_CPUID2", err)
	}
	pat := modelRegisters{n: 1, index: 0x277, data: 0x0000000000010006}
	if err := ioctlPtr(m.cpu, kvmSetMSRs, unsafe.Pointer(&pat)); err != nil {
		return refused("KVM_SET_MSRS of the page attribute table", err)
	}
	return nil
}

// close ends the machine.
func (m *machine) close() {
	if m.shared != nil {
		_ = unix.Munmap(m.shared)
	}
	if m.cpu >= 0 {
		_ = unix.Close(m.cpu)
	}
	if m.vm >= 0 {
		_ = unix.Close(m.vm)
	}
	if m.memory != nil {
		_ = unix.Munmap(m.memory)
	}
}

func (m *machine) state() *runState { return (*runState)(unsafe.Pointer(&m.shared[0])) }

var errLate = errdefs.New(errdefs.PlatformUnusable, "the guest did not finish in time")

// run enters the guest until it leaves for a reason of its own, at most for
// limit.
func (m *machine) run(limit time.Duration) error {
	// The signal that ends KVM_RUN must reach the thread that is in it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	state, pid, tid := m.state(), os.Getpid(), unix.Gettid()
	late := make(chan struct{})
	timer := ktime.Real.AfterFunc(limit, func() {
		// immediateExit covers a thread that is about to enter the guest.
		// SIGURG is the Go runtime's own: its handler ignores what it did
		// not ask for.
		state.immediateExit = 1
		_ = unix.Tgkill(pid, tid, unix.SIGURG)
		close(late)
	})
	defer func() {
		if !timer.Stop() {
			<-late // It uses memory that the caller unmaps.
		}
	}()
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m.cpu), kvmRun, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR, unix.EAGAIN:
			select {
			case <-late:
				return errLate
			default:
			}
		default:
			return refused("KVM_RUN", errno)
		}
	}
}
