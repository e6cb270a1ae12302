package sentry

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	eventv1 "aios.dev/aios/event/v1"
)

var regionImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-region")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "region", func(root string) error {
		for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		prog, err := compiled(dir, "region")
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(root, "bin/region"), prog, 0o755)
	})
})

// regioner starts an agent that does to regions what it is told.
func regioner(t testing.TB, opts ...func(*control.SpawnRequest)) *spawned {
	t.Helper()
	racerProgram(t) // Or skips.
	if err := regionImage(); err != nil {
		t.Fatal(err)
	}
	s := spawn(t, []string{"/bin/region"}, append([]func(*control.SpawnRequest){withStdin, func(r *control.SpawnRequest) { r.Root.Base = "region" }}, opts...)...)
	s.expect("ready\n")
	return s
}

// say has it do something, and wants an outcome.
func (s *spawned) say(line string, want int) {
	s.t.Helper()
	if got := s.told(line); got != want {
		s.t.Errorf("%s: %d, not %d", line, got, want)
	}
}

func (s *spawned) told(line string) int {
	s.t.Helper()
	what, _, _ := strings.Cut(line, " ")
	s.send(line + "\n")
	return parseOutcome(s.t, s.expect("\n"), what)
}

func parseOutcome(t testing.TB, out, what string) int {
	t.Helper()
	text, ok := strings.CutPrefix(out, what+": ")
	n := 0
	if _, err := fmt.Sscan(text, &n); !ok || err != nil {
		t.Fatalf("%s gives %q", what, out)
	}
	return n
}

// fab does something with regions as the operator.
func fab(t testing.TB, req control.FabricRequest) control.FabricReply {
	t.Helper()
	r, err := theKernel.Fabric(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Op, req.Name, err)
	}
	return r
}

// regionOf makes a region that is removed with the test.
func regionOf(t testing.TB, req control.FabricRequest) control.Region {
	t.Helper()
	req.Op = control.FabricCreate
	r := fab(t, req).Regions[0]
	t.Cleanup(func() { theKernel.Fabric(control.FabricRequest{Op: control.FabricRemove, Name: req.Name}) })
	return r
}

func share(t testing.TB, name string, to *spawned, rights string, lease time.Duration) *control.Cap {
	t.Helper()
	return fab(t, control.FabricRequest{Op: control.FabricShare, Name: name, Agent: to.id, Rights: rights, Lease: lease}).Cap
}

const bus = -int(syscall.SIGBUS)

// TestRegionIsShared has two agents use the same pages, each as far as it may.
func TestRegionIsShared(t *testing.T) {
	a, b := regioner(t), regioner(t)
	regionOf(t, control.FabricRequest{Name: "table", Agent: a.id, Size: 3 << 20})
	b.say("open /aios/fabric/table r", int(unix.ENOENT))
	share(t, "table", b, "read", 0)
	a.say("open /aios/fabric/table rw", 0)
	a.say("map w", 0)
	b.say("open /aios/fabric/table rw", int(unix.EPERM))
	b.say("open /aios/fabric/table r", 0)
	b.say("map r", 0)
	for _, off := range []string{"0", "70000", "3145727"} {
		a.say("poke "+off+" 7", 0)
		b.say("peek "+off, 1007)
		b.say("pread "+off, 1007)
	}
	a.say("readinto 5", 0)
	b.say("peek 5", 1000+'k')
	b.say("child 5", 1000+'k')
}

// TestReadOnlyRegion tries every way there is to write what may only be read.
func TestReadOnlyRegion(t *testing.T) {
	b := regioner(t)
	regionOf(t, control.FabricRequest{Name: "table", Size: 1 << 20})
	share(t, "table", b, "read", 0)
	b.say("open /aios/fabric/table r", 0)
	b.say("map r", 0)
	b.say("peek 9", 1000)
	b.say("poke 9 1", -int(syscall.SIGSEGV))
	b.say("protect w", int(unix.EACCES))
	b.say("protect wx", int(unix.EACCES))
	b.say("map w", int(unix.EACCES))
	b.say("map x", int(unix.EPERM)) // as from any file system without programs
	b.say("pwrite 9 1", int(unix.EBADF))
	b.say("reopen", int(unix.EPERM))
	b.say("exec", int(unix.EACCES))
	for _, way := range []string{"procmem 9 1", "vmwrite 9 1", "poketext 9 1", "readinto 9"} {
		if b.told(way) == 0 {
			t.Errorf("%s succeeds", way)
		}
	}
	for _, way := range []string{"truncate 0", "link /aios/fabric/table /tmp/l", "rename /aios/fabric/table /tmp/l", "unlink /aios/fabric/table"} {
		if b.told(way) == 0 {
			t.Errorf("%s succeeds", way)
		}
	}
	b.say("peek 9", 1000)
	b.say("map pw", 0) // A copy of its own.
	b.say("poke 9 1", 0)
	b.say("pread 9", 1000)
	b.say("length 0 257", int(unix.EINVAL)) // a page more than there is
	b.say("length 1048576 1", int(unix.EINVAL))
	b.say("length 1044480 1", 0)
}

// leaseEnds shortens a lease and waits for its end.
func leaseEnds(s *spawned, c *control.Cap) {
	short := 20 * time.Millisecond
	if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Lease: &short}}); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, func() bool {
		return !slices.ContainsFunc(theKernel.space.List(s.id), func(of *capability.Capability) bool { return of.ID() == c.ID })
	})
	time.Sleep(100 * time.Millisecond) // Those who use it are told next.
}

// TestRegionIsTakenBack ends the right to a region in every way, and looks whether
// the pages are gone at once, private copies included.
func TestRegionIsTakenBack(t *testing.T) {
	for name, end := range map[string]func(s *spawned, c *control.Cap){
		"revoked": func(s *spawned, c *control.Cap) { takeBack(s.t, c.ID) },
		"unshared": func(s *spawned, _ *control.Cap) {
			fab(s.t, control.FabricRequest{Op: control.FabricUnshare, Name: "table", Agent: s.id})
		},
		"removed": func(s *spawned, _ *control.Cap) {
			fab(s.t, control.FabricRequest{Op: control.FabricRemove, Name: "table"})
		},
		"lease over": leaseEnds,
		"narrowed": func(s *spawned, c *control.Cap) {
			rights := abi.RegionSnapshot
			if _, err := theKernel.CapAttenuate(control.CapRequest{Cap: c.ID, Change: capability.Change{Rights: &rights}}); err != nil {
				s.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := regioner(t)
			b2 := b.execIn([]string{"/bin/region"}, func(p *control.Process) { p.Stdin = true })
			b2.expect("ready\n")
			told := eventsOf[*eventv1.Region](t, b, "region.unmap")
			regionOf(t, control.FabricRequest{Name: "table", Size: 1 << 20})
			lease := time.Duration(0)
			if name == "lease over" {
				lease = time.Hour
			}
			c := share(t, "table", b, "read+write+snapshot", lease)
			b.say("open /aios/fabric/table rw", 0)
			b.say("map w", 0)
			b.say("poke 100 1", 0)
			b2.say("open /aios/fabric/table rw", 0)
			b2.say("map pw", 0)
			b2.say("poke 100 2", 0)
			b.t, b2.t = t, t
			end(b, c)
			b.say("peek 100", bus)
			b.say("poke 100 1", bus)
			b.say("child 100", bus)
			if b.told("pwrite 100 1") == 0 || b.told("pread 100") >= 1000 {
				t.Error("the open file works still")
			}
			if b.told("map r") == 0 {
				t.Error("it can be mapped still")
			}
			b2.say("peek 100", bus)
			if name != "narrowed" {
				if e := told(); e.Name != "table" || e.Mapped != 2<<20 || e.Capability != string(c.ID) {
					t.Errorf("told: %v", e)
				}
				b.say("open /aios/fabric/table r", int(unix.ENOENT))
			}
		})
	}
}

// TestRevokedBelow takes back what one agent gave another, and that gave a third.
func TestRevokedBelow(t *testing.T) {
	a, b, c := regioner(t), regioner(t), regioner(t)
	regionOf(t, control.FabricRequest{Name: "table", Agent: a.id, Size: 4096})
	given := share(t, "table", b, "read+write+share", 0)
	read := abi.RegionRead
	handOn(t, *given, c.id, capability.Change{Rights: &read})
	for _, s := range []*spawned{a, b, c} {
		s.say("open /aios/fabric/table r", 0)
		s.say("map r", 0)
		s.say("peek 1", 1000)
	}
	takeBack(t, given.ID)
	a.say("peek 1", 1000)
	b.say("peek 1", bus)
	c.say("peek 1", bus)
	given = share(t, "table", b, "read", 0)
	if _, err := theKernel.CapDelegate(control.CapRequest{Cap: given.ID, To: c.id, Actor: control.Actor{Name: b.id}}); err == nil {
		t.Error("shared without the right to")
	} else {
		wantCode(t, err, errdefs.CapabilityDenied)
	}
	// The owner's end is the region's.
	b.say("open /aios/fabric/table r", 0)
	b.say("map r", 0)
	a.signal(9)
	a.wait()
	eventually(t, func() bool { return b.told("peek 1") == bus })
	eventually(t, func() bool {
		_, err := theKernel.fabric.Lookup("table")
		return err != nil
	})
}

// TestRegionBudget charges a region to its owner, whole, and refuses what is too
// much.
func TestRegionBudget(t *testing.T) {
	a := regioner(t, instead("mem:self,bytes=64M"))
	regionOf(t, control.FabricRequest{Name: "one", Agent: a.id, Size: 32 << 20})
	acc, err := theKernel.Account(control.AgentRequest{ID: a.id})
	if err != nil || acc.Memory.Now < 32<<20 || acc.Regions.Now != 32<<20 {
		t.Errorf("the account says %+v, %+v, %v", acc.Memory, acc.Regions, err)
	}
	for _, size := range []uint64{40 << 20, 1 << 39, 1 << 63, 1<<64 - 1} {
		_, err := theKernel.Fabric(control.FabricRequest{Op: control.FabricCreate, Name: "two", Agent: a.id, Size: size})
		if code := errdefs.CodeOf(err); code != errdefs.MemoryLimit && code != errdefs.InvalidArgument {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	// A version may come to need as much again as there is.
	a.say("open /aios/fabric/one rw", 0)
	a.say("map w", 0)
	for off := 0; off < 32<<20; off += 2 << 20 {
		a.say("poke "+strconv.Itoa(off)+" 1", 0)
	}
	_, err = theKernel.Fabric(control.FabricRequest{Op: control.FabricSnapshot, Name: "one"})
	wantCode(t, err, errdefs.MemoryLimit)
	fab(t, control.FabricRequest{Op: control.FabricRemove, Name: "one"})
	regionOf(t, control.FabricRequest{Name: "two", Agent: a.id, Size: 40 << 20})
	if acc, _ := theKernel.Account(control.AgentRequest{ID: a.id}); acc.Regions.Now != 40<<20 {
		t.Errorf("the account says %+v", acc.Regions)
	}
}

// TestSecretRegion keeps a secret and network apart.
func TestSecretRegion(t *testing.T) {
	inner := regioner(t)
	outer := regioner(t, instead("net:*"))
	regionOf(t, control.FabricRequest{Name: "keys", Size: 4096, Labels: []string{"secret"}})
	share(t, "keys", inner, "read", 0)
	_, err := theKernel.Fabric(control.FabricRequest{Op: control.FabricShare, Name: "keys", Agent: outer.id})
	wantCode(t, err, errdefs.LabelDenied)
	_, err = theKernel.CapGrant(control.GrantRequest{ID: outer.id, Grants: grants("region:keys:read")})
	wantCode(t, err, errdefs.LabelDenied)
	_, err = theKernel.CapGrant(control.GrantRequest{ID: inner.id, Grants: grants("net:*")})
	wantCode(t, err, errdefs.LabelDenied)
	_, err = trySpawn(t, []string{"/bin/region"}, func(r *control.SpawnRequest) {
		r.Root.Base = "region"
		r.Grants = append(grants("net:*"), grants("region:keys:read", "mem:self", "proc:self")...)
	})
	wantCode(t, err, errdefs.LabelDenied)
	inner.say("open /aios/fabric/keys r", 0)
	inner.say("map r", 0)
	inner.say("peek 1", 1000)
}

// TestFixedRegion is mapped at the same address in all.
func TestFixedRegion(t *testing.T) {
	a, b := regioner(t), regioner(t)
	r := regionOf(t, control.FabricRequest{Name: "fixed", Size: 5 << 20, Fixed: true})
	for _, s := range []*spawned{a, b} {
		share(t, "fixed", s, "read+write", 0)
		s.say("open /aios/fabric/fixed rw", 0)
		s.say("map w", 0)
		s.say("addr", int(int32(r.Addr>>21)))
		s.say("map w", int(unix.EEXIST))
	}
}

// TestVersions makes versions of a region that two agents have mapped, rolls back
// and forks.
func TestVersions(t *testing.T) {
	a, b := regioner(t), regioner(t)
	regionOf(t, control.FabricRequest{Name: "table", Agent: a.id, Size: 4 << 20, Keep: 2})
	share(t, "table", b, "read+write", 0)
	for _, s := range []*spawned{a, b} {
		s.say("open /aios/fabric/table rw", 0)
		s.say("map w", 0)
	}
	a.say("poke 10 1", 0)
	v1 := fab(t, control.FabricRequest{Op: control.FabricSnapshot, Name: "table", Comment: "one"}).Versions[0]
	b.say("poke 10 2", 0)
	b.say("poke 3000000 2", 0)
	a.say("peek 10", 1002)
	d := fab(t, control.FabricRequest{Op: control.FabricDiff, Name: "table", Version: v1.Number})
	if d.Bytes != 8192 || len(d.Spans) != 2 || d.Spans[0] != [2]uint64{0, 4096} {
		t.Errorf("the difference is %+v", d)
	}
	fab(t, control.FabricRequest{Op: control.FabricFork, Name: "table", Version: v1.Number, As: "other", Agent: b.id})
	fab(t, control.FabricRequest{Op: control.FabricRollback, Name: "table", Version: v1.Number})
	a.say("peek 10", 1001)
	b.say("peek 10", 1001)
	b.say("peek 3000000", 1000)
	a.say("poke 10 3", 0)
	b.say("open /aios/fabric/other rw", 0)
	b.say("map w", 0)
	b.say("peek 10", 1001)
	b.say("poke 10 4", 0)
	a.say("peek 10", 1003)
	for range 3 {
		fab(t, control.FabricRequest{Op: control.FabricSnapshot, Name: "table"})
	}
	if vs := fab(t, control.FabricRequest{Op: control.FabricShow, Name: "table"}).Versions; len(vs) != 2 || vs[1].Number != 4 {
		t.Errorf("it keeps %+v", vs)
	}
	sealed := fab(t, control.FabricRequest{Op: control.FabricSeal, Name: "table"}).Regions[0]
	if !strings.HasPrefix(sealed.Digest, "blake3:") {
		t.Errorf("sealed: %+v", sealed)
	}
	a.say("poke 10 5", bus)
	a.say("peek 10", 1003)
	a.say("pwrite 10 5", int(unix.EPERM))
	a.say("open /aios/fabric/table rw", int(unix.EPERM))
}

// TestRegionsFromInside has an agent make and share regions itself.
func TestRegionsFromInside(t *testing.T) {
	a, b := idle(t, named("giver")), idle(t, named("taker"))
	ctl := func(s *spawned, line, want string) {
		t.Helper()
		s.want("exec 3<>/aios/ctl; echo '"+line+"' >&3 2>/dev/null; cat <&3", want)
	}
	ctl(a, "region create notes size=1M labels=origin=test keep=3", "ok\nnotes size=1048576 owner="+a.id+" labels=origin=test charged=1048576 [0]")
	defer theKernel.Fabric(control.FabricRequest{Op: control.FabricRemove, Name: "notes"})
	a.want("echo hello >/aios/fabric/notes; head -c 5 /aios/fabric/notes; ls -l /aios/fabric | grep -c 1048576", "hello1 [0]")
	b.want("ls /aios/fabric; cat /aios/fabric/notes", "cat: can't open '/aios/fabric/notes': No such file or directory [1]")
	a.want("exec 3<>/aios/ctl; echo 'region share notes to=taker' >&3; cat <&3 | grep -c region:notes:read", "1 [0]")
	b.want("head -c 5 /aios/fabric/notes; echo x 2>/dev/null >/aios/fabric/notes || echo refused", "hellorefused [0]")
	b.want("exec 3<>/aios/ctl; echo 'region share notes to=giver' >&3 2>/dev/null; head -c 40 <&3", "error CAPABILITY_DENIED: region share: r [0]")
	a.want("exec 3<>/aios/ctl; echo 'region snapshot notes comment=first%20one' >&3; cat <&3 | sed 's/age=[0-9]*m*s/age=now/'",
		"ok\nversion=1 age=now charged=1048576 comment=first%20one [0]")
	a.want("echo HELLO >/aios/fabric/notes", "[0]")
	ctl(a, "region diff notes version=1", "ok\nbytes=4096\n0x0-0x1000 [0]")
	ctl(a, "region rollback notes version=1", "ok [0]")
	b.want("head -c 5 /aios/fabric/notes", "hello [0]")
	ctl(a, "region unshare notes from=taker", "ok\nrevoked=1 [0]")
	b.want("ls /aios/fabric", "[0]")
	ctl(a, "region remove notes", "ok\nrevoked=1 [0]")
	a.want("ls /aios/fabric", "[0]")
}

// TestLostRegionOfZeros reads zeros where a region was, however the right to it
// ended, and cannot write.
func TestLostRegionOfZeros(t *testing.T) {
	for name, end := range map[string]func(s *spawned, c *control.Cap){
		"revoked": func(s *spawned, c *control.Cap) { takeBack(s.t, c.ID) },
		"removed": func(s *spawned, _ *control.Cap) {
			fab(s.t, control.FabricRequest{Op: control.FabricRemove, Name: "table"})
		},
		"lease over": leaseEnds,
	} {
		t.Run(name, func(t *testing.T) {
			b, o := regioner(t), regioner(t)
			regionOf(t, control.FabricRequest{Name: "table", Agent: o.id, Size: 3<<20 + 4096, Zeros: true})
			lease := time.Duration(0)
			if name == "lease over" {
				lease = time.Hour
			}
			c := share(t, "table", b, "read+write", lease)
			b.say("open /aios/fabric/table rw", 0)
			b.say("map w", 0)
			offs := []int{0, 65535, 70000, 3<<20 + 4095}
			for _, off := range offs {
				b.say(fmt.Sprintf("poke %d 7", off), 0)
			}
			end(b, c)
			for _, off := range offs {
				b.say(fmt.Sprintf("peek %d", off), 1000)
				b.say(fmt.Sprintf("poke %d 7", off), bus)
				b.say(fmt.Sprintf("child %d", off), 1000)
			}
			b.say("readinto 5", int(unix.EFAULT))
			b.say("peek 5", 1000)
		})
	}
}

// TestSealedByDigest opens sealed regions by what is in them, with the rights that there
// are to them by name, and no others.
func TestSealedByDigest(t *testing.T) {
	a, b := regioner(t), regioner(t)
	for _, name := range []string{"one", "two", "keys"} {
		req := control.FabricRequest{Name: name, Agent: a.id, Size: 64 << 10}
		if name == "keys" {
			req.Labels = []string{"secret"}
		}
		regionOf(t, req)
		a.say("open /aios/fabric/"+name+" rw", 0)
		a.say("pwrite 9 7", 0)
	}
	digest := func(name string) string {
		return fab(t, control.FabricRequest{Op: control.FabricSeal, Name: name}).Regions[0].Digest
	}
	d := digest("one")
	path := "/aios/fabric/" + d
	a.say("open "+path+" r", 0)
	a.say("map r", 0)
	a.say("peek 9", 1007)
	a.say("open "+path+" rw", int(unix.EPERM))
	wrong := "/aios/fabric/" + d[:len(d)-1] + "x"
	a.say("open "+wrong+" r", int(unix.ENOENT))
	// Who has no right to it does not learn that it is there.
	b.say("open "+path+" r", int(unix.ENOENT))
	ask := func(s *spawned, op string, want errdefs.Code) {
		t.Helper()
		_, err := ctlAuthority{theKernel}.Fabric(theKernel.k.SupervisorContext(), capability.Actor{Name: s.id}, &control.FabricRequest{Op: op, Name: d, Agent: b.id})
		if errdefs.CodeOf(err) != want {
			t.Errorf("%s by %s: %v", op, s.id, err)
		}
	}
	ask(b, control.FabricShow, errdefs.NotFound)
	share(t, "one", b, "read", 0)
	b.say("open "+path+" r", 0)
	b.say("map r", 0)
	b.say("peek 9", 1007)
	ask(b, control.FabricShow, "")
	ask(b, control.FabricShare, errdefs.CapabilityDenied)
	ask(a, control.FabricShare, "")
	// It is gone with the right, by whatever name it was opened.
	fab(t, control.FabricRequest{Op: control.FabricUnshare, Name: d, Agent: b.id})
	b.say("peek 9", bus)
	b.say("open "+path+" r", int(unix.ENOENT))
	// Another with the same contents is as good, to read.
	if other := digest("two"); other != d {
		t.Errorf("%s and %s", d, other)
	}
	share(t, "two", b, "read", 0)
	b.say("open "+path+" r", 0)
	ask(b, control.FabricShow, "")
	ask(a, control.FabricRemove, errdefs.InvalidArgument) // Which?
	fab(t, control.FabricRequest{Op: control.FabricUnshare, Name: "two", Agent: b.id})
	// Labels are of a region: the contents of one that is secret are not, elsewhere.
	c := regioner(t, instead("net:*"))
	digest("keys")
	if _, err := theKernel.Fabric(control.FabricRequest{Op: control.FabricShare, Name: "keys", Agent: c.id}); errdefs.CodeOf(err) != errdefs.LabelDenied {
		t.Errorf("%v", err)
	}
	c.say("open "+path+" r", int(unix.ENOENT))
	share(t, "one", c, "read", 0)
	c.say("open "+path+" r", 0)
	if _, err := theKernel.Fabric(control.FabricRequest{Op: control.FabricShow, Name: "blake3:" + strings.Repeat("0", 64)}); errdefs.CodeOf(err) != errdefs.NotFound {
		t.Errorf("%v", err)
	}
}
