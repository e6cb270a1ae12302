package store

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/ktime"
)

// corpus makes items as agents remember them: texts about few of many subjects,
// whose words are as frequent as words are, and vectors that lie as embeddings of
// such texts do, near to others of the same subjects.
type corpus struct {
	rng      *rand.Rand
	zipf     *rand.Zipf
	subjects [][]float32
	dims     int
}

func newCorpus(seed uint64, dims int) *corpus {
	rng := rand.New(rand.NewPCG(seed, 1))
	c := &corpus{rng: rng, zipf: rand.NewZipf(rng, 1.1, 5, 30000), dims: dims}
	for range 500 {
		v := make([]float32, dims)
		for d := range v {
			v[d] = float32(rng.NormFloat64())
		}
		c.subjects = append(c.subjects, v)
	}
	return c
}

func (c *corpus) item() (text string, vector []float32) {
	vector = make([]float32, c.dims)
	words := make([]string, 0, 40)
	for range 3 {
		n := c.rng.IntN(len(c.subjects))
		share := c.rng.Float32()
		for d, x := range c.subjects[n] {
			vector[d] += share * x
		}
		words = append(words, "subject"+strconv.Itoa(n))
	}
	for d := range vector {
		vector[d] += 0.3 * float32(c.rng.NormFloat64())
	}
	for len(words) < 40 {
		words = append(words, "w"+strconv.FormatUint(c.zipf.Uint64(), 36))
	}
	return strings.Join(words, " "), vector
}

// load writes n items.
func (c *corpus) load(w *world, n int, tags ...string) {
	for at := 0; at < n; {
		var b semantic.Batch
		for len(b.Changes) < 100 && at < n {
			text, vector := c.item()
			b.Changes = append(b.Changes, semantic.Change{Put: &semantic.Put{Namespace: "notes", ID: fmt.Sprint("i", at), Text: text, Vector: vector, Tags: tags}})
			at++
		}
		w.must(operator, semantic.OpBatch, b, nil)
	}
}

// question asks for what is near to an item that nobody has written.
func (c *corpus) question() semantic.Search {
	text, vector := c.item()
	words := strings.Fields(text)
	return semantic.Search{Namespace: "notes", Text: strings.Join([]string{words[0], words[5], words[11], words[17], words[23]}, " "), Vector: vector}
}

// filled returns a store with so many items of a corpus, just opened.
func filled(b *testing.B, c *corpus, items int) *world {
	w := &world{t: b, clock: ktime.Real, dir: os.Getenv("AIOS_SEMANTIC_STORE")}
	if w.dir == "" {
		w.dir = b.TempDir()
	}
	w.open()
	b.Cleanup(func() { w.s.Close() })
	if n := int(w.s.total.Items); n == items {
		return w
	} else if n > 0 {
		b.Fatalf("%s has %d items", w.dir, n)
	}
	began := time.Now()
	c.load(w, items)
	b.Logf("%d items written in %v", items, time.Since(began))
	began = time.Now()
	for w.s.graphs()[0].Unlinked() > 0 {
		w.link()
		time.Sleep(10 * time.Millisecond)
	}
	b.Logf("linked %v later", time.Since(began))
	w.s.Close()
	w.open()
	return w
}

// BenchmarkHybrid is the figure: a hybrid question to AIOS_SEMANTIC_ITEMS items,
// 20,000 if that is not set, of 384 dimensions. AIOS_SEMANTIC_STORE is where the
// store is kept for the next time, for to fill it takes minutes.
func BenchmarkHybrid(b *testing.B) {
	items := 20000
	if n, err := strconv.Atoi(os.Getenv("AIOS_SEMANTIC_ITEMS")); err == nil {
		items = n
	}
	c := newCorpus(1, 384)
	w := filled(b, c, items)
	opened := w.s.openedIn
	b.Logf("opened in %.2f s with its graphs", opened)
	w.crash()
	w.open()
	found, all, vfound := 0, 0, 0
	for range 100 {
		q := c.question()
		exact := q
		exact.Exact = true
		var a, e semantic.Hits
		w.must(operator, semantic.OpSearch, q, &a)
		w.must(operator, semantic.OpSearch, exact, &e)
		ids := func(h semantic.Hits) (out []string) {
			for _, x := range h.Hits {
				out = append(out, x.ID)
			}
			return out
		}
		all += len(e.Hits)
		for _, id := range ids(a) {
			if slices.Contains(ids(e), id) {
				found++
			}
		}
		q.Mode, exact.Mode = semantic.ModeVector, semantic.ModeVector
		w.must(operator, semantic.OpSearch, q, &a)
		w.must(operator, semantic.OpSearch, exact, &e)
		for _, id := range ids(a) {
			if slices.Contains(ids(e), id) {
				vfound++
			}
		}
	}
	recall, vrecall := float64(found)/float64(all), float64(vfound)/float64(all)
	peer := newPeer(b, w)
	for _, mode := range []string{"hybrid", "vector", "text", "exact", "fts5"} {
		b.Run(mode, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				q := c.question()
				if q.Mode = mode; mode == "exact" {
					q.Mode, q.Exact = semantic.ModeHybrid, true
				}
				began := time.Now()
				if mode == "fts5" {
					peer.ask(b, q.Text)
				} else {
					w.must(operator, semantic.OpSearch, q, nil)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(opened, "open-s")
			b.ReportMetric(recall, "recall@10")
			b.ReportMetric(vrecall, "vector-recall@10")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// peer is the same texts in SQLite's own full-text index, which knows no vectors.
type peer struct{ db *sql.DB }

func newPeer(b *testing.B, w *world) *peer {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, "peer.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	var n int
	if db.QueryRow("SELECT count(*) FROM texts_docsize").Scan(&n) == nil {
		return &peer{db}
	}
	for _, do := range []string{
		"PRAGMA journal_mode=OFF", "CREATE VIRTUAL TABLE texts USING fts5(text, content='')",
		"ATTACH '" + filepath.Join(w.dir, "memory.db") + "' AS store",
		"INSERT INTO texts(rowid, text) SELECT key, text FROM store.items", "DETACH store",
	} {
		if _, err := db.Exec(do); err != nil {
			b.Fatal(do, err)
		}
	}
	return &peer{db}
}

func (p *peer) ask(b *testing.B, text string) {
	rows, err := p.db.Query("SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY bm25(texts) LIMIT 10", strings.Join(strings.Fields(text), " OR "))
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
	}
	if rows.Err() != nil {
		b.Fatal(rows.Err())
	}
}
