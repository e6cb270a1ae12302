package sentry

import (
	"strings"
	"testing"
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

// FuzzUserDatabase feeds what an image may hold to what reads it.
func FuzzUserDatabase(f *testing.F) {
	f.Add([]byte(passwd), "bob")
	f.Add([]byte(group), "1000")
	f.Add([]byte(strings.Repeat("x", 70<<10)+"\nbob:x:1:1::/:"), "bob")
	f.Fuzz(func(t *testing.T, file []byte, key string) {
		if row := findRow(file, key, 2, 6); row != nil {
			if len(row) < 6 || row[0] != key && row[2] != key {
				t.Errorf("%q found %q", key, row)
			}
		}
		findRow(file, key, 2, 3)
		for _, gid := range memberOf(file, key) {
			if uint32(gid) == 1<<32-1 {
				t.Error("the group that means none")
			}
		}
		if n, ok := parseID(key); ok && n == 1<<32-1 {
			t.Error("the user that means none")
		}
	})
}
