package main

import (
	"bytes"
	"testing"
)

func TestMemoryOptions(t *testing.T) {
	for text, want := range map[string][2]uint64{
		"0x10": {16, readUsual}, "16,0x20": {16, 32}, "0xffffffffffffffff,1": {1<<64 - 1, 1}, "0x1,1048576": {1, memoryMost},
		"": {}, "x": {}, "-1": {}, "1,": {}, "1,0": {}, "1,-5": {}, "1,1048577": {}, "1,4294967296": {}, "0x10000000000000000": {},
	} {
		addr, n, data, err := memoryOptions{read: text}.parse()
		if (err == nil) != (want[1] > 0) || err == nil && (addr != want[0] || uint64(n) != want[1] || data != nil) {
			t.Errorf("--read %q: %d %d %v", text, addr, n, err)
		}
	}
	for text, want := range map[string][]byte{
		"0x10=2a00": {0x2a, 0}, "0x10=0x2A": {0x2a}, "0x10": nil, "0x10=": nil, "0x10=2": nil, "x=00": nil, "=00": nil,
	} {
		addr, _, data, err := memoryOptions{write: text}.parse()
		if (err == nil) != (want != nil) || err == nil && (addr != 16 || !bytes.Equal(data, want)) {
			t.Errorf("--write %q: %d % x %v", text, addr, data, err)
		}
	}
}

func TestPrintMemory(t *testing.T) {
	var out bytes.Buffer
	(&app{stdout: &out}).printMemory(0x4a62d4, []byte("0123456789abcdef\x00~\x7f"))
	want := "0x000000004a62d4  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef\n" +
		"0x000000004a62e4  00 7e 7f                                         .~.\n"
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
}
