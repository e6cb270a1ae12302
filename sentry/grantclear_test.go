package sentry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/capability"
	"aios.dev/aios/control"
)

// TestRevokeManyFiles takes back more grants of files than a revocation waits
// to see unmounted: all of them fail when it returns, all of them go away, and
// others can appear in their places meanwhile.
func TestRevokeManyFiles(t *testing.T) {
	const many = 4 * clearNow
	dir, key := hostDir(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	giver, s := spawn(t, []string{"sleep", "1000"}, detached), spawn(t, []string{"sleep", "1000"}, detached)
	inside := func(script string) string {
		out, _, _ := s.execIn(sh(script)).output()
		return strings.TrimSpace(out)
	}
	const mounts = "grep -c ' grantfs ' /proc/mounts"

	top := give(t, giver.id, "fs:/d:ro", key)
	for i := range many {
		place := fmt.Sprintf("/d%d", i)
		if _, err := theKernel.CapDelegate(control.CapRequest{Cap: top.ID, To: s.id, Change: capability.Change{At: &place}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := inside("cat /d*/file | wc -c; " + mounts); got != fmt.Sprintf("%d\n%d", many*len("text"), many) {
		t.Fatalf("before the revocation: %q", got)
	}

	if r, err := theKernel.CapRevoke(control.RevokeRequest{Cap: top.ID}); err != nil || r.Count != many+1 {
		t.Fatalf("revoked %d: %v", r.Count, err)
	}
	top = give(t, giver.id, "fs:/d:ro", key)
	place := fmt.Sprintf("/d%d", many-1)
	if _, err := theKernel.CapDelegate(control.CapRequest{Cap: top.ID, To: s.id, Change: capability.Change{At: &place}}); err != nil {
		t.Errorf("in the place of one that has ended: %v", err)
	}
	if got := inside("cat /d*/file"); got != "text" {
		t.Errorf("after the revocation, and another delegation: %q", got)
	}
	eventually(t, func() bool { return inside(mounts) == "1" })
}

// TestCoveredGrants ends grants in any order that appear in one and the same
// place: none that has ended stays to be seen, whichever covered it.
func TestCoveredGrants(t *testing.T) {
	dir, key := hostDir(t)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := spawn(t, []string{"sleep", "1000"}, detached)
	for _, order := range [][]int{{0, 1, 2}, {1, 0, 2}, {2, 1, 0}, {1, 2, 0}, {0, 2, 1}} {
		var caps []control.Cap
		for range order {
			caps = append(caps, give(t, s.id, "fs:/d:ro,at=/covered", key))
		}
		for n, i := range order {
			if _, err := theKernel.CapRevoke(control.RevokeRequest{Cap: caps[i].ID}); err != nil {
				t.Fatal(err)
			}
			out, _, _ := s.execIn(sh("cat /covered/file; grep -c ' /covered ' /proc/mounts")).output()
			if n+1 < len(order) && !strings.HasPrefix(out, "text") {
				t.Errorf("%v: after %d of them: %q", order, n+1, out)
			}
			if n+1 == len(order) && out != "0\n" {
				t.Errorf("%v: after all of them: %q", order, out)
			}
		}
	}
}
