package box

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestProgramIsCheckedBeforeItIsTrusted(t *testing.T) {
	key := sha256.Sum256([]byte("rules"))
	body := bytes.Repeat([]byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f}, 3)
	p, err := PackProgram(key, body)
	if err != nil {
		t.Fatal(err)
	}
	got, err := CheckProgram(p, key)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("unpacked %x, %v", got, err)
	}
	if _, err := CheckProgram(p, sha256.Sum256([]byte("other"))); !errors.Is(err, errdefs.WrongState) {
		t.Errorf("a program of other rules: %v", err)
	}
	// No single damaged byte of head or body may go unnoticed.
	for i := range p {
		bad := bytes.Clone(p)
		bad[i] ^= 1
		if _, err := CheckProgram(bad, key); err == nil {
			t.Fatalf("damage at byte %d went unnoticed", i)
		}
	}
	for n := range p {
		if _, err := InstallProgram(p[:n]); !errors.Is(err, errdefs.InvalidArgument) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
}

func TestPackRefusesWhatNoKernelTakes(t *testing.T) {
	for _, n := range []int{0, 7, 12, MaxProgram} {
		if _, err := PackProgram([32]byte{}, make([]byte, n)); !errors.Is(err, errdefs.InvalidArgument) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestRefusedNamesEveryMissingBox(t *testing.T) {
	if err := Refused([]Report{Stands(Seccomp), Stands(EmptyRoot)}); err != nil {
		t.Errorf("all boxes stand: %v", err)
	}
	err := Refused([]Report{Stands(Seccomp), Missing(EmptyRoot, "no mounts"), Missing(NetNamespace, "not permitted")})
	if !errors.Is(err, errdefs.BoxRefused) || errdefs.FixOf(err) == "" {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{EmptyRoot, NetNamespace, "no mounts", "not permitted"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
}

func TestEveryBoxHasAnEffect(t *testing.T) {
	for _, b := range []string{UserNamespace, MountNamespace, PIDNamespace, IPCNamespace, UTSNamespace, NetNamespace,
		Cgroup, Descriptors, EmptyRoot, Capabilities, NoNewPrivileges, Seccomp} {
		if Missing(b, "x").Effect == "" {
			t.Errorf("nothing is said about life without the %s", b)
		}
	}
}
