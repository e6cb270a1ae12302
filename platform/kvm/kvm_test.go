package kvm

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/platform/platformtest"
)

func TestContract(t *testing.T) { platformtest.RunDriver(t, Driver{}) }

// openDevice returns /dev/kvm, or skips the test.
func openDevice(t *testing.T) int {
	dev, err := Driver{}.OpenDevice()
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev.FD()
}

func TestProbeRefusesWhatIsNotKVM(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	err = runGuest(int(null.Fd()), time.Second)
	if !errors.Is(err, errdefs.PlatformUnusable) || !strings.HasPrefix(err.Error(), "KVM_GET_API_VERSION failed") || !errors.Is(err, unix.ENOTTY) {
		t.Errorf("/dev/null as a device: %v", err)
	}
}

func TestNewNeedsADevice(t *testing.T) {
	if _, err := (Driver{}).New(gvplatform.Options{}); !errors.Is(err, errdefs.InvalidArgument) {
		t.Errorf("New without a device: %v", err)
	}
}

// TestGuestIsBounded runs a guest that never ends.
func TestGuestIsBounded(t *testing.T) {
	m, err := newMachine(openDevice(t))
	defer m.close()
	if err != nil {
		t.Skip(err)
	}
	m.load()
	copy(m.memory[pageCode:], []byte{0xeb, 0xfe}) // jmp to itself
	if err := m.setSystemRegisters(); err != nil {
		t.Skip(err)
	}
	if err := m.setRegisters(); err != nil {
		t.Skip(err)
	}
	for range 3 {
		if err := m.run(30 * time.Millisecond); !errors.Is(err, errLate) {
			t.Fatalf("an endless guest: %v", err)
		}
		m.state().immediateExit = 0
	}
}

// TestGuestFailuresAreTold breaks the guest in ways that a bad host would.
func TestGuestFailuresAreTold(t *testing.T) {
	dev := openDevice(t)
	if err := runGuest(dev, guestLimit); err != nil {
		t.Skipf("no guest runs here: %v", err)
	}
	for name, damage := range map[string]func(*machine){
		"triple fault": func(m *machine) { copy(m.memory[pageCode:], []byte{0x0f, 0x0b}) },
		"wrong sum":    func(m *machine) { m.memory[pageCode+0x0e] = 0xef }, // pxor for paddq
		"early halt":   func(m *machine) { m.memory[pageCode+0x15] = 0xf4 },
	} {
		m, err := newMachine(dev)
		if err != nil {
			t.Fatal(err)
		}
		m.load()
		damage(m)
		for _, step := range []func() error{m.setSystemRegisters, m.setRegisters, func() error { return m.run(guestLimit) }} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.check(); err == nil {
			t.Errorf("%s: not noticed", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		m.close()
	}
}

// TestProbeLeavesNothing checks that no descriptor and no mapping stays.
func TestProbeLeavesNothing(t *testing.T) {
	dev := openDevice(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	_ = runGuest(dev, guestLimit)
	before := count()
	for range 5 {
		_ = runGuest(dev, guestLimit)
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
