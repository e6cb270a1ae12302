package ctlfs

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	gverrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"pgregory.net/rapid"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
)

func TestDeviceCalls(t *testing.T) {
	w := newWorld(t)
	fd := w.device(alice)
	defer fd.DecRef(w.ctx)
	call := func(nr uint8, arg abi.DeviceStruct) {
		t.Helper()
		if err := w.ioctl(alice, fd, nr, arg); err != nil {
			var why abi.DeviceText
			w.ioctl(alice, fd, abi.DeviceCallError, &why)
			t.Fatalf("call %d: %v: %s", nr, err, abi.DeviceString(why.Text[:]))
		}
	}

	info := &abi.DeviceInfo{}
	call(abi.DeviceCallInfo, info)
	if info.Version != abi.DeviceVersion || abi.DeviceString(info.Agent[:]) != alice || abi.DeviceString(info.Name[:]) != "alice" || abi.DeviceString(info.Domain[:]) != "default" {
		t.Errorf("info is %+v", info)
	}

	list := &abi.DeviceList{}
	call(abi.DeviceCallList, list)
	if list.Count != 3 || list.More != 0 || list.Handles[0] != 1 || list.Handles[2] != 3 {
		t.Errorf("the list is %+v", list)
	}

	give := &abi.DeviceChange{
		Handle: 1, Set: abi.DeviceSetObject | abi.DeviceSetRights | abi.DeviceSetBytes | abi.DeviceSetLease | abi.DeviceSetBadge | abi.DeviceSetAt | abi.DeviceSetSealed,
		Rights: uint32(abi.FSRead | abi.FSWrite), Limits: abi.DeviceLimits{Bytes: 1 << 20}, Lease: uint64(time.Minute), Badge: 9,
	}
	abi.SetDeviceString(give.To[:], "bob")
	abi.SetDeviceString(give.Object[:], "/data/in")
	abi.SetDeviceString(give.At[:], "/in")
	call(abi.DeviceCallDelegate, give)
	given := abi.DeviceString(give.ID[:])
	if give.Handle != 1 || abi.DeviceString(give.To[:]) != bob {
		t.Errorf("delegate answers handle %d of %q", give.Handle, abi.DeviceString(give.To[:]))
	}
	if got := w.cat(bob, "/self/caps"); !strings.HasPrefix(got, "1 "+given+" fs:/data/in:read+write,quota=1M,at=/in,lease=1m0s,badge=9,sealed ") {
		t.Errorf("bob holds %q", got)
	}

	bobs := w.device(bob)
	defer bobs.DecRef(w.ctx)
	c := &abi.DeviceCap{Handle: 1}
	if err := w.ioctl(bob, bobs, abi.DeviceCallInspect, c); err != nil {
		t.Fatal(err)
	}
	if c.Class != uint32(abi.ClassFS) || c.Badge != 9 || c.Flags != abi.DeviceCapSealed|abi.DeviceCapLeased || c.LeaseLeft != uint64(time.Minute) ||
		c.Limits.Bytes != 1<<20 || c.Left.Bytes != 1<<20 || abi.DeviceString(c.Object[:]) != "/data/in" || abi.DeviceString(c.At[:]) != "/in" ||
		abi.DeviceString(c.ID[:]) != given || c.Parent[0] != 'c' {
		t.Errorf("inspect answers %+v", c)
	}

	renew := &abi.DeviceRef{Lease: uint64(time.Hour)}
	abi.SetDeviceString(renew.ID[:], given)
	call(abi.DeviceCallRenew, renew)
	if err := w.ioctl(bob, bobs, abi.DeviceCallInspect, c); err != nil || c.LeaseLeft != uint64(time.Hour) {
		t.Errorf("after it was renewed: %d, %v", c.LeaseLeft, err)
	}

	narrow := &abi.DeviceChange{Handle: 3, Set: abi.DeviceSetBytes, Limits: abi.DeviceLimits{Bytes: 1 << 20}}
	call(abi.DeviceCallAttenuate, narrow)
	seal := &abi.DeviceRef{Handle: 3}
	call(abi.DeviceCallSeal, seal)
	if got := w.cat(alice, "/self/caps"); !strings.Contains(got, "mem:self,bytes=1M,sealed\n") {
		t.Errorf("alice holds %s", got)
	}

	explain := &abi.DeviceText{}
	abi.SetDeviceString(explain.Text[:], "open /data/x")
	call(abi.DeviceCallExplain, explain)
	if explain.Allowed != 1 || abi.DeviceString(explain.Text[:]) != "because of what "+alice+" holds" {
		t.Errorf("explain answers %d, %q", explain.Allowed, abi.DeviceString(explain.Text[:]))
	}

	for _, c := range []struct{ say, want string }{{"batch", "batch"}, {"", "batch"}} {
		hint := &abi.DeviceText{}
		abi.SetDeviceString(hint.Text[:], c.say)
		call(abi.DeviceCallHint, hint)
		if got := abi.DeviceString(hint.Text[:]); got != c.want {
			t.Errorf("hint %q answers %q", c.say, got)
		}
	}

	revoke := &abi.DeviceRef{Handle: 1, Flags: abi.DeviceChildrenOnly}
	call(abi.DeviceCallRevoke, revoke)
	if revoke.Count != 1 || w.cat(bob, "/self/caps") != "" {
		t.Errorf("revoked %d, bob holds %q", revoke.Count, w.cat(bob, "/self/caps"))
	}
	if denied := w.k.takeDenied(); denied != "" {
		t.Errorf("refusals were reported: %s", denied)
	}
}

func TestDeviceListsInPieces(t *testing.T) {
	w := newWorld(t)
	for range 100 {
		w.mint(hundred, "sys:namespace")
	}
	fd := w.device(hundred)
	defer fd.DecRef(w.ctx)
	seen := uint64(0)
	for list := (&abi.DeviceList{More: 1}); list.More == 1; {
		list = &abi.DeviceList{After: seen}
		if err := w.ioctl(hundred, fd, abi.DeviceCallList, list); err != nil {
			t.Fatal(err)
		}
		for _, h := range list.Handles[:list.Count] {
			if h != seen+1 {
				t.Fatalf("after %d comes %d", seen, h)
			}
			seen = h
		}
	}
	if seen != 100 {
		t.Errorf("the last is %d", seen)
	}
}

func TestDeviceRefuses(t *testing.T) {
	w := newWorld(t)
	fd := w.device(alice)
	defer fd.DecRef(w.ctx)
	named := func(c abi.DeviceChange, to string) *abi.DeviceChange {
		abi.SetDeviceString(c.To[:], to)
		return &c
	}
	withID := func(r abi.DeviceRef, id string) *abi.DeviceRef {
		abi.SetDeviceString(r.ID[:], id)
		return &r
	}
	for what, tc := range map[string]struct {
		nr   uint8
		arg  abi.DeviceStruct
		want error
	}{
		"inspect what is not there":  {abi.DeviceCallInspect, &abi.DeviceCap{Handle: 99}, linuxerr.EBADF},
		"inspect the largest number": {abi.DeviceCallInspect, &abi.DeviceCap{Handle: 1<<64 - 1}, linuxerr.EBADF},
		"inspect nothing":            {abi.DeviceCallInspect, &abi.DeviceCap{}, linuxerr.EINVAL},
		"delegate to nobody":         {abi.DeviceCallDelegate, &abi.DeviceChange{Handle: 1}, linuxerr.EINVAL},
		"delegate to a path":         {abi.DeviceCallDelegate, named(abi.DeviceChange{Handle: 1}, "../x"), linuxerr.EINVAL},
		"delegate to an unknown one": {abi.DeviceCallDelegate, named(abi.DeviceChange{Handle: 1}, "a0123456789ab"), linuxerr.ESRCH},
		"unknown rights":             {abi.DeviceCallAttenuate, &abi.DeviceChange{Handle: 1, Set: abi.DeviceSetRights, Rights: 1 << 31}, linuxerr.EPERM},
		"no rights":                  {abi.DeviceCallAttenuate, &abi.DeviceChange{Handle: 1, Set: abi.DeviceSetRights}, linuxerr.EINVAL},
		"an empty object":            {abi.DeviceCallAttenuate, &abi.DeviceChange{Handle: 1, Set: abi.DeviceSetObject}, linuxerr.EINVAL},
		"a huge limit":               {abi.DeviceCallAttenuate, &abi.DeviceChange{Handle: 1, Set: abi.DeviceSetCount, Limits: abi.DeviceLimits{Count: 1<<64 - 1}}, linuxerr.EINVAL},
		"a limit of another class":   {abi.DeviceCallAttenuate, &abi.DeviceChange{Handle: 1, Set: abi.DeviceSetMilliCPU, Limits: abi.DeviceLimits{MilliCPU: 1}}, linuxerr.EINVAL},
		"a negative lease":           {abi.DeviceCallAttenuate, &abi.DeviceChange{Handle: 1, Set: abi.DeviceSetLease, Lease: 1 << 63}, linuxerr.EINVAL},
		"move with attenuate":        {abi.DeviceCallAttenuate, &abi.DeviceChange{Handle: 1, Flags: abi.DeviceMove}, linuxerr.EINVAL},
		"renew what was not given":   {abi.DeviceCallRenew, &abi.DeviceRef{Handle: 1, Lease: 1}, linuxerr.EPERM},
		"renew for no time":          {abi.DeviceCallRenew, &abi.DeviceRef{Handle: 1}, linuxerr.EINVAL},
		"renew with a flag":          {abi.DeviceCallRenew, &abi.DeviceRef{Handle: 1, Lease: 1, Flags: 1}, linuxerr.EINVAL},
		"seal with a lease":          {abi.DeviceCallSeal, &abi.DeviceRef{Handle: 1, Lease: 1}, linuxerr.EINVAL},
		"seal by ID":                 {abi.DeviceCallSeal, withID(abi.DeviceRef{}, "c0123456789ab"), linuxerr.EINVAL},
		"revoke a forged ID":         {abi.DeviceCallRevoke, withID(abi.DeviceRef{}, "c0123456789ab"), linuxerr.EBADF},
		"revoke no ID":               {abi.DeviceCallRevoke, withID(abi.DeviceRef{}, "nonsense"), linuxerr.EINVAL},
		"explain nothing":            {abi.DeviceCallExplain, &abi.DeviceText{}, linuxerr.EINVAL},
		"hint that is none":          {abi.DeviceCallHint, hintOf("fast"), linuxerr.EINVAL},
	} {
		if err := w.ioctl(alice, fd, tc.nr, tc.arg); err != tc.want {
			t.Errorf("%s: %v, want %v", what, err, tc.want)
		}
		var why abi.DeviceText
		if err := w.ioctl(alice, fd, abi.DeviceCallError, &why); err != nil {
			t.Fatal(err)
		}
		if text := abi.DeviceString(why.Text[:]); why.Errno != uint32(tc.want.(*gverrors.Error).Errno()) || !strings.HasPrefix(text, "error ") {
			t.Errorf("%s: errno %d, %q", what, why.Errno, text)
		}
	}
	if err := w.ioctl(alice, fd, abi.DeviceCallList, &abi.DeviceList{}); err != nil {
		t.Fatal(err)
	}
	var why abi.DeviceText
	if err := w.ioctl(alice, fd, abi.DeviceCallError, &why); err != nil || why.Errno != 0 || why.Text[0] != 0 {
		t.Errorf("after a call that succeeded: %d, %v", why.Errno, err)
	}
}

func TestDeviceServesItsAgentAlone(t *testing.T) {
	w := newWorld(t)
	fd := w.device(alice)
	defer fd.DecRef(w.ctx)
	give := &abi.DeviceChange{Handle: 1}
	abi.SetDeviceString(give.To[:], "bob")
	if err := w.ioctl(bob, fd, abi.DeviceCallDelegate, give); err != linuxerr.EPERM {
		t.Errorf("bob uses what alice opened: %v", err)
	}
	if got := w.k.takeDenied(); got != bob+" use /dev/aios CAPABILITY_DENIED" {
		t.Errorf("reported %q", got)
	}
	if got := w.cat(bob, "/self/caps"); got != "" {
		t.Errorf("bob has got %q", got)
	}
}

// A memory that cannot take the answer must not see the deed done.
func TestDeviceFaults(t *testing.T) {
	w := newWorld(t)
	fd := w.device(alice)
	defer fd.DecRef(w.ctx)
	for _, c := range abi.DeviceCalls() {
		for _, size := range []int{0, 1, c.Size() - 1} {
			memory := abi.EncodeDevice(c.New())[:size]
			if size > 0 {
				memory[0] = 1
			}
			if err := w.rawIoctl(alice, fd, c.Request(), memory); err != linuxerr.EFAULT {
				t.Errorf("%s with %d bytes of memory: %v", c.Name, size, err)
			}
		}
	}
	if n := len(w.k.space.List(alice)); n != 3 {
		t.Errorf("alice holds %d capabilities", n)
	}
}

func TestDeviceIsNeitherReadNorWritten(t *testing.T) {
	w := newWorld(t)
	fd := w.device(alice)
	defer fd.DecRef(w.ctx)
	buf := usermem.BytesIOSequence(make([]byte, 9))
	if _, err := fd.Read(w.as(alice), buf, vfs.ReadOptions{}); err == nil || err == io.EOF {
		t.Errorf("read: %v", err)
	}
	if _, err := fd.Write(w.as(alice), buf, vfs.WriteOptions{}); err == nil {
		t.Error("write is possible")
	}
	if err := w.rawIoctl(alice, fd, linux.TCGETS, make([]byte, 64)); err != linuxerr.ENOTTY {
		t.Errorf("TCGETS: %v", err)
	}
}

// narrower fails if anything that lives says more than what it comes from.
func narrower(t *rapid.T, space *capability.Space) {
	for _, c := range space.Tree() {
		p := c.Parent()
		if p == nil {
			continue
		}
		s, of := c.Spec(), p.Spec()
		if !of.Rights.Has(s.Rights) || !of.Object.Contains(s.Object) || of.Limits.Bytes != 0 && s.Limits.Bytes > of.Limits.Bytes {
			t.Fatalf("%s was derived from %s", s, of)
		}
	}
}

// Whatever a program puts into a structure or a line, it gets an errno that
// Linux has, nothing panics, and nobody comes to hold more than was granted.
func TestGarbage(t *testing.T) {
	w := newWorld(t)
	devices := map[string]*vfs.FileDescription{alice: w.device(alice), bob: w.device(bob)}
	for _, fd := range devices {
		defer fd.DecRef(w.ctx)
	}
	calls := abi.DeviceCalls()
	few := rapid.Uint64Range(0, 12)
	words := rapid.SampledFrom([]string{
		"list", "tree", "inspect", "attenuate", "delegate", "move", "seal", "renew", "revoke-children", "explain", "signal", "pause",
		"1", "2", "3", "9", "0", "-1", "to=alice", "to=bob", "to=self", "to=far", "rights=ro", "rights=rw", "rights=read", "quota=1M", "quota=9E",
		"bytes=1M", "bytes=1G", "object=/data/x", "object=/", "object=/data/../etc", "lease=1s", "lease=1h", "lease=-1s", "badge=3", "sealed",
		"at=/x", "agent=bob", "TERM", "open", "=", "\x00", "\n", "c0123456789ab", "%", "é", "\xff",
	})
	rapid.Check(t, func(t *rapid.T) {
		agent := rapid.SampledFrom([]string{alice, bob}).Draw(t, "agent")
		var err error
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0: // any request, any bytes
			memory := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "memory")
			err = w.rawIoctl(agent, devices[agent], rapid.Uint32().Draw(t, "request"), memory)
		case 1: // a real request, bytes sprinkled over its structure
			c := calls[rapid.IntRange(0, len(calls)-1).Draw(t, "call")]
			memory := make([]byte, c.Size())
			for range rapid.IntRange(0, 40).Draw(t, "bytes") {
				at := rapid.IntRange(0, 400).Draw(t, "at") % len(memory)
				memory[at] = rapid.Byte().Draw(t, "byte")
			}
			err = w.rawIoctl(agent, devices[agent], c.Request(), memory)
		case 2: // a structure that means something
			change := &abi.DeviceChange{
				Handle: few.Draw(t, "handle"), Set: rapid.Uint32Range(0, 1<<12).Draw(t, "set"), Flags: rapid.Uint32Range(0, 2).Draw(t, "flags"),
				Rights: rapid.Uint32Range(0, 64).Draw(t, "rights"), Lease: rapid.Uint64().Draw(t, "lease"), Badge: few.Draw(t, "badge"),
				Limits: abi.DeviceLimits{Bytes: rapid.Uint64().Draw(t, "limit"), Count: few.Draw(t, "count")},
			}
			abi.SetDeviceString(change.To[:], rapid.SampledFrom([]string{"alice", "bob", "far", "", "x/y"}).Draw(t, "to"))
			abi.SetDeviceString(change.Object[:], rapid.SampledFrom([]string{"/data", "/data/x", "/", "self", "bob", "*", "", "../"}).Draw(t, "object"))
			nr := rapid.SampledFrom([]uint8{abi.DeviceCallDelegate, abi.DeviceCallAttenuate}).Draw(t, "call")
			err = w.rawIoctl(agent, devices[agent], calls[nr].Request(), abi.EncodeDevice(change))
		case 3:
			line := strings.Join(rapid.SliceOfN(words, 0, 6).Draw(t, "words"), " ")
			fd := w.mustOpen(agent, "/ctl", linux.O_RDWR)
			_, err = fd.Write(w.as(agent), usermem.BytesIOSequence([]byte(line)), vfs.WriteOptions{})
			answer, readErr := w.read(agent, fd)
			fd.DecRef(w.ctx)
			if readErr != nil || line != "" && strings.HasPrefix(answer, "ok") != (err == nil) {
				t.Fatalf("%q: %v, and the answer is %q, %v", line, err, answer, readErr)
			}
		}
		var known *gverrors.Error
		if err != nil && !errors.As(err, &known) {
			t.Fatalf("an error that is no errno: %v", err)
		}
		narrower(t, w.k.space)
		if len(w.k.space.List(alice)) < 2 || len(w.k.space.List(alice)) > 200 {
			w.refill()
		}
	})
	t.Logf("at the end: %d capabilities", len(w.k.space.Tree()))
}

// refill takes everything back, and gives alice new ones.
func (w *world) refill() {
	op := capability.Actor{Name: "operator", Privileged: true}
	for _, h := range []string{alice, bob} {
		w.k.space.RevokeHolder(h, op, "")
	}
	w.mint(alice, "fs:/data:rw,quota=1G")
	w.mint(alice, "agent:*")
	w.mint(alice, "mem:self,bytes=64M")
}

func hintOf(text string) *abi.DeviceText {
	a := &abi.DeviceText{}
	abi.SetDeviceString(a.Text[:], text)
	return a
}
