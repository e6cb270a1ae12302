package store

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/ktime"
)

// ids are those of items, in their order.
func ids(items []semantic.Item) (out []string) {
	for _, it := range items {
		out = append(out, it.ID)
	}
	return out
}

func hitIDs(h semantic.Hits) (out []string) {
	for _, x := range h.Hits {
		out = append(out, x.ID)
	}
	return out
}

func (w *world) wants(what string, err error, code errdefs.Code) {
	w.t.Helper()
	if errdefs.CodeOf(err) != code {
		w.t.Errorf("%s: %v, want %s", what, err, code)
	}
}

func TestWordsAreRankedByHowRareTheyAre(t *testing.T) {
	w := newWorld(t, ktime.Real)
	for i, text := range []string{"the cat sat on the mat", "the dog sat on the cat", "the the the the", "Ein Kätzchen schläft", "cat"} {
		w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: fmt.Sprint(i), Text: text}, nil)
	}
	for question, want := range map[string][]string{
		"CAT mat":    {"0", "4", "1"},
		"kätzchen":   {"3"},
		"the":        {"2", "0", "1"},
		"elephant":   nil,
		"dog, sat!?": {"1", "0"},
	} {
		var h semantic.Hits
		w.must(operator, semantic.OpSearch, semantic.Search{Namespace: "n", Text: question}, &h)
		if got := hitIDs(h); !slices.Equal(got, want) {
			t.Errorf("%q finds %v, want %v", question, got, want)
		}
	}
}

func TestHybridTakesBothRanks(t *testing.T) {
	w := newWorld(t, ktime.Real)
	put := func(id, text string, v ...float32) {
		w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: id, Text: text, Vector: v}, nil)
	}
	put("both", "cat", 1, 0.1)
	put("word", "cat cat", -1, 0)
	put("near", "dog", 1, 0)
	put("none", "dog", -1, 0.1)
	q := semantic.Search{Namespace: "n", Text: "cat", Vector: []float32{1, 0}, K: 2}
	for weight, want := range map[float64]string{0: "word", 0.5: "both", 1: "near"} {
		q.Weight = &weight
		var h semantic.Hits
		w.must(operator, semantic.OpSearch, q, &h)
		if h.Hits[0].ID != want {
			t.Errorf("with weight %v the first is %s, want %s", weight, h.Hits[0].ID, want)
		}
	}
	w.wants("a vector of another length", w.ask(operator, semantic.OpSearch, semantic.Search{Namespace: "n", Vector: []float32{1}}, nil), errdefs.InvalidArgument)
	w.wants("another one written", w.ask(operator, semantic.OpPut, semantic.Put{Namespace: "n", Vector: []float32{1}}, nil), errdefs.InvalidArgument)
}

func TestAgentsSeeWhatTheirCapabilitiesShow(t *testing.T) {
	w := newWorld(t, ktime.Real)
	a := agent("a1", scope("ca", "a/*", allRights))
	b := agent("b1", scope("cb", "b", allRights), scope("cr", "a/x", abi.SemanticRead, "public"))
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "a/x", ID: "secret", Text: "the secret zebra", Vector: []float32{1, 0}}, nil)
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "a/x", ID: "open", Text: "an open zebra", Tags: []string{"public"}, Vector: []float32{0, 1}}, nil)
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "a/y", ID: "other", Text: "zebra", Tags: []string{"public"}}, nil)
	w.must(b, semantic.OpPut, semantic.Put{Namespace: "b", ID: "own", Text: "my zebra"}, nil)

	var h semantic.Hits
	w.must(b, semantic.OpSearch, semantic.Search{Text: "zebra"}, &h)
	if got := hitIDs(h); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"open", "own"}) {
		t.Errorf("b finds %v", got)
	}
	w.must(b, semantic.OpSearch, semantic.Search{Namespace: "a/x", Vector: []float32{1, 0}}, &h)
	if got := hitIDs(h); !slices.Equal(got, []string{"open"}) {
		t.Errorf("b finds %v near to the secret", got)
	}
	// Nor do scores tell of what is not seen: they are those of the item alone.
	w.must(b, semantic.OpSearch, semantic.Search{Namespace: "a/x", Text: "zebra"}, &h)
	with := h.Hits[0].Score
	w.must(a, semantic.OpDelete, semantic.Delete{Namespace: "a/x", IDs: []string{"secret"}}, nil)
	w.must(b, semantic.OpSearch, semantic.Search{Namespace: "a/x", Text: "zebra"}, &h)
	if h.Hits[0].Score != with {
		t.Errorf("the score was %v with what b does not see, %v without", with, h.Hits[0].Score)
	}
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "a/x", ID: "secret", Text: "the secret zebra"}, nil)

	var items semantic.Items
	w.must(b, semantic.OpGet, semantic.Get{Namespace: "a/x", IDs: []string{"secret", "open"}}, &items)
	if got := ids(items.Items); !slices.Equal(got, []string{"open"}) {
		t.Errorf("b gets %v", got)
	}
	w.must(b, semantic.OpList, semantic.List{Namespace: "a/x"}, &items)
	if got := ids(items.Items); !slices.Equal(got, []string{"open"}) {
		t.Errorf("b lists %v", got)
	}
	w.wants("history of what is not seen", w.ask(b, semantic.OpHistory, semantic.History{Namespace: "a/x", ID: "secret"}, nil), errdefs.NotFound)
	w.wants("a parent that is not seen", w.ask(b, semantic.OpPut, semantic.Put{Namespace: "b", Text: "x", Parents: []string{"a/x:secret"}}, nil), errdefs.NotFound)
	w.wants("writing with a right to read", w.ask(b, semantic.OpPut, semantic.Put{Namespace: "a/x", Text: "x"}, nil), errdefs.CapabilityDenied)
	w.wants("deleting with a right to read", w.ask(b, semantic.OpDelete, semantic.Delete{Namespace: "a/x", IDs: []string{"open"}}, nil), errdefs.CapabilityDenied)
	w.wants("reading elsewhere", w.ask(b, semantic.OpGet, semantic.Get{Namespace: "a/y", IDs: []string{"other"}}, nil), errdefs.CapabilityDenied)
	w.wants("searching elsewhere", w.ask(b, semantic.OpSearch, semantic.Search{Namespace: "a/y", Text: "zebra"}, nil), errdefs.CapabilityDenied)
	var spaces semantic.Namespaces
	w.must(b, semantic.OpNamespaces, struct{}{}, &spaces)
	if len(spaces.Namespaces) != 2 || spaces.Namespaces[0].Items != 1 {
		t.Errorf("b knows of %+v", spaces.Namespaces)
	}
}

func TestTagsOfACapabilityAreForcedOnWhatIsWritten(t *testing.T) {
	w := newWorld(t, ktime.Real)
	b := agent("b1", scope("cb", "n", allRights, "team=b"))
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "taken", Text: "of a", Tags: []string{"team=a"}}, nil)
	w.must(b, semantic.OpPut, semantic.Put{Namespace: "n", ID: "mine", Text: "of b", Tags: []string{"draft"}}, nil)
	var items semantic.Items
	w.must(operator, semantic.OpGet, semantic.Get{Namespace: "n", IDs: []string{"mine"}}, &items)
	it := items.Items[0]
	if !slices.Equal(it.Tags, []string{"draft", "team=b"}) {
		t.Errorf("its tags are %v", it.Tags)
	}
	if p := it.Provenance; p.Agent != "b1" || p.Name != "n-b1" || p.Domain != "d" || p.Capability != "cb" {
		t.Errorf("its provenance is %+v", p)
	}
	w.wants("overwriting what is not seen", w.ask(b, semantic.OpPut, semantic.Put{Namespace: "n", ID: "taken", Text: "x"}, nil), errdefs.AlreadyExists)
	var gone semantic.Deleted
	w.must(b, semantic.OpDelete, semantic.Delete{Namespace: "n", IDs: []string{"taken"}}, &gone)
	if gone.Deleted != 0 {
		t.Error("what is not seen was removed")
	}
	w.must(b, semantic.OpDelete, semantic.Delete{Namespace: "n", All: true}, &gone)
	if gone.Deleted != 1 {
		t.Errorf("removed %d of all", gone.Deleted)
	}
}

func TestQuotaOfACapability(t *testing.T) {
	w := newWorld(t, ktime.Real)
	sc := scope("c1", "n", allRights)
	sc.Items, sc.Bytes = 2, 100
	a := agent("a1", sc)
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "n", ID: "1", Text: "one"}, nil)
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "n", ID: "2", Text: "two"}, nil)
	w.wants("a third item", w.ask(a, semantic.OpPut, semantic.Put{Namespace: "n", ID: "3", Text: "three"}, nil), errdefs.QuotaExceeded)
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "n", ID: "2", Text: "two again"}, nil)
	w.wants("more bytes", w.ask(a, semantic.OpPut, semantic.Put{Namespace: "n", ID: "2", Text: strings.Repeat("x", 90)}, nil), errdefs.QuotaExceeded)
	w.must(operator, semantic.OpDelete, semantic.Delete{Namespace: "n", IDs: []string{"2"}}, nil)
	w.must(a, semantic.OpPut, semantic.Put{Namespace: "n", ID: "3", Text: "three"}, nil)
	w.crash()
	w.open()
	w.wants("a third item after a crash", w.ask(a, semantic.OpPut, semantic.Put{Namespace: "n", ID: "4", Text: "four"}, nil), errdefs.QuotaExceeded)
	var st semantic.Stats
	w.must(a, semantic.OpStats, struct{}{}, &st)
	if want := (semantic.Usage{Items: 2, Bytes: 10}); st.Usage != want {
		t.Errorf("a has %+v, want %+v", st.Usage, want)
	}
}

func TestVersions(t *testing.T) {
	w := newWorld(t, ktime.Real)
	var last semantic.PutDone
	for i := range semantic.KeptVersions + 4 {
		var done semantic.PutDone
		w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "x", Text: fmt.Sprint("text ", i), IfVersion: &last.Version}, &done)
		if done.Version <= last.Version {
			t.Fatalf("version %d follows %d", done.Version, last.Version)
		}
		last = done
	}
	old := last.Version - 1
	w.wants("an old version", w.ask(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "x", Text: "y", IfVersion: &old}, nil), errdefs.VersionConflict)
	w.wants("an old version to remove", w.ask(operator, semantic.OpDelete, semantic.Delete{Namespace: "n", IDs: []string{"x"}, IfVersion: &old}, nil), errdefs.VersionConflict)
	var h semantic.Items
	w.must(operator, semantic.OpHistory, semantic.History{Namespace: "n", ID: "x"}, &h)
	if len(h.Items) != semantic.KeptVersions+1 || h.Items[0].Text != "text 11" || h.Items[8].Text != "text 3" {
		t.Errorf("the versions are %+v", h.Items)
	}
	// What is removed and comes again is told apart.
	w.must(operator, semantic.OpDelete, semantic.Delete{Namespace: "n", IDs: []string{"x"}}, nil)
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "x", Text: "new"}, nil)
	w.wants("the version of another life", w.ask(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "x", Text: "y", IfVersion: &last.Version}, nil), errdefs.VersionConflict)
}

func TestTransactionsAreAllOrNothing(t *testing.T) {
	w := newWorld(t, ktime.Real)
	zero, wrong := int64(0), int64(7)
	b := semantic.Batch{Changes: []semantic.Change{
		{Put: &semantic.Put{Namespace: "n", ID: "1", Text: "one", IfVersion: &zero}},
		{Put: &semantic.Put{Namespace: "n", ID: "2", Text: "two", Parents: []string{"1"}}},
		{Delete: &semantic.Delete{Namespace: "n", IDs: []string{"1"}, IfVersion: &wrong}},
	}}
	w.wants("a transaction that fails", w.ask(operator, semantic.OpBatch, b, nil), errdefs.VersionConflict)
	var items semantic.Items
	w.must(operator, semantic.OpList, semantic.List{Namespace: "n"}, &items)
	var h semantic.Hits
	w.must(operator, semantic.OpSearch, semantic.Search{Text: "one two"}, &h)
	if len(items.Items)+len(h.Hits) != 0 {
		t.Errorf("it left %v, and finds %v", items.Items, h.Hits)
	}
	b.Changes = b.Changes[:2]
	var done semantic.Batched
	w.must(operator, semantic.OpBatch, b, &done)
	w.must(operator, semantic.OpGet, semantic.Get{Namespace: "n", IDs: []string{"2"}}, &items)
	want := semantic.Parent{Namespace: "n", ID: "1", Version: done.Results[0].Put.Version}
	if p := items.Items[0].Provenance.Parents; len(p) != 1 || p[0] != want {
		t.Errorf("its parents are %+v, want %+v", p, want)
	}
}

func TestWhatHasExpiredIsNeverSeen(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1e9, 0))
	w := newWorld(t, clock)
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "short", Text: "cat", Vector: []float32{1, 0}, TTL: 3}, nil)
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "long", Text: "cat", Vector: []float32{1, 0}}, nil)
	sees := func() string {
		var items, got semantic.Items
		var h, v semantic.Hits
		w.must(operator, semantic.OpList, semantic.List{Namespace: "n"}, &items)
		w.must(operator, semantic.OpGet, semantic.Get{Namespace: "n", IDs: []string{"short", "long"}}, &got)
		w.must(operator, semantic.OpSearch, semantic.Search{Text: "cat"}, &h)
		w.must(operator, semantic.OpSearch, semantic.Search{Vector: []float32{1, 0}}, &v)
		var spaces semantic.Namespaces
		w.must(operator, semantic.OpNamespaces, struct{}{}, &spaces)
		return fmt.Sprint(len(items.Items), len(got.Items), len(h.Hits), len(v.Hits), spaces.Namespaces[0].Items)
	}
	if got := sees(); got != "2 2 2 2 2" {
		t.Errorf("before: %s", got)
	}
	clock.Advance(4 * time.Second) // The purge, which comes every five, has not seen it.
	if got := sees(); got != "1 1 1 1 1" {
		t.Errorf("after: %s", got)
	}
	zero := int64(0)
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "short", Text: "again", IfVersion: &zero}, nil)
	if err := w.s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	var st semantic.Stats
	w.must(operator, semantic.OpStats, struct{}{}, &st)
	if st.Usage.Items != 2 {
		t.Errorf("there are %d items", st.Usage.Items)
	}
	w.must(operator, semantic.OpPut, semantic.Put{Namespace: "n", ID: "brief", Text: "cat", TTL: 1}, nil)
	clock.Advance(2 * time.Second)
	var gone semantic.Deleted
	if w.must(operator, semantic.OpDelete, semantic.Delete{Namespace: "n", All: true}, &gone); gone.Deleted != 2 {
		t.Errorf("%d items are said to have been removed", gone.Deleted)
	}
	if err := w.s.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	var spaces semantic.Namespaces
	w.must(operator, semantic.OpNamespaces, struct{}{}, &spaces)
	if len(w.s.spaces) != 0 {
		t.Errorf("the empty namespace stays")
	}
}

func TestIndexesAreMadeAnew(t *testing.T) {
	w := newWorld(t, ktime.Real)
	c := newCorpus(3, 24)
	c.load(w, 400, "kept")
	w.link()
	var q []semantic.Search
	var before []semantic.Hits
	look := func() (all []semantic.Hits) {
		for _, s := range q {
			var h semantic.Hits
			w.must(operator, semantic.OpSearch, s, &h)
			all = append(all, h)
		}
		return all
	}
	for range 30 {
		s := c.question()
		s.Exact = true
		q = append(q, s)
	}
	before = look()
	same := func(what string) {
		t.Helper()
		for i, h := range look() {
			if !slices.Equal(hitIDs(h), hitIDs(before[i])) {
				t.Fatalf("%s: %v, was %v", what, hitIDs(h), hitIDs(before[i]))
			}
		}
	}
	w.s.Close()
	w.open()
	if n := w.s.graphs()[0].Unlinked(); n != 0 {
		t.Errorf("%d vectors are not in the graph that was saved", n)
	}
	same("with saved graphs")
	w.crash()
	w.removeGraphs()
	w.open()
	same("without")
	// More is removed than stays: the index is made anew.
	c.load(w, 2600)
	for at := 400; at < 2600; at += 200 {
		var list []string
		for i := range 200 {
			list = append(list, fmt.Sprint("i", at+i))
		}
		w.must(operator, semantic.OpDelete, semantic.Delete{Namespace: "notes", IDs: list}, nil)
	}
	before = look()
	sp := w.s.byID[1]
	if dead := len(sp.docs) - sp.live; dead > leastDead && dead > sp.live {
		t.Errorf("%d are dead, %d alive", dead, sp.live)
	}
	w.crash()
	w.open()
	same("after compaction and a crash")
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, ktime.Real)
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			by := agent(fmt.Sprint("a", n), scope(fmt.Sprint("c", n), "*", allRights))
			for i := range 60 {
				id := fmt.Sprint(i % 20)
				err := w.ask(by, semantic.OpPut, semantic.Put{Namespace: "n", ID: id, Text: fmt.Sprint("word", i), Vector: []float32{float32(i), 1}}, nil)
				if err != nil {
					t.Error(err)
				}
				var h semantic.Hits
				if err := w.ask(by, semantic.OpSearch, semantic.Search{Text: "word1 word7", Vector: []float32{1, 1}}, &h); err != nil {
					t.Error(err)
				}
				if i%10 == 9 {
					w.ask(by, semantic.OpDelete, semantic.Delete{Namespace: "n", IDs: []string{id}}, nil)
				}
			}
		})
	}
	wg.Wait()
	var st semantic.Stats
	w.must(operator, semantic.OpStats, struct{}{}, &st)
	sum := semantic.Usage{}
	for _, a := range st.Agents {
		sum.Items += a.Items
		sum.Bytes += a.Bytes
	}
	if sum != st.Usage {
		t.Errorf("the agents have %+v, all have %+v", sum, st.Usage)
	}
}
