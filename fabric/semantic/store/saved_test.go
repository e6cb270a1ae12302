package store

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/fabric/semantic/blocks"
	"aios.dev/aios/ktime"
)

// looks are the answers to some questions, exact ones.
func (w *world) looks(questions []semantic.Search) (all []string) {
	for _, q := range questions {
		var h semantic.Hits
		w.must(operator, semantic.OpSearch, q, &h)
		all = append(all, fmt.Sprint(hitIDs(h)))
	}
	return all
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: %v, want %v", what, got[i], want[i])
		}
	}
}

// TestSavedWordsAreComparedWithTheItems opens a store with words that were saved
// before other changes, and finds what one finds that has none saved.
func TestSavedWordsAreComparedWithTheItems(t *testing.T) {
	w := newWorld(t, ktime.Real)
	c := newCorpus(5, 8)
	c.load(w, leastWords+100, "some", "tags")
	var q []semantic.Search
	for range 20 {
		s := c.question()
		s.Exact = true
		q = append(q, s)
	}
	q = append(q, semantic.Search{Text: "changed"}, semantic.Search{Text: "fresh", Tags: []string{"tags"}})
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	words, err := os.ReadFile(w.s.wordsFile(1))
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	if sp := w.s.byID[1]; sp.unsaved != 0 {
		t.Errorf("with all saved, %d changes are not", sp.unsaved)
	}
	for i := range 60 {
		id := fmt.Sprint("i", 7*i)
		switch i % 3 {
		case 0:
			w.must(operator, semantic.OpPut, semantic.Put{Namespace: "notes", ID: id, Text: "changed", Tags: []string{"other"}}, nil)
		case 1:
			w.must(operator, semantic.OpDelete, semantic.Delete{Namespace: "notes", IDs: []string{id}}, nil)
		default:
			_, v := c.item()
			w.must(operator, semantic.OpPut, semantic.Put{Namespace: "notes", Text: "fresh", Vector: v, Tags: []string{"tags"}}, nil)
		}
	}
	want := w.looks(q)
	w.crash()
	w.open()
	same(t, "with words that are older", w.looks(q), want)
	w.crash()
	spoiled := bytes.Clone(words)
	spoiled[len(spoiled)/2] ^= 1
	if err := os.WriteFile(w.s.wordsFile(1), spoiled, 0o600); err != nil {
		t.Fatal(err)
	}
	logged := ""
	if w.s, err = Open(Options{Dir: w.dir, Clock: w.clock, Log: func(what string, _ error) { logged += what }}); err != nil {
		t.Fatal(err)
	}
	if logged == "" {
		t.Error("nothing was said about a damaged file")
	}
	same(t, "with damaged words", w.looks(q), want)
	w.crash()
	w.removeGraphs()
	w.open()
	same(t, "with nothing saved", w.looks(q), want)
}

// TestStoresOfTheFirstFormAreOpened makes a store as the first version did.
func TestStoresOfTheFirstFormAreOpened(t *testing.T) {
	w := newWorld(t, ktime.Real)
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "cat", Text: "the cat"}, nil)
	if _, err := w.s.write.Exec("DROP INDEX items_versions; DROP INDEX items_usage; DROP INDEX versions_usage; PRAGMA user_version = 1"); err != nil {
		t.Fatal(err)
	}
	w.crash()
	w.open()
	same(t, "after the change", w.looks([]semantic.Search{{Text: "cat"}}), []string{"[cat]"})
	var version, indexes int
	if err := w.s.read.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if err := w.s.read.QueryRow("SELECT count(*) FROM sqlite_master WHERE name IN ('items_versions', 'items_usage', 'versions_usage')").Scan(&indexes); err != nil {
		t.Fatal(err)
	}
	if version != schemaVersion || indexes != 3 {
		t.Errorf("it is of version %d with %d of the indexes", version, indexes)
	}
}

// FuzzWords reads anything as saved words, in blocks whose checksums fit.
func FuzzWords(f *testing.F) {
	const next = "|next|"
	f.Add([]byte("\x01\x02\x03" + next + "\x07\x09\x00\x03\x01\x04some\x01" + next + "\x01a\x01\x00\x02\x01b\x01\x00\x01"))
	f.Add([]byte("\xff\xff\xff\xff\x0f\x01\x01" + next + "\x07"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var file bytes.Buffer
		w := blocks.NewWriter(&file, wordsMagic)
		for _, part := range bytes.Split(b, []byte(next)) {
			w.Put(part)
		}
		newSpace(1, "n", 8).readWords(&file)
	})
}
