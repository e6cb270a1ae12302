package ctlfs

import (
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// What an agent pays for having /aios.
func BenchmarkInstance(b *testing.B) {
	w := newWorld(b)
	b.ReportAllocs()
	for b.Loop() {
		mnt, err := w.v.MountDisconnected(w.ctx, w.creds, "", Name, &vfs.MountOptions{GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true}})
		if err != nil {
			b.Fatal(err)
		}
		mnt.DecRef(w.ctx)
	}
}

// A delegation and its revocation, by text.
func BenchmarkCtl(b *testing.B) {
	w := newWorld(b)
	fd := w.mustOpen(alice, "/ctl", linux.O_RDWR)
	defer fd.DecRef(w.ctx)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.write(alice, fd, "delegate 1 to=bob rights=ro lease=30s\n"); err != nil {
			b.Fatal(err)
		}
		if err := w.write(alice, fd, "revoke-children 1\n"); err != nil {
			b.Fatal(err)
		}
	}
}

// The same by ioctl.
func BenchmarkDevice(b *testing.B) {
	w := newWorld(b)
	fd := w.device(alice)
	defer fd.DecRef(w.ctx)
	give := abi.DeviceChange{Handle: 1, Set: abi.DeviceSetRights | abi.DeviceSetLease, Rights: uint32(abi.FSRead), Lease: 1 << 40}
	abi.SetDeviceString(give.To[:], "bob")
	wire := abi.EncodeDevice(&give)
	revoke := abi.EncodeDevice(&abi.DeviceRef{Handle: 1, Flags: abi.DeviceChildrenOnly})
	calls := abi.DeviceCalls()
	memory := make([]byte, len(wire))
	b.ReportAllocs()
	for b.Loop() {
		copy(memory, wire)
		if err := w.rawIoctl(alice, fd, calls[abi.DeviceCallDelegate].Request(), memory); err != nil {
			b.Fatal(err)
		}
		copy(memory, revoke)
		if err := w.rawIoctl(alice, fd, calls[abi.DeviceCallRevoke].Request(), memory); err != nil {
			b.Fatal(err)
		}
	}
}
