package store

import (
	"context"
	"time"

	"aios.dev/aios/fabric/semantic/hnsw"
)

// How often things are looked after.
const (
	purgeEvery = 5 * time.Second
	mostPurged = 1000 // at a time
)

// wakeLinker tells that there may be vectors to link.
func (s *Store) wakeLinker() {
	select {
	case s.toLink <- struct{}{}:
	default:
	}
}

// linker ties vectors into the graphs.
func (s *Store) linker(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.toLink:
		}
		for _, g := range s.graphs() {
			for n := 0; g.Link(); n++ {
				if n == 0 {
					s.wakeLinker() // Another one may help.
				}
				if ctx.Err() != nil {
					return
				}
			}
		}
	}
}

func (s *Store) graphs() (out []*hnsw.Graph) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sp := range s.byID {
		if sp.graph != nil {
			out = append(out, sp.graph)
		}
	}
	return out
}

// purgeLater removes what has expired, every now and then. Nobody sees it any
// more since the moment that it did.
func (s *Store) purgeLater(ctx context.Context) {
	s.o.Clock.AfterFunc(purgeEvery, func() {
		if ctx.Err() != nil {
			return
		}
		if err := s.Purge(ctx); err != nil && ctx.Err() == nil {
			s.o.Log("removing what has expired", err)
		}
		s.purgeLater(ctx)
	})
}

// Purge removes what has expired, and forgets namespaces without items.
func (s *Store) Purge(ctx context.Context) error {
	for {
		n := 0
		if err := s.submit(ctx, func(t *txn) (err error) { n, err = t.purge(); return err }); err != nil || n < mostPurged {
			return err
		}
	}
}

func (t *txn) purge() (int, error) {
	rows, err := t.tx.Query("SELECT "+columns+" FROM items WHERE expires <> 0 AND expires <= ? LIMIT ?", t.now, mostPurged)
	if err != nil {
		return 0, broken(err, "purge")
	}
	var gone []*row
	for rows.Next() {
		r := &row{}
		if err := r.scan(rows, false); err != nil {
			rows.Close()
			return 0, broken(err, "purge")
		}
		gone = append(gone, r)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return 0, broken(err, "purge")
	}
	for _, r := range gone {
		if err := t.drop(r, ""); err != nil {
			return 0, err
		}
	}
	if len(gone) > 0 {
		return len(gone), nil
	}
	return 0, t.forget()
}

// forget removes the namespaces that have no items.
func (t *txn) forget() error {
	rows, err := t.tx.Query("DELETE FROM namespaces WHERE NOT EXISTS (SELECT 1 FROM items WHERE ns = namespaces.id) RETURNING id, name")
	if err != nil {
		return broken(err, "purge")
	}
	defer rows.Close()
	for rows.Next() {
		c := change{forget: true}
		if err := rows.Scan(&c.ns, &c.space); err != nil {
			return broken(err, "purge")
		}
		t.changes = append(t.changes, c)
	}
	return broken(rows.Err(), "purge")
}

// Compaction: an index is made anew when more of it is dead than alive.
const leastDead = 1024

// compact makes the indexes anew that are full of what was removed. It runs on
// the writer, so that nothing changes meanwhile.
func (s *Store) compact() {
	s.mu.RLock()
	var list []*space
	for _, sp := range s.byID {
		if dead := len(sp.docs) - sp.live; dead > leastDead && dead > sp.live {
			list = append(list, sp)
		}
	}
	s.mu.RUnlock()
	for _, sp := range list {
		fresh := sp.renewed()
		s.mu.Lock()
		s.byID[sp.id], s.spaces[sp.name] = fresh, fresh
		s.mu.Unlock()
		s.wakeLinker()
	}
}

// renewed returns the index without what is dead. Only the writer changes sp, so
// that reading it needs no lock.
func (sp *space) renewed() *space {
	fresh := newSpace(sp.id, sp.name, sp.dims)
	moved := make([]uint32, len(sp.docs))
	if sp.graph != nil {
		fresh.graph = hnsw.New(sp.dims)
	}
	for slot := range sp.docs {
		d := sp.docs[slot]
		moved[slot] = noNode
		if d.dead {
			continue
		}
		e := entry{doc: d}
		e.node = noNode
		if d.node != noNode {
			e.vector = sp.graph.Vector(d.node)
		}
		moved[slot] = uint32(len(fresh.docs))
		if fresh.add(&e) != nil { // There is room for fewer than there were.
			continue
		}
	}
	for w, list := range sp.words {
		var kept []posting
		for _, p := range list {
			if to := moved[p.slot]; to != noNode {
				kept = append(kept, posting{to, p.times})
			}
		}
		if kept != nil {
			fresh.words[w] = kept
		}
	}
	return fresh
}

// Close saves the indexes and ends the store. Writes that were answered are on disk
// already.
func (s *Store) Close() error {
	s.stop()
	s.stopped.Wait() // Nobody writes any more.
	s.save(func(*space) bool { return true }, func(do func()) error { do(); return nil })
	return s.closeFiles()
}
