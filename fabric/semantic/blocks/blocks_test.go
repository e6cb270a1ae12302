package blocks

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func file(parts ...string) []byte {
	var out bytes.Buffer
	w := NewWriter(&out, "MAGIC")
	for _, p := range parts {
		w.Put([]byte(p))
	}
	return out.Bytes()
}

func read(t *testing.T, b []byte, magic string, n int) (out []string, err error) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b), magic)
	for err == nil && len(out) < n {
		var d *Data
		if d, err = r.Next(); err == nil {
			out = append(out, string(d.Bytes(d.Rest())))
		}
	}
	return out, err
}

func TestBlocksAreReadAsTheyWereWritten(t *testing.T) {
	b := file("one", "", "three")
	got, err := read(t, b, "MAGIC", 3)
	if err != nil || len(got) != 3 || got[0] != "one" || got[1] != "" || got[2] != "three" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := read(t, b, "OTHER", 3); err == nil {
		t.Error("a file of another form was read")
	}
	if _, err := read(t, b, "MAGIC", 4); err == nil {
		t.Error("there is a block beyond the end")
	}
	for at := range b { // No byte may change, none may be missing.
		bad := bytes.Clone(b)
		bad[at] ^= 4
		if _, err := read(t, bad, "MAGIC", 3); err == nil {
			t.Errorf("byte %d was changed, and nobody noticed", at)
		}
		if _, err := read(t, b[:at], "MAGIC", 3); err == nil {
			t.Errorf("%d bytes were taken for all", at)
		}
	}
	b = file("a", "b")
	if _, err := read(t, append(append(bytes.Clone(b[:5]), b[14:]...), b[5:14]...), "MAGIC", 2); err == nil {
		t.Error("blocks have changed places, and nobody noticed")
	}
}

func TestDataEndsWhereItEnds(t *testing.T) {
	b := AppendString(nil, "word")
	b = binary.AppendUvarint(b, 300)
	b = binary.LittleEndian.AppendUint32(b, 7)
	b = binary.LittleEndian.AppendUint64(b, 8)
	d := &Data{b: append(b, 9)}
	if s, v, w, x, y := d.String(), d.Varint(), d.Uint32(), d.Uint64(), d.Byte(); s != "word" || v != 300 || w != 7 || x != 8 || y != 9 || d.Short() {
		t.Fatalf("%q %d %d %d %d, short: %v", s, v, w, x, y, d.Short())
	}
	for _, take := range []func(*Data){
		func(d *Data) { d.Byte() }, func(d *Data) { d.Uint32() }, func(d *Data) { d.Uint64() }, func(d *Data) { d.Varint() },
		func(d *Data) { _ = d.String() }, func(d *Data) { d.Bytes(-1) },
	} {
		d := &Data{}
		if take(d); !d.Short() {
			t.Error("something was taken from nothing")
		}
	}
}
