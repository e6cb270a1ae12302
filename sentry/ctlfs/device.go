package ctlfs

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// DevicePath is where agents find the device.
const DevicePath = "/dev/aios"

// RegisterDevice makes the device known, under a number of its own. It must
// run before a file system of type dev is made, which gets the node.
func RegisterDevice(v *vfs.VirtualFilesystem, authority Authority) error {
	major, err := v.GetDynamicCharDevMajor()
	if err != nil {
		return err
	}
	return v.RegisterDevice(vfs.CharDevice, major, 0, device{authority}, &vfs.RegisterDeviceOptions{
		GroupName: "aios",
		Pathname:  "aios",
		FilePerms: 0o666,
	})
}

// device is /dev/aios.
type device struct{ auth Authority }

// Open implements vfs.Device.
func (d device) Open(ctx context.Context, mnt *vfs.Mount, dentry *vfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	s, err := newSession(ctx, d.auth, DevicePath)
	if err != nil {
		return nil, err
	}
	f := &deviceFile{session: s}
	if err := f.vfsfd.Init(f, opts.Flags, auth.CredentialsFromContext(ctx), mnt, dentry, &vfs.FileDescriptionOptions{
		UseDentryMetadata: true,
		DenyPRead:         true,
		DenyPWrite:        true,
		DenySpliceIn:      true,
		SpecialFile:       true,
	}); err != nil {
		return nil, err
	}
	return &f.vfsfd, nil
}

// deviceFile is an open /dev/aios. It takes ioctls, and is neither read nor
// written.
type deviceFile struct {
	vfs.FileDescriptionDefaultImpl
	vfs.DentryMetadataFileDescriptionImpl
	vfs.NoLockFD

	vfsfd   vfs.FileDescription
	session *session

	mu   sync.Mutex
	last error // of the last call, for AIOS_IOC_ERROR; +checklocks:mu
}

// Release implements vfs.FileDescriptionImpl.
func (*deviceFile) Release(context.Context) {}

// Ioctl implements vfs.FileDescriptionImpl.
func (f *deviceFile) Ioctl(ctx context.Context, uio usermem.IO, _ uintptr, args arch.SyscallArguments) (uintptr, error) {
	call, ok := abi.DeviceCallOf(args[1].Uint())
	if !ok {
		return 0, linuxerr.ENOTTY
	}
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	addr, opts := args[2].Pointer(), usermem.IOOpts{}
	wire := make([]byte, call.Size())
	if _, err := uio.CopyIn(ctx, addr, wire, opts); err != nil {
		return 0, linuxerr.EFAULT
	}
	arg := call.New()
	err := abi.DecodeDevice(arg, wire)
	if err == nil {
		err = abi.CheckDevice(arg)
	}
	if err != nil {
		return 0, f.failed(errdefs.New(errdefs.InvalidArgument, err.Error(), errdefs.Op(call.Name)))
	}
	// What cannot be answered must not be done.
	if _, err := uio.CopyOut(ctx, addr, wire, opts); err != nil {
		return 0, linuxerr.EFAULT
	}
	target := deviceTarget(arg)
	if err := f.call(ctx, call.Nr, arg); err != nil {
		f.session.report(call.Name, target, err)
		return 0, f.failed(err)
	}
	if call.Nr != abi.DeviceCallError {
		f.failed(nil)
	}
	if _, err := uio.CopyOut(ctx, addr, abi.EncodeDevice(arg), opts); err != nil {
		return 0, linuxerr.EFAULT
	}
	return 0, nil
}

// failed remembers the outcome of a call and returns it as the program gets it.
func (f *deviceFile) failed(err error) error {
	f.mu.Lock()
	f.last = err
	f.mu.Unlock()
	if err == nil {
		return nil
	}
	return errnoOf(err)
}

// call carries out a call, and fills in what it answers.
func (f *deviceFile) call(ctx context.Context, nr uint8, arg abi.DeviceStruct) error {
	s := f.session
	switch a := arg.(type) {
	case *abi.DeviceInfo:
		name, domain := s.auth.Self(s.agent)
		*a = abi.DeviceInfo{Version: abi.DeviceVersion}
		abi.SetDeviceString(a.Agent[:], s.agent)
		abi.SetDeviceString(a.Name[:], name)
		abi.SetDeviceString(a.Domain[:], domain)
		return nil
	case *abi.DeviceList:
		s.deviceList(a)
		return nil
	case *abi.DeviceCap:
		return s.deviceInspect(a)
	case *abi.DeviceChange:
		return s.deviceChange(ctx, nr, a)
	case *abi.DeviceRef:
		return s.deviceRef(ctx, nr, a)
	case *abi.DeviceText:
		switch nr {
		case abi.DeviceCallError:
			f.deviceError(a)
			return nil
		case abi.DeviceCallHint:
			return s.deviceHint(a)
		}
		return s.deviceExplain(ctx, a)
	}
	return linuxerr.ENOTTY
}

func (f *deviceFile) deviceError(a *abi.DeviceText) {
	f.mu.Lock()
	err := f.last
	f.mu.Unlock()
	*a = abi.DeviceText{}
	if err != nil {
		a.Errno = uint32(errno(err))
		abi.SetDeviceString(a.Text[:], errorText(err))
	}
}

func (s *session) deviceExplain(ctx context.Context, a *abi.DeviceText) error {
	op := abi.DeviceString(a.Text[:])
	if op == "" {
		return errdefs.New(errdefs.InvalidArgument, "the text is empty", errdefs.Op("explain"), errdefs.Fix("say which operation: open /etc/shadow"))
	}
	allowed, why, err := s.auth.Explain(ctx, s.agent, op)
	if err != nil {
		return err
	}
	*a = abi.DeviceText{}
	if allowed {
		a.Allowed = 1
	}
	abi.SetDeviceString(a.Text[:], why)
	return nil
}

func (s *session) deviceHint(a *abi.DeviceText) error {
	if hint := abi.DeviceString(a.Text[:]); hint != "" {
		if err := s.auth.SetHint(s.agent, hint); err != nil {
			return err
		}
	}
	hint, err := s.auth.Hint(s.agent)
	if err != nil {
		return err
	}
	*a = abi.DeviceText{}
	abi.SetDeviceString(a.Text[:], hint)
	return nil
}

// maxLease is the longest time that a structure can ask for.
const maxLease = 1<<63 - 1

func leaseOf(ns uint64) (time.Duration, error) {
	if ns == 0 || ns > maxLease {
		return 0, errdefs.New(errdefs.InvalidArgument, "the lease is no time to come", errdefs.Fix("give nanoseconds from 1 to 2^63-1"))
	}
	return time.Duration(ns), nil
}
