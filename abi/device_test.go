package abi

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
	"unsafe"
)

var update = flag.Bool("update", false, "write the generated parts of docs/inside.md anew")

func TestDeviceStructuresHaveNoGaps(t *testing.T) {
	for _, s := range []struct {
		v    DeviceStruct
		size uintptr
	}{
		{new(DeviceInfo), unsafe.Sizeof(DeviceInfo{})},
		{new(DeviceList), unsafe.Sizeof(DeviceList{})},
		{new(DeviceCap), unsafe.Sizeof(DeviceCap{})},
		{new(DeviceChange), unsafe.Sizeof(DeviceChange{})},
		{new(DeviceRef), unsafe.Sizeof(DeviceRef{})},
		{new(DeviceText), unsafe.Sizeof(DeviceText{})},
	} {
		if got := DeviceSize(s.v); got != int(s.size) {
			t.Errorf("%T: %d bytes on the wire, %d in memory", s.v, got, s.size)
		}
		if DeviceSize(s.v) >= 1<<14 {
			t.Errorf("%T does not fit the size field of a request code", s.v)
		}
	}
}

// The wire order is the memory order: C programs use the structures as they are.
func TestDeviceWireIsMemory(t *testing.T) {
	want := DeviceChange{Handle: 1, Set: 2, Flags: 1, Rights: 4, Limits: DeviceLimits{5, 6, 7, 8, 9, 10}, Lease: 11, Badge: 12}
	SetDeviceString(want.To[:], "worker")
	SetDeviceString(want.Object[:], "/data")
	SetDeviceString(want.At[:], "/x")
	wire := EncodeDevice(&want)
	memory := unsafe.Slice((*byte)(unsafe.Pointer(&want)), unsafe.Sizeof(want))
	if !bytes.Equal(wire, memory) {
		t.Error("the wire differs from memory")
	}
	var got DeviceChange
	if err := DecodeDevice(&got, wire); err != nil {
		t.Fatal(err)
	}
	if err := CheckDevice(&got); err != nil {
		t.Error(err)
	}
	if got != want {
		t.Errorf("read %+v", got)
	}
}

func TestDeviceCallsAreKnownByTheirNumbers(t *testing.T) {
	requests := map[uint32]bool{}
	for i, c := range DeviceCalls() {
		if int(c.Nr) != i {
			t.Errorf("%s is row %d and number %d", c.Name, i, c.Nr)
		}
		if r := c.Request(); requests[r] {
			t.Errorf("%s: %#x is taken", c.Name, r)
		}
		requests[c.Request()] = true
	}
	for r := range requests {
		c, ok := DeviceCallOf(r)
		if !ok || c.Request() != r {
			t.Errorf("%#x is %q", r, c.Name)
		}
		for bit := range 32 {
			other := r ^ 1<<bit
			if _, ok := DeviceCallOf(other); ok != requests[other] {
				t.Errorf("%#x passes as a call: %v", other, ok)
			}
		}
	}
	if c := DeviceCalls()[DeviceCallError]; c.Name != "AIOS_IOC_ERROR" {
		t.Errorf("the last constant is %s", c.Name)
	}
}

func TestDeviceGarbageIsRefused(t *testing.T) {
	full := bytes.Repeat([]byte{'x'}, DevicePathLen)
	for name, s := range map[string]DeviceStruct{
		"inspect: no handle":         &DeviceCap{},
		"inspect: padding":           &DeviceCap{Handle: 1, Pad: 1},
		"change: no handle":          &DeviceChange{},
		"change: padding":            &DeviceChange{Handle: 1, Pad: 1},
		"change: unknown bit":        &DeviceChange{Handle: 1, Set: 1 << 12},
		"change: unknown flag":       &DeviceChange{Handle: 1, Flags: 2},
		"change: endless object":     &DeviceChange{Handle: 1, Object: [DevicePathLen]byte(full)},
		"change: text after the end": &DeviceChange{Handle: 1, At: [DevicePathLen]byte{5: 'x'}},
		"ref: nothing":               &DeviceRef{},
		"ref: both":                  &DeviceRef{Handle: 1, ID: [DeviceIDLen]byte{'c'}},
		"ref: unknown flag":          &DeviceRef{Handle: 1, Flags: 2},
		"ref: padding":               &DeviceRef{Handle: 1, Pad: 7},
		"ref: endless ID":            &DeviceRef{ID: [DeviceIDLen]byte(full[:DeviceIDLen])},
		"text: endless":              &DeviceText{Text: [DevicePathLen]byte(full)},
	} {
		if CheckDevice(s) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := DecodeDevice(new(DeviceRef), make([]byte, 3)); err == nil {
		t.Error("three bytes are accepted as a reference")
	}
}

func FuzzDecodeDevice(f *testing.F) {
	for _, c := range DeviceCalls() {
		f.Add(c.Nr, EncodeDevice(c.New()))
	}
	f.Fuzz(func(t *testing.T, nr uint8, wire []byte) {
		s := deviceCalls[int(nr)%len(deviceCalls)].New()
		if DecodeDevice(s, wire) != nil {
			return
		}
		if got := EncodeDevice(s); !bytes.Equal(got, wire) {
			t.Errorf("%T: what was read is written differently", s)
		}
		if c, ok := s.(*DeviceChange); ok && CheckDevice(s) == nil && bytes.IndexByte(c.Object[:], 0) < 0 {
			t.Error("an object without an end passes")
		}
	})
}

func TestSetDeviceString(t *testing.T) {
	field := []byte("xxxxxxxx")
	if !SetDeviceString(field, "abc") || DeviceString(field) != "abc" || field[7] != 0 {
		t.Errorf("field is %q", field)
	}
	if SetDeviceString(field, "12345678") || DeviceString(field) != "1234567" {
		t.Errorf("a text that is too long left %q", field)
	}
}

// The page is generated from the table: go test ./abi -update writes it.
func TestDeviceReferenceIsInTheDocs(t *testing.T) {
	const page, begin, end = "../docs/inside.md", "<!-- generated: /dev/aios -->\n", "<!-- end -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the markers %q and %q", page, begin, end)
	}
	if old == DeviceReference() {
		return
	}
	if !*update {
		t.Fatalf("%s differs from the table; run: go test ./abi -update", page)
	}
	if err := os.WriteFile(page, []byte(head+begin+DeviceReference()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
