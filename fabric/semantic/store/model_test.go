package store

import (
	"cmp"
	"maps"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/ktime"
)

// The model is a list of items; what the store does with SQLite, bitmaps and
// graphs it does by looking at each.
type modelItem struct {
	space, id, text string
	tags            []string
	vector          []float32
	version         int64
	expires         time.Time
}

type model struct {
	items map[string]*modelItem // by space:id
	now   time.Time
}

func (m *model) alive(it *modelItem) bool {
	return it != nil && (it.expires.IsZero() || it.expires.After(m.now))
}

func (m *model) sees(by *semantic.Caller, it *modelItem) bool {
	return m.alive(it) && shows(readable(by, it.space), it.tags)
}

func (m *model) seen(by *semantic.Caller, space string) (out []string) {
	for _, it := range m.items {
		if it.space == space && m.sees(by, it) {
			out = append(out, it.id)
		}
	}
	slices.Sort(out)
	return out
}

// nearest are the IDs of what by sees, the nearest first; ties by ID.
func (m *model) nearest(by *semantic.Caller, space string, q []float32, k int) (cosines []float32) {
	for _, it := range m.items {
		if it.space == space && m.sees(by, it) && it.vector != nil {
			var dot, a, b float64
			for i := range q {
				dot += float64(q[i] * it.vector[i])
				a += float64(q[i] * q[i])
				b += float64(it.vector[i] * it.vector[i])
			}
			cosines = append(cosines, float32(dot*dot/(a*b))*float32(cmp.Compare(dot, 0)))
		}
	}
	slices.SortFunc(cosines, func(a, b float32) int { return cmp.Compare(b, a) })
	return cosines[:min(k, len(cosines))]
}

// TestTheStoreDoesWhatTheModelDoes has random callers do random things, with
// crashes between them.
func TestTheStoreDoesWhatTheModelDoes(t *testing.T) {
	callers := []semantic.Caller{
		operator,
		agent("a1", scope("c1", "s/*", allRights)),
		agent("a2", scope("c2", "s/x", allRights, "red")),
		agent("a3", scope("c3", "s/y", allRights), scope("c4", "s/x", allRights, "blue", "red")),
	}
	spaces := []string{"s/x", "s/y"}
	rapid.Check(t, func(t *rapid.T) {
		clock := ktime.NewFake(time.Unix(1e9, 0))
		dir := &world{t: t, clock: clock, dir: tempDir(t)}
		dir.open()
		defer func() { dir.s.Close() }()
		m := &model{items: make(map[string]*modelItem), now: clock.Now()}
		tags := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"red", "blue", "green"}), 0, 2, rapid.ID[string])
		pick := func() (by semantic.Caller, space, id string) {
			return rapid.SampledFrom(callers).Draw(t, "by"), rapid.SampledFrom(spaces).Draw(t, "space"), rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(t, "id")
		}
		// put does what the store does to one item, and returns the code that it refuses with.
		put := func(by *semantic.Caller, p semantic.Put) (errdefs.Code, *modelItem) {
			scopes, err := by.May("put", p.Namespace, 2)
			if err != nil {
				return errdefs.CapabilityDenied, nil
			}
			old := m.items[p.Namespace+":"+p.ID]
			if !m.alive(old) {
				old = nil
			}
			if old != nil && !shows(scopes, old.tags) {
				return errdefs.AlreadyExists, nil
			}
			if v := p.IfVersion; v != nil && (old == nil && *v != 0 || old != nil && *v != old.version) {
				return errdefs.VersionConflict, nil
			}
			it := &modelItem{space: p.Namespace, id: p.ID, text: p.Text, vector: p.Vector, tags: slices.Concat(p.Tags, scopes[0].Tags)}
			slices.Sort(it.tags)
			it.tags = slices.Compact(it.tags)
			if p.TTL > 0 {
				it.expires = m.now.Add(time.Duration(p.TTL * float64(time.Second)))
			}
			return "", it
		}
		draw := func(space, id string) semantic.Put {
			p := semantic.Put{Namespace: space, ID: id, Text: rapid.SampledFrom([]string{"cat", "dog", "cat dog", "bird"}).Draw(t, "text"), Tags: tags.Draw(t, "tags")}
			if rapid.Bool().Draw(t, "vector") {
				p.Vector = []float32{float32(rapid.IntRange(1, 9).Draw(t, "x")), float32(rapid.IntRange(-9, 9).Draw(t, "y"))}
			}
			if rapid.IntRange(0, 3).Draw(t, "ttl") == 0 {
				p.TTL = float64(rapid.IntRange(1, 20).Draw(t, "seconds"))
			}
			if rapid.IntRange(0, 2).Draw(t, "if") == 0 {
				v := int64(0)
				if it := m.items[space+":"+id]; it != nil && rapid.Bool().Draw(t, "right") {
					v = it.version
				}
				p.IfVersion = &v
			}
			return p
		}
		check := func(err error, want errdefs.Code) {
			if errdefs.CodeOf(err) != want {
				t.Fatalf("%v, want %q", err, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(*rapid.T) {
				by, space, id := pick()
				p := draw(space, id)
				code, it := put(&by, p)
				var done semantic.PutDone
				check(dir.ask(by, semantic.OpPut, p, &done), code)
				if code == "" {
					it.version = done.Version
					m.items[space+":"+id] = it
				}
			},
			"batch": func(*rapid.T) {
				by, space, _ := pick()
				before := maps.Clone(m.items)
				var b semantic.Batch
				var made []*modelItem
				var code errdefs.Code
				for _, id := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"1", "2", "3", "4"}), 1, 3, rapid.ID[string]).Draw(t, "ids") {
					p := draw(space, id)
					b.Changes = append(b.Changes, semantic.Change{Put: &p})
					c, it := put(&by, p)
					if code == "" {
						code = c
					}
					made = append(made, it)
				}
				var done semantic.Batched
				check(dir.ask(by, semantic.OpBatch, b, &done), code)
				if m.items = before; code == "" {
					for i, it := range made {
						it.version = done.Results[i].Put.Version
						m.items[space+":"+it.id] = it
					}
				}
			},
			"delete": func(*rapid.T) {
				by, space, id := pick()
				scopes, err := by.May("delete", space, 4)
				want := 0
				if it := m.items[space+":"+id]; err == nil && m.alive(it) && shows(scopes, it.tags) {
					want = 1
					delete(m.items, space+":"+id)
				}
				var done semantic.Deleted
				check(dir.ask(by, semantic.OpDelete, semantic.Delete{Namespace: space, IDs: []string{id}}, &done), errdefs.CodeOf(err))
				if done.Deleted != want {
					t.Fatalf("removed %d, want %d", done.Deleted, want)
				}
			},
			"time": func(*rapid.T) {
				clock.Advance(time.Duration(rapid.IntRange(1, 8).Draw(t, "later")) * time.Second)
				m.now = clock.Now()
			},
			"crash": func(*rapid.T) {
				dir.crash()
				dir.open()
			},
			"restart": func(*rapid.T) {
				dir.s.Close()
				dir.open()
			},
			"": func(*rapid.T) {
				by, space, _ := pick()
				want := m.seen(&by, space)
				if len(readable(&by, space)) == 0 {
					return
				}
				var items semantic.Items
				check(dir.ask(by, semantic.OpList, semantic.List{Namespace: space}, &items), "")
				if got := ids(items.Items); !slices.Equal(got, want) {
					t.Fatalf("%s lists %v of %s, want %v", by.Agent, got, space, want)
				}
				for _, it := range items.Items {
					mine := m.items[space+":"+it.ID]
					if it.Text != mine.text || it.Version != mine.version || !slices.Equal(it.Tags, mine.tags) {
						t.Fatalf("it is %+v, want %+v", it, mine)
					}
				}
				var h semantic.Hits
				check(dir.ask(by, semantic.OpSearch, semantic.Search{Namespace: space, Text: "cat"}, &h), "")
				var cats []string
				for _, id := range want {
					if it := m.items[space+":"+id]; it.text == "cat" || it.text == "cat dog" {
						cats = append(cats, id)
					}
				}
				if got := slices.Sorted(slices.Values(hitIDs(h))); !slices.Equal(got, cats) {
					t.Fatalf("%s finds %v, want %v", by.Agent, got, cats)
				}
				q := []float32{3, 2}
				near := m.nearest(&by, space, q, 3)
				if err := dir.ask(by, semantic.OpSearch, semantic.Search{Namespace: space, Vector: q, K: 3}, &h); err != nil {
					t.Fatal(err)
				}
				if len(h.Hits) != len(near) {
					t.Fatalf("%s finds %v near, want %v", by.Agent, h.Hits, near)
				}
				for i, hit := range h.Hits {
					if got := float32(*hit.Cosine * math.Abs(*hit.Cosine)); got-near[i] > 1e-4 || near[i]-got > 1e-4 {
						t.Fatalf("the nearest are %v, want cosines %v", h.Hits, near)
					}
				}
			},
		})
	})
}

func tempDir(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
