package ptrace

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/hostarch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/platform/platformtest"
)

// newBounded returns the platform, or skips the test.
func newBounded(t *testing.T) *bounded {
	t.Helper()
	if err := (Driver{}).Probe(); err != nil {
		if os.Getenv("AIOS_REQUIRE_PTRACE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cpuid.Initialize()
	p, err := Driver{}.New(gvplatform.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p.(*bounded)
}

// full is the platform whose address spaces have room for no thread.
type full struct{ *bounded }

func (p full) NewAddressSpace() (gvplatform.AddressSpace, error) {
	as, err := p.bounded.NewAddressSpace()
	if err != nil {
		return nil, err
	}
	s := as.(*space)
	for i := range maxDirect {
		s.run[i].CompareAndSwap(0, -1)
		s.change[i].CompareAndSwap(0, -1)
	}
	return s, nil
}

// TestContractDelegated is TestContract for threads that others work for.
func TestContractDelegated(t *testing.T) { platformtest.Run(t, full{newBounded(t)}) }

// stubs counts the threads of the processes that this one traces.
func stubs(t *testing.T) int {
	t.Helper()
	n := 0
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, list := range lists {
		children, _ := os.ReadFile(list) // A thread may have ended.
		for _, pid := range strings.Fields(string(children)) {
			threads, _ := filepath.Glob(fmt.Sprintf("/proc/%s/task/*", pid))
			n += len(threads)
		}
	}
	return n
}

// TestStubThreads touches many address spaces from many threads.
func TestStubThreads(t *testing.T) {
	const (
		spaces  = 50
		threads = 40
		spare   = 100
		rounds  = 3
	)
	p := newBounded(t)
	p.spare.Store(spare)
	before := stubs(t)
	for range rounds {
		all := make([]gvplatform.AddressSpace, spaces)
		for i := range all {
			var err error
			if all[i], err = p.NewAddressSpace(); err != nil {
				t.Fatal(err)
			}
		}
		var at, done sync.WaitGroup
		at.Add(threads)
		for range threads {
			done.Go(func() {
				runtime.LockOSThread() // Every goroutine has a thread of its own.
				defer runtime.UnlockOSThread()
				at.Done()
				at.Wait()
				for _, as := range all {
					as.Unmap(0x10000, hostarch.PageSize)
				}
			})
		}
		done.Wait()
		for _, as := range all {
			as.Release()
		}
	}
	// For each space the first thread of its process, and one for memory.
	if n, most := stubs(t)-before, rounds*spaces*2+spare; n > most {
		t.Errorf("%d stub threads for %d address spaces, at most %d are allowed", n, rounds*spaces, most)
	}
	if p.spare.Load() < 0 {
		t.Errorf("%d spare ones", p.spare.Load())
	}
}
