package sentry

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
)

// partner is an agent that has a region mapped and is a member.
func partner(t *testing.T, name, rights string) (*spawned, *control.Cap) {
	t.Helper()
	s := regioner(t)
	c := share(t, name, s, rights, 0)
	s.say("open /aios/fabric/"+name+" rw", 0)
	s.say("map w", 0)
	s.say("join", 0)
	return s, c
}

// waiting waits until so many wait in a region.
func waiting(t *testing.T, name string, n int) {
	t.Helper()
	eventually(t, func() bool {
		r, err := theKernel.fabric.Lookup(name)
		return err == nil && r.Info().Waiters == n
	})
}

// answer wants the outcome of what was sent before.
func (s *spawned) answer(what string, want int) {
	s.t.Helper()
	if got := parseOutcome(s.t, s.expect("\n"), what); got != want {
		s.t.Errorf("%s: %d, not %d", what, got, want)
	}
}

const (
	died = int(unix.EOWNERDEAD)
	lost = int(unix.ENOTRECOVERABLE)
)

// TestWordsAreWaitedFor between two agents.
func TestWordsAreWaitedFor(t *testing.T) {
	regionOf(t, control.FabricRequest{Name: "words", Size: 1 << 20})
	a, _ := partner(t, "words", "read+write")
	b, _ := partner(t, "words", "read+write")
	a.say("wait 64 1 0", int(unix.EAGAIN))
	a.say("wait 64 0 20", int(unix.ETIMEDOUT))
	a.send("wait 64 0 20000\n")
	waiting(t, "words", 1)
	b.say("wake 68 1", 1000)
	b.say("store 64 9", 0)
	b.say("wake 64 5", 1001)
	a.answer("wait", 0)
	b.say("cas 64 9 10", 1009)
	b.say("cas 64 9 11", 1010)
	a.say("peek 64", 1010)
	a.say("badcalls", 0)
	r := regioner(t)
	share(t, "words", r, "read", 0)
	r.say("open /aios/fabric/words r", 0)
	r.say("map r", 0)
	r.say("join", int(unix.EBADF))
	r.say("wake 64 1", int(unix.EBADF))
	r.say("cas 64 0 1", int(unix.EBADF))
	r.send("wait 64 10 20000\n")
	waiting(t, "words", 1)
	// A signal that is not there for it: the wait goes on.
	r.pause()
	r.resume()
	waiting(t, "words", 1)
	b.say("wake 64 1", 1001)
	r.answer("wait", 0)
}

// TestLockBetweenAgents, of whom each dies in its own way while it has the lock
// and another waits for it, or comes later.
func TestLockBetweenAgents(t *testing.T) {
	for name, end := range map[string]func(s *spawned, c *control.Cap){
		"killed":       func(s *spawned, _ *control.Cap) { s.signal(int32(syscall.SIGKILL)) },
		"revoked":      func(s *spawned, c *control.Cap) { takeBack(s.t, c.ID) },
		"unmapped":     func(s *spawned, _ *control.Cap) { s.say("unmap", 0) },
		"executes":     func(s *spawned, _ *control.Cap) { s.send("again\n"); s.expect("ready\n") },
		"leaves":       func(s *spawned, _ *control.Cap) { s.say("leave", 0) },
		"thread ended": func(s *spawned, _ *control.Cap) {},
	} {
		t.Run(name, func(t *testing.T) {
			regionOf(t, control.FabricRequest{Name: "locks", Size: 1 << 20})
			a, c := partner(t, "locks", "read+write")
			b, _ := partner(t, "locks", "read+write")
			for _, off := range []string{"0", "4"} {
				if name == "thread ended" {
					a.say("threadlock "+off, 0)
				} else {
					a.say("lock "+off+" 0", 0)
				}
			}
			if name == "thread ended" {
				b.say("lock 0 5000", died)
			} else {
				b.say("trylock 0", int(unix.EBUSY))
				b.say("lock 0 20", int(unix.ETIMEDOUT))
				b.send("lock 0 20000\n")
				waiting(t, "locks", 1)
				end(a, c)
				b.answer("lock", died)
			}
			b.say("lock 4 0", died)
			b.say("lock 0 0", int(unix.EDEADLK))
			b.say("unlock 0", 0)
			b.say("lock 0 0", lost)
			me := b.told("me") - 1000
			b.say(fmt.Sprintf("store 4 %d", me), 0) // It is consistent.
			b.say("unlock 4", 0)
			b.say("lock 4 0", 0)
		})
	}
}

// TestLeaseEndsWaits cuts those who wait when their lease is over, and hands on
// what they have.
func TestLeaseEndsWaits(t *testing.T) {
	t.Parallel()
	regionOf(t, control.FabricRequest{Name: "leased", Size: 1 << 20})
	b, _ := partner(t, "leased", "read+write")
	a := regioner(t)
	share(t, "leased", a, "read+write", 4*time.Second)
	a.say("open /aios/fabric/leased rw", 0)
	a.say("map w", 0)
	a.say("join", 0)
	a.say("lock 0 0", 0)
	a.send("wait 64 0 0\n")
	b.send("lock 0 20000\n")
	waiting(t, "leased", 2)
	a.answer("wait", int(unix.EACCES))
	b.answer("lock", died)
	a.say("wait 64 0 20", int(unix.EACCES))
	a.say("lock 0 20", int(unix.EACCES))
	a.say("peek 0", -int(syscall.SIGBUS))
}

// TestLockGoesToWhoWaitsLongest hands a lock around.
func TestLockGoesToWhoWaitsLongest(t *testing.T) {
	regionOf(t, control.FabricRequest{Name: "order", Size: 1 << 20})
	var all []*spawned
	for range 4 {
		s, _ := partner(t, "order", "read+write")
		all = append(all, s)
	}
	all[0].say("lock 0 0", 0)
	for i, s := range all[1:] {
		s.send("lock 0 0\n")
		waiting(t, "order", i+1)
	}
	for i := range all[1:] {
		all[i].say("unlock 0", 0)
		all[i+1].answer("lock", 0)
		all[i].say("unlock 0", int(unix.EPERM))
	}
	// Another's number is no use.
	id := all[3].told("me") - 1000
	all[0].say(fmt.Sprintf("be %d", id), 0)
	all[0].say("unlock 0", int(unix.ESRCH))
	all[0].say("lock 4 0", int(unix.ESRCH))
	all[0].say(fmt.Sprintf("alive %d", id), 0)
	all[0].say("alive 99999", int(unix.ESRCH))
}

// TestLockLendsRank has one of low weight run on what one of high weight lends it
// while that waits for its lock.
func TestLockLendsRank(t *testing.T) {
	regionOf(t, control.FabricRequest{Name: "rank", Size: 1 << 20})
	a, _ := partner(t, "rank", "read+write")
	b, _ := partner(t, "rank", "read+write")
	a.say("lock 0 0", 0)
	borrows := func(want bool) {
		t.Helper()
		eventually(t, func() bool {
			for _, st := range theKernel.findAgent(a.id).crowd.Group().Tasks() {
				if st.Lent {
					return want
				}
			}
			return !want
		})
	}
	borrows(false)
	b.send("lock 0 20000\n")
	waiting(t, "rank", 1)
	borrows(true)
	a.say("unlock 0", 0)
	b.answer("lock", 0)
	borrows(false)
}

// TestScribblerHangsNobody has an agent write all over the locks of others.
func TestScribblerHangsNobody(t *testing.T) {
	regionOf(t, control.FabricRequest{Name: "walls", Size: 1 << 20})
	a, _ := partner(t, "walls", "read+write")
	b, _ := partner(t, "walls", "read+write")
	vandal, _ := partner(t, "walls", "read+write")
	vandal.send("spin\n")
	for range 200 {
		for _, s := range []*spawned{a, b} {
			for _, line := range []string{"lock 8 10", "unlock 8", "wait 12 5 2", "trylock 16", "wake 16 1"} {
				s.told(line)
			}
		}
	}
	vandal.signal(int32(syscall.SIGKILL))
	regionOf(t, control.FabricRequest{Name: "other", Size: 4096})
	c, _ := partner(t, "other", "read+write")
	c.say("lock 0 0", 0)
}

// TestRegionIsMappedByACall: an ioctl of the file maps a region like mmap does, where
// and as far as the right to it goes.
func TestRegionIsMappedByACall(t *testing.T) {
	regionOf(t, control.FabricRequest{Name: "called", Size: 4 << 20})
	a, b := regioner(t), regioner(t)
	held := share(t, "called", a, "read+write", 0)
	share(t, "called", b, "read", 0)
	const writable, there = 8, 0x200000000000 - 1<<30
	call := func(flags, offset, length, addr uint64) string {
		return fmt.Sprintf("mapcall %d %d %d %d", flags, offset, length, addr)
	}
	a.say("open /aios/fabric/called rw", 0)
	a.say(call(writable, 0, 0, 0), 0)
	a.say("poke 4106 7", 0)
	a.say("poke 4194303 8", 0) // All of it.
	a.say(call(writable, 4096, 8192, there), 0)
	a.say("peek 10", 1007)
	a.say(call(writable, 4096, 8192, there), int(unix.EEXIST))
	for _, wrong := range []string{call(0, 4<<20, 0, 0), call(0, 4096, 4<<20, 0), call(0, 5, 0, 0), call(16, 0, 0, 0), call(0, 0, 0, 5)} {
		a.say(wrong, int(unix.EINVAL))
	}
	b.say("open /aios/fabric/called r", 0)
	b.say(call(writable, 0, 0, 0), int(unix.EBADF))
	b.say(call(0, 0, 0, 0), 0)
	b.say("peek 4106", 1007)
	b.say("poke 4106 1", -int(unix.SIGSEGV))
	limited(t, b).setMask(abi.MaskAll() &^ abi.GroupMap.Bit())
	b.say(call(0, 0, 0, 0), int(unix.ENOMEM))
	takeBack(t, held.ID)
	a.say("peek 10", -int(unix.SIGBUS))
	a.say(call(0, 0, 0, 0), int(unix.EACCES))
}
