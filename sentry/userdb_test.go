package sentry

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	passwd = "# comment:x:9:9::/:/x\nroot:x:0:0::/root:/bin/sh\n\n:::\nshort:x:5\n7:x:8:8::/seven:\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\nalso:x:1000:1:::\n"
	group  = "root:x:0:\nstaff:x:50:bob,al\nempty:x:51:\nbad:x:no:bob\nshort:x\nlast:x:52:al,bob"
)

func TestFindRow(t *testing.T) {
	for key, want := range map[string]string{
		"bob": "bob", "1000": "bob", "root": "root", "0": "root",
		"7": "7", "8": "7", // A name goes before a number.
		"also": "also", "short": "", "# comment": "", "9": "", "nobody": "", "bob:x": "", "5": "",
	} {
		var got string
		if row := findRow([]byte(passwd), key, 2, 6); row != nil {
			got = row[0]
		}
		if got != want {
			t.Errorf("%q is %q, want %q", key, got, want)
		}
	}
}

func TestMemberOf(t *testing.T) {
	if got := memberOf([]byte(group), "bob"); len(got) != 2 || got[0] != 50 || got[1] != 52 {
		t.Errorf("bob is in %v", got)
	}
	if got := memberOf([]byte(group), "b"); got != nil {
		t.Errorf("b is in %v", got)
	}
}

// TestUserDatabaseMayHoldAnything feeds what an image may hold to what reads
// it. (gVisor cannot be built with the fuzzer's instrumentation.)
func TestUserDatabaseMayHoldAnything(t *testing.T) {
	cell := rapid.OneOf(rapid.StringMatching(`[a-c0-3,#\n\x00-]{0,4}`), rapid.SampledFrom([]string{"4294967295", "4294967296", "-1", "+", strings.Repeat("x", 70<<10)}))
	rapid.Check(t, func(r *rapid.T) {
		var file []byte
		for range rapid.IntRange(0, 6).Draw(r, "rows") {
			row := rapid.SliceOfN(cell, 0, 8).Draw(r, "row")
			file = append(file, strings.Join(row, ":")+rapid.SampledFrom([]string{"\n", "\r\n", ""}).Draw(r, "end")...)
		}
		key := cell.Draw(r, "key")
		if row := findRow(file, key, 2, 6); row != nil {
			if len(row) < 6 || row[0] != key && row[2] != key || strings.HasPrefix(row[0], "#") {
				r.Errorf("%q found %q", key, row)
			}
		}
		if row := findRow(file, key, 2, 3); row != nil && len(row) < 3 {
			r.Errorf("%q found %q", key, row)
		}
		for _, gid := range memberOf(file, key) {
			if uint32(gid) == 1<<32-1 {
				r.Error("the group that means none")
			}
		}
		if n, ok := parseID(key); ok && (n == 1<<32-1 || strings.TrimLeft(key, "0123456789") != "") {
			r.Errorf("%q is %d", key, n)
		}
	})
}
