package store

import (
	"context"
	"database/sql"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// job is something that is to be written.
type job struct {
	ctx context.Context // of who waits
	// do does it within a transaction; what it has changed is undone if it fails.
	do   func(*txn) error
	done chan error
}

// mostJobs is how many jobs one transaction does, and one flush to disk.
const mostJobs = 32

// submit has the writer do something, and returns when it is on disk. Who no
// longer wants to wait does not undo it.
func (s *Store) submit(ctx context.Context, do func(*txn) error) error {
	j := &job{ctx: ctx, do: do, done: make(chan error, 1)}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "memory write")
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "memory write")
	}
}

// writer does the jobs.
func (s *Store) writer(ctx context.Context) {
	for {
		var jobs []*job
		select {
		case j := <-s.jobs:
			jobs = append(jobs, j)
		case <-ctx.Done():
			return
		}
	more:
		for len(jobs) < mostJobs {
			select {
			case j := <-s.jobs:
				jobs = append(jobs, j)
			default:
				break more
			}
		}
		s.commit(jobs)
		s.compact()
	}
}

// commit does jobs in one transaction. One that fails leaves no trace; if the
// commit fails, all have failed.
func (s *Store) commit(jobs []*job) {
	errs := make([]error, len(jobs))
	err := s.transact(jobs, errs)
	for i, j := range jobs {
		if errs[i] == nil {
			errs[i] = err
		}
		j.done <- errs[i]
	}
}

func (s *Store) transact(jobs []*job, errs []error) error {
	tx, err := s.write.BeginTx(context.Background(), nil)
	if err != nil {
		return broken(err, "write")
	}
	defer tx.Rollback()                                                                                             // Nothing once it is committed.
	t := &txn{s: s, tx: tx, now: s.now(), high: s.last.Load(), usage: make(map[who]semantic.Usage), total: s.total} // +checklocksignore: only the writer changes it.
	for i, j := range jobs {
		if _, err := tx.Exec("SAVEPOINT job"); err != nil {
			return broken(err, "write")
		}
		mark := t.mark()
		if errs[i] = j.ctx.Err(); errs[i] == nil { // Who has given up is not told of it any more.
			errs[i] = j.do(t)
		}
		if errs[i] != nil {
			t.undo(mark)
			if _, err := tx.Exec("ROLLBACK TO job"); err != nil {
				return broken(err, "write")
			}
		}
		if _, err := tx.Exec("RELEASE job"); err != nil {
			return broken(err, "write")
		}
	}
	if len(t.changes) == 0 && len(t.charges) == 0 {
		return nil
	}
	if _, err := tx.Exec("UPDATE high SET version = ?", t.high); err != nil {
		return broken(err, "write")
	}
	if err := tx.Commit(); err != nil {
		return broken(err, "commit")
	}
	s.follow(t)
	return nil
}

// follow has the indexes follow what was committed.
func (s *Store) follow(t *txn) {
	for _, ns := range s.index(t) {
		s.removeSaved(ns)
	}
}

// index changes the indexes, and returns the namespaces that are gone.
func (s *Store) index(t *txn) (gone []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last.Store(t.high)
	for _, c := range t.charges {
		s.chargeLocked(c.agent, c.cap, c.items, c.bytes)
		if c.name != "" {
			s.names[c.agent] = c.name
		}
	}
	linked := false
	for i := range t.changes {
		c := &t.changes[i]
		sp := s.byID[c.ns]
		if sp == nil {
			sp = newSpace(c.ns, c.space, 0)
			s.byID[c.ns], s.spaces[c.space] = sp, sp
		}
		if c.forget {
			delete(s.byID, c.ns)
			delete(s.spaces, c.space)
			gone = append(gone, c.ns)
			continue
		}
		sp.remove(c.key)
		if c.put == nil {
			continue
		}
		if err := sp.add(c.put); err != nil { // There are too many vectors; words still find it.
			c.put.vector, c.put.node = nil, noNode
			s.o.Log("a vector is not in the index", err)
			sp.add(c.put)
		}
		linked = linked || len(c.put.vector) > 0
	}
	if linked {
		s.wakeLinker()
	}
	return gone
}

// txn is a transaction of the writer.
type txn struct {
	s       *Store
	tx      *sql.Tx
	now     int64
	high    int64
	changes []change
	charges []charge
	// usage is what somebody has, with what this transaction changes.
	usage map[who]semantic.Usage
	total semantic.Usage
}

// change is what becomes of an item in the index: it is removed, or replaced.
type change struct {
	ns    int64
	space string
	key   int64
	put   *entry
	// forget has the namespace go, which has no items.
	forget bool
}

// charge is what somebody has more, or less.
type charge struct {
	agent, cap, name string
	items, bytes     int64
}

// mark is a point in a transaction.
type mark struct{ changes, charges int }

func (t *txn) mark() mark { return mark{len(t.changes), len(t.charges)} }

func (t *txn) undo(m mark) {
	for _, c := range t.charges[m.charges:] {
		t.count(c.agent, c.cap, -c.items, -c.bytes)
	}
	t.changes, t.charges = t.changes[:m.changes], t.charges[:m.charges]
}

// of returns what somebody has.
func (t *txn) of(w who) semantic.Usage {
	u, ok := t.usage[w]
	if !ok {
		u = t.s.usage[w]
	}
	return u
}

func (t *txn) count(agent, capID string, items, bytes int64) {
	for _, w := range []who{{agent: agent}, {cap: capID}} {
		u := t.of(w)
		u.Items += uint64(items)
		u.Bytes += uint64(bytes)
		t.usage[w] = u
	}
	t.total.Items += uint64(items)
	t.total.Bytes += uint64(bytes)
}

func (t *txn) charge(c charge) {
	t.charges = append(t.charges, c)
	t.count(c.agent, c.cap, c.items, c.bytes)
}

// version is the next one.
func (t *txn) version() int64 {
	t.high = max(t.now, t.high+1)
	return t.high
}

// namespace returns the number of a namespace and how long its vectors are; 0 if
// there is none.
func (t *txn) namespace(name string) (id int64, dims int, err error) {
	err = t.tx.QueryRow("SELECT id, dims FROM namespaces WHERE name = ?", name).Scan(&id, &dims)
	if err == sql.ErrNoRows {
		return 0, 0, nil
	}
	return id, dims, broken(err, "write")
}

// lookup returns an item, or nil.
func (t *txn) lookup(ns int64, id string) (*row, error) {
	var r row
	err := r.scan(t.tx.QueryRow("SELECT "+columns+" FROM items WHERE ns = ? AND id = ?", ns, id), false)
	if err == sql.ErrNoRows {
		return nil, nil
	}
	return &r, broken(err, "write")
}

// drop removes an item and its versions.
func (t *txn) drop(r *row, space string) error {
	rows, err := t.tx.Query("DELETE FROM versions WHERE key = ? RETURNING agent, cap, bytes", r.key)
	if err != nil {
		return broken(err, "write")
	}
	if err := t.refund(rows); err != nil {
		return err
	}
	if _, err := t.tx.Exec("DELETE FROM items WHERE key = ?", r.key); err != nil {
		return broken(err, "write")
	}
	t.charge(charge{agent: r.agent, cap: r.cap, items: -1, bytes: -r.bytes})
	t.changes = append(t.changes, change{ns: r.ns, space: space, key: r.key})
	return nil
}

// refund gives back what the removed versions took.
func (t *txn) refund(rows *sql.Rows) error {
	defer rows.Close()
	for rows.Next() {
		var agent, capID string
		var bytes int64
		if err := rows.Scan(&agent, &capID, &bytes); err != nil {
			return broken(err, "write")
		}
		t.charge(charge{agent: agent, cap: capID, bytes: -bytes})
	}
	return broken(rows.Err(), "write")
}
