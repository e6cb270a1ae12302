package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/kvm"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/host/box"
)

func options(t testing.TB, name string) Options {
	t.Helper()
	c, err := platform.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Platform: c.PrecompiledSeccompInfo()[0], Listen: []int{7}}
}

// word tells how often a comparison with k stands in a program.
func word(program []byte, k uint32) int {
	var raw [4]byte
	binary.NativeEndian.PutUint32(raw[:], k)
	n := 0
	for i := 72; i+8 <= len(program); i += 8 {
		if bytes.Equal(program[i+4:i+8], raw[:]) {
			n++
		}
	}
	return n
}

func TestProgramsHoldNoIdentity(t *testing.T) {
	for _, name := range []string{"systrap", "ptrace", "kvm"} {
		p, err := BuildProgram(options(t, name))
		if err != nil {
			t.Fatal(err)
		}
		if word(p, uint32(os.Getpid())) != 0 {
			t.Errorf("%s: the PID of the process that made the program is in it", name)
		}
		if word(p, box.PIDPlaceholder) == 0 {
			t.Errorf("%s: the placeholder is not in it", name)
		}
		q, err := BuildProgram(options(t, name))
		if err != nil || !bytes.Equal(p, q) {
			t.Errorf("%s: two builds differ (%v)", name, err)
		}
		t.Logf("%s: %d instructions", name, (len(p)-72)/8)
	}
	g, err := BuildGoferProgram(GoferOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if word(g, uint32(os.Getpid())) != 0 || word(g, box.PIDPlaceholder) == 0 {
		t.Error("the gofer's program holds the PID of the process that made it")
	}
}

func TestCacheIsUsedOnlyWhileItIsRight(t *testing.T) {
	o := options(t, "ptrace")
	f, err := os.Create(filepath.Join(t.TempDir(), "program"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	load := func(o Options, want bool) []byte {
		t.Helper()
		p, cached, err := LoadProgram(f, o)
		if err != nil {
			t.Fatal(err)
		}
		if cached != want {
			t.Errorf("cached is %v, want %v", cached, want)
		}
		return p
	}
	first := load(o, false)
	if !bytes.Equal(first, load(o, true)) {
		t.Error("the cached program differs")
	}
	o.Extra = seccomp.MakeSyscallRules(map[uintptr]seccomp.SyscallRule{unix.SYS_SYNC: seccomp.MatchAll{}})
	load(o, false)
	load(o, true)
	if _, err := f.WriteAt([]byte("damage"), 100); err != nil {
		t.Fatal(err)
	}
	load(o, false)
	load(o, true)
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	load(o, false)

	readOnly, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	o.Listen = nil
	if _, cached, err := LoadProgram(readOnly, o); err != nil || cached {
		t.Errorf("a cache that cannot be written: %v, %v", cached, err)
	}
	if _, _, err := LoadProgram(nil, o); err != nil {
		t.Errorf("no cache: %v", err)
	}
}

func TestBadOptionsAreRefused(t *testing.T) {
	bad := options(t, "systrap")
	bad.Listen = []int{-1}
	for _, o := range []Options{{}, bad} {
		if _, err := BuildProgram(o); !errors.Is(err, errdefs.InvalidArgument) || errdefs.FixOf(err) == "" {
			t.Errorf("got %v", err)
		}
	}
}

func BenchmarkBuildProgram(b *testing.B) {
	o := options(b, "systrap")
	for b.Loop() {
		if _, err := BuildProgram(o); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadProgram(b *testing.B) {
	o := options(b, "systrap")
	f, err := os.Create(filepath.Join(b.TempDir(), "program"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for b.Loop() {
		if _, _, err := LoadProgram(f, o); err != nil {
			b.Fatal(err)
		}
	}
}
