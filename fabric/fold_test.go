package fabric

import (
	"bytes"
	"testing"

	"aios.dev/aios/errdefs"
)

// TestFold folds a fork back: what one side has changed, what both have, and what
// both have changed to the same.
func TestFold(t *testing.T) {
	w := newWorld(t)
	const size = 3*chunkSize + 2*diffPage
	r, err := w.store.Create(Spec{Name: "table", Owner: alice, Size: size})
	must(t, err)
	put := func(r *Region, page uint64, text string) {
		t.Helper()
		_, err := r.WriteAt([]byte(text), page*diffPage)
		must(t, err)
	}
	get := func(page uint64) string {
		t.Helper()
		p := make([]byte, 8)
		_, err := r.ReadAt(p, page*diffPage)
		must(t, err)
		return string(bytes.TrimRight(p, "\x00"))
	}
	for _, page := range []uint64{0, 1, 2, 20} {
		put(r, page, "base")
	}
	v, err := r.Snapshot("")
	must(t, err)
	fork, err := r.Fork(v.Number, Spec{Name: "trial", Owner: alice})
	must(t, err)
	last := uint64(size/diffPage - 1)
	put(fork, 1, "fork")
	put(fork, last, "fork")
	put(r, 2, "ours")
	f, err := r.Fold(fork, "", false, 10)
	must(t, err)
	if f.Changed != 2*diffPage || f.Clashing != 0 {
		t.Errorf("without conflicts: %+v", f)
	}
	f.Undo()
	if get(1) != "base" || get(2) != "ours" || get(last) != "" {
		t.Errorf("undone: %q %q %q", get(1), get(2), get(last))
	}
	put(r, 1, "ours")
	put(r, 20, "same")
	put(fork, 20, "same")
	if f, err = r.Fold(fork, "", false, 10); err != nil || f.Clashing != diffPage || len(f.Conflicts) != 1 || f.Conflicts[0] != (Span{diffPage, 2 * diffPage}) {
		t.Fatalf("a conflict: %+v, %v", f, err)
	}
	f.Keep()
	if get(1) != "ours" || get(last) != "" {
		t.Errorf("it was folded in spite of a conflict: %q %q", get(1), get(last))
	}
	f, err = r.Fold(fork, "ours", false, 10)
	must(t, err)
	f.Keep()
	if get(1) != "ours" || get(last) != "fork" || get(20) != "same" {
		t.Errorf("ours: %q %q %q", get(1), get(last), get(20))
	}
	f, err = r.Fold(fork, "theirs", true, 10)
	must(t, err)
	f.Keep()
	if f.Changed != diffPage || get(1) != "ours" {
		t.Errorf("dry: %+v, %q", f, get(1))
	}
	f, err = r.Fold(fork, "theirs", false, 10)
	must(t, err)
	f.Keep()
	if get(0) != "base" || get(1) != "fork" || get(2) != "ours" {
		t.Errorf("theirs: %q %q %q", get(0), get(1), get(2))
	}
	if _, err := fork.Fold(r, "", false, 10); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("the wrong way around: %v", err)
	}
	must(t, r.RemoveVersion(v.Number))
	if _, err := r.Fold(fork, "", false, 10); errdefs.CodeOf(err) != errdefs.NotFound {
		t.Errorf("without the version that it is a fork of: %v", err)
	}
	if _, err := r.Snapshot(""); err != nil { // Nothing holds it.
		t.Error(err)
	}
}
