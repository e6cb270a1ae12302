package box

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestProgramIsCheckedBeforeItIsTrusted(t *testing.T) {
	want := Program{
		Key: sha256.Sum256([]byte("rules")), Maker: "tool 1.2",
		Instructions: bytes.Repeat([]byte{6, 0, 0, 0, 0, 0, 0xff, 0x7f}, 3),
	}
	p, err := want.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadProgram(p)
	if err != nil || got.Key != want.Key || got.Maker != want.Maker || !bytes.Equal(got.Instructions, want.Instructions) {
		t.Fatalf("unpacked %+v, %v", got, err)
	}
	// No single damaged byte may go unnoticed, but in the key: whoever cares
	// about that compares it.
	for i := range p {
		bad := bytes.Clone(p)
		bad[i] ^= 1
		got, err := ReadProgram(bad)
		if err == nil && got.Key == want.Key {
			t.Fatalf("damage at byte %d went unnoticed", i)
		}
	}
	for n := range p {
		if _, err := InstallProgram(p[:n], -1); !errors.Is(err, errdefs.InvalidArgument) {
			t.Fatalf("the first %d bytes: %v", n, err)
		}
	}
}

func TestPackRefusesWhatNoKernelTakes(t *testing.T) {
	for _, n := range []int{0, 7, 12, 8 * (maxInstructions + 1)} {
		if _, err := (Program{Instructions: make([]byte, n)}).Pack(); !errors.Is(err, errdefs.InvalidArgument) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for _, maker := range []string{strings.Repeat("x", 65), "a\x00b"} {
		if _, err := (Program{Maker: maker, Instructions: make([]byte, 8)}).Pack(); !errors.Is(err, errdefs.InvalidArgument) {
			t.Errorf("%q: %v", maker, err)
		}
	}
}

func TestValuesTakeThePlaceOfPlaceholders(t *testing.T) {
	jump := func(code uint16, k uint32) []byte {
		b := binary.NativeEndian.AppendUint16(nil, code)
		return binary.NativeEndian.AppendUint32(append(b, 1, 2), k)
	}
	before := slices.Concat(jump(opJumpEqual, PIDPlaceholder), jump(opJumpEqual, ListenPlaceholder),
		jump(opJumpEqual, nicePlaceholderLow), jump(opJumpEqual, nicePlaceholderHigh), jump(opJumpEqual, 5), jump(6, PIDPlaceholder))
	for _, v := range []Values{{1, 2, 3}, {4711, -1, -20}, {1, 0, -1}} {
		nice := uint64(int64(v.Nice + 1))
		want := slices.Concat(jump(opJumpEqual, uint32(v.PID)), jump(opJumpEqual, uint32(v.Listen)),
			jump(opJumpEqual, uint32(nice)), jump(opJumpEqual, uint32(nice>>32)), jump(opJumpEqual, 5), jump(6, PIDPlaceholder))
		if got := v.Fill(before); !bytes.Equal(got, want) {
			t.Errorf("%+v: %x, want %x", v, got, want)
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
