package store

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/fabric/semantic/hnsw"
	"aios.dev/aios/internal/safefile"
)

// Open opens the store in a directory, and makes it if there is none. The caller
// closes it.
func Open(o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = func(string, error) {}
	}
	began := o.Clock.Now()
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	write, read, err := openFile(o.Dir)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s := &Store{
		o: o, lock: lock, write: write, read: read, jobs: make(chan *job, 64), toLink: make(chan struct{}, 1),
		spaces: make(map[string]*space), byID: make(map[int64]*space),
		usage: make(map[who]semantic.Usage), names: make(map[string]string),
	}
	if err := s.fill(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	s.openedIn = o.Clock.Since(began).Seconds()
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.stopped.Go(func() { s.writer(ctx) })
	for range min(2, runtime.GOMAXPROCS(0)) {
		s.stopped.Go(func() { s.linker(ctx) })
	}
	s.purgeLater(ctx)
	s.saveLater(ctx)
	s.wakeLinker()
	return s, nil
}

// lockDir waits until nobody else has the store: one that is just ending may still
// save its graphs.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, safefile.Fail(err, "memory open", path)
	}
	for {
		switch err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err {
		case nil:
			return f, nil
		case unix.EINTR:
		default:
			f.Close()
			return nil, safefile.Fail(err, "memory lock", path)
		}
	}
}

// closeFiles closes what the store has open; the lock last.
func (s *Store) closeFiles() error {
	return errors.Join(s.read.Close(), s.write.Close(), s.lock.Close())
}

// fill makes the indexes.
func (s *Store) fill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	rows, err := s.read.Query("SELECT id, name, dims FROM namespaces")
	if err != nil {
		return broken(err, "open")
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var name string
		var dims int
		if err := rows.Scan(&id, &name, &dims); err != nil {
			return broken(err, "open")
		}
		sp := newSpace(id, name, dims)
		s.spaces[name], s.byID[id] = sp, sp
	}
	if err := rows.Err(); err != nil {
		return broken(err, "open")
	}
	if err := s.countUsageLocked(); err != nil {
		return err
	}
	for _, sp := range s.byID {
		if err := s.fillSpace(sp); err != nil {
			return err
		}
	}
	return nil
}

// countUsageLocked sums up what everybody has written, and finds the highest
// version.
//
// +checklocks:s.mu
func (s *Store) countUsageLocked() error {
	var high int64
	if err := s.read.QueryRow("SELECT version FROM high").Scan(&high); err != nil {
		return broken(err, "open")
	}
	s.last.Store(high)
	for _, table := range []string{"items", "versions"} { // Each from its index alone.
		rows, err := s.read.Query("SELECT agent, max(name), cap, count(*), sum(bytes) FROM " + table + " GROUP BY agent, cap")
		if err != nil {
			return broken(err, "open")
		}
		for rows.Next() {
			var agent, name, capID string
			var items, bytes int64
			if err := rows.Scan(&agent, &name, &capID, &items, &bytes); err != nil {
				rows.Close()
				return broken(err, "open")
			}
			if table == "versions" {
				items = 0
			}
			s.chargeLocked(agent, capID, items, bytes) // +checklocksforce: in a loop.
			s.names[agent] = max(s.names[agent], name)
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return broken(err, "open")
		}
	}
	return nil
}

// chargeLocked adds to what somebody has written.
//
// +checklocks:s.mu
func (s *Store) chargeLocked(agent, capID string, items, bytes int64) {
	s.addLocked(who{agent: agent}, items, bytes)
	if capID != "" {
		s.addLocked(who{cap: capID}, items, bytes)
	}
	s.total.Items += uint64(items)
	s.total.Bytes += uint64(bytes)
}

// +checklocks:s.mu
func (s *Store) addLocked(w who, items, bytes int64) {
	u := s.usage[w]
	u.Items += uint64(items)
	u.Bytes += uint64(bytes)
	if u == (semantic.Usage{}) {
		delete(s.usage, w)
		return
	}
	s.usage[w] = u
}

// fillSpace makes the index of a namespace: from what was saved of it, as far as
// that is still so, and for the rest from its items.
func (s *Store) fillSpace(sp *space) error {
	graph := make(chan *hnsw.Graph, 1)
	go func() { graph <- s.loadGraph(sp.id, sp.dims) }()
	s.loadWords(sp)
	changed, err := s.compare(sp)
	if err != nil {
		return err
	}
	if err := s.addItems(sp, changed); err != nil {
		return err
	}
	without := make(map[int64]int64) // the key of what has a vector, by version
	for i := range sp.docs {
		if d := &sp.docs[i]; d.vector && !d.dead {
			without[d.version] = d.key
		}
	}
	g := <-graph
	if sp.dims == 0 || len(without) == 0 {
		return nil
	}
	if sp.graph = hnsw.New(sp.dims); g != nil {
		sp.adopt(g, without)
	}
	return s.addVectors(sp, without)
}

// loadGraph returns the graph that was saved of a namespace; nil if there is none.
func (s *Store) loadGraph(id int64, dims int) *hnsw.Graph {
	f, err := os.Open(s.graphFile(id))
	if err != nil || dims == 0 {
		return nil
	}
	defer f.Close()
	g, err := hnsw.Load(bufio.NewReaderSize(f, 1<<20), dims, func(uint64) bool { return true })
	if err != nil {
		s.o.Log("the graph of a namespace is made anew", err)
		return nil
	}
	return g
}

// compare removes from an index what is no more, and returns the keys of the items
// that it lacks, or has in another version.
func (s *Store) compare(sp *space) (changed []int64, err error) {
	rows, err := s.read.Query("SELECT key, version FROM items WHERE ns = ?", sp.id)
	if err != nil {
		return nil, broken(err, "open")
	}
	defer rows.Close()
	same := make([]bool, len(sp.docs))
	for rows.Next() {
		var key, version int64
		if err := rows.Scan(&key, &version); err != nil {
			return nil, broken(err, "open")
		}
		if slot, ok := sp.slots[key]; ok && sp.docs[slot].version == version {
			same[slot] = true
			continue
		}
		changed = append(changed, key)
	}
	for slot, ok := range same {
		if !ok {
			sp.remove(sp.docs[slot].key)
		}
	}
	slices.Sort(changed)
	return changed, broken(rows.Err(), "open")
}

// addItems adds items to an index, without their vectors.
func (s *Store) addItems(sp *space, keys []int64) error {
	tags := make(interned)
	for part := range slices.Chunk(keys, 500) {
		err := s.byKeys("key, version, expires, tags, text, vector IS NOT NULL", part, func(row scanner) error {
			var list, text string
			d := doc{node: noNode}
			if err := row.Scan(&d.key, &d.version, &d.expires, &list, &text, &d.vector); err != nil {
				return err
			}
			if err := unlist(list, &d.tags); err != nil {
				return err
			}
			tags.all(d.tags)
			terms, n := count(text)
			d.length = int32(n)
			return sp.add(&entry{doc: d, terms: terms})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// byKeys reads columns of items.
func (s *Store) byKeys(columns string, keys []int64, each func(scanner) error) error {
	args := make([]any, len(keys))
	for i, k := range keys {
		args[i] = k
	}
	rows, err := s.read.Query("SELECT "+columns+" FROM items WHERE key IN ("+strings.Repeat(",?", len(keys))[1:]+")", args...)
	if err != nil {
		return broken(err, "open")
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return broken(err, "open")
		}
	}
	return broken(rows.Err(), "open")
}

// interned has every tag in memory once.
type interned map[string]string

func (in interned) all(tags []string) {
	for i, t := range tags {
		one, ok := in[t]
		if !ok {
			in[t], one = t, t
		}
		tags[i] = one
	}
}

// adopt takes a graph, and forgets the vectors that are in it.
func (sp *space) adopt(g *hnsw.Graph, without map[int64]int64) {
	sp.graph = g
	for n := range uint32(g.Len()) {
		sp.place(n, noNode)
		if !g.Alive(n) {
			continue
		}
		version := int64(g.Label(n))
		key, ok := without[version]
		if !ok { // Twice: that is no graph of ours.
			g.Remove(n)
			continue
		}
		slot := sp.slots[key]
		sp.docs[slot].node = n
		sp.nodes[n] = slot
		delete(without, version)
	}
}

// addVectors adds those that the graph does not have.
func (s *Store) addVectors(sp *space, without map[int64]int64) error {
	for part := range slices.Chunk(slices.Sorted(maps.Values(without)), 500) {
		err := s.byKeys("key, vector", part, func(row scanner) error {
			var key int64
			var raw []byte
			if err := row.Scan(&key, &raw); err != nil {
				return err
			}
			d := &sp.docs[sp.slots[key]]
			n, err := sp.graph.Add(uint64(d.version), unpack(raw))
			if err != nil {
				return err
			}
			d.node = n
			sp.place(n, sp.slots[key])
			sp.unsaved++
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sortedLocked returns the names of the namespaces in order.
//
// +checklocksread:s.mu
func (s *Store) sortedLocked() []string { return slices.Sorted(maps.Keys(s.spaces)) }

func sortAgents(list []semantic.AgentUsage) {
	slices.SortFunc(list, func(a, b semantic.AgentUsage) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Agent, b.Agent))
	})
}
