package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// maxNamespaces bounds how many there are.
const maxNamespaces = 10000

func (s *Store) put(ctx context.Context, req *semantic.Request, reply *semantic.Reply) (any, error) {
	var p semantic.Put
	if err := semantic.Decode(req.Body, &p); err != nil {
		return nil, err
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	var done semantic.PutDone
	err := s.submit(ctx, func(t *txn) (err error) {
		done, err = t.put(&req.Caller, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	reply.Changed, reply.Namespace = 1, p.Namespace
	return done, nil
}

func (s *Store) batch(ctx context.Context, req *semantic.Request, reply *semantic.Reply) (any, error) {
	var b semantic.Batch
	if err := semantic.Decode(req.Body, &b); err != nil {
		return nil, err
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	var done semantic.Batched
	changed := 0
	err := s.submit(ctx, func(t *txn) error {
		for i, c := range b.Changes {
			var one semantic.ChangeDone
			if c.Put != nil {
				put, err := t.put(&req.Caller, *c.Put)
				if err != nil {
					return inBatch(err, i)
				}
				one.Put = &put
				changed++
			} else {
				n, err := t.delete(&req.Caller, c.Delete)
				if err != nil {
					return inBatch(err, i)
				}
				one.Delete = &semantic.Deleted{Deleted: n}
				changed += n
			}
			done.Results = append(done.Results, one)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	reply.Changed, reply.Namespace = changed, b.Changes[0].Namespace()
	return done, nil
}

func inBatch(err error, i int) error {
	return errdefs.Wrap(err, errdefs.Internal, "memory batch", errdefs.Resource("change %d", i))
}

// writing picks the capability by which an item is written: one by which what is
// there now is seen, if anything is, and that asks for the fewest tags beside those
// that the item has.
func writing(scopes []semantic.Scope, old *row, tags []string) *semantic.Scope {
	var best *semantic.Scope
	bestMissing := 0
	for i := range scopes {
		if old != nil && !scopes[i].Shows(old.tags) {
			continue
		}
		missing := 0
		for _, t := range scopes[i].Tags {
			if !slices.Contains(tags, t) {
				missing++
			}
		}
		if best == nil || missing < bestMissing {
			best, bestMissing = &scopes[i], missing
		}
	}
	return best
}

// put writes one item.
func (t *txn) put(by *semantic.Caller, p semantic.Put) (done semantic.PutDone, err error) {
	scopes, err := by.May(semantic.OpPut, p.Namespace, abi.SemanticWrite)
	if err != nil {
		return done, err
	}
	refuse := func(code errdefs.Code, detail, fix string) (semantic.PutDone, error) {
		return done, errdefs.New(code, detail, errdefs.Op("memory put"), errdefs.Resource("%s:%s", p.Namespace, p.ID), errdefs.Fix("%s", fix))
	}
	ns, dims, err := t.namespace(p.Namespace)
	if err != nil {
		return done, err
	}
	var old *row
	switch {
	case p.ID == "":
		var b [12]byte
		rand.Read(b[:]) // Never fails since Go 1.24.
		p.ID = hex.EncodeToString(b[:])
	case ns != 0:
		if old, err = t.lookup(ns, p.ID); err != nil {
			return done, err
		}
		if old != nil && old.expires != 0 && old.expires <= t.now { // It is not there any more.
			if err := t.drop(old, p.Namespace); err != nil {
				return done, err
			}
			old = nil
		}
	}
	sc := writing(scopes, old, p.Tags)
	switch {
	case sc == nil:
		return refuse(errdefs.AlreadyExists, "the ID is taken", "choose another one, or leave it to the service")
	case p.IfVersion != nil && (old == nil && *p.IfVersion != 0 || old != nil && *p.IfVersion != old.version):
		return refuse(errdefs.VersionConflict, "the item has another version", "read it again")
	}
	tags := slices.Concat(p.Tags, sc.Tags)
	slices.Sort(tags)
	tags = slices.Compact(tags)
	if len(tags) > semantic.MaxTags {
		return refuse(errdefs.InvalidArgument, "with those of the capability it has more than 32 tags", "use fewer")
	}
	if n := len(p.Vector); n > 0 && dims > 0 && n != dims {
		return done, errdefs.Newf(errdefs.InvalidArgument, "the vector has %d dimensions, those of the namespace have %d", n, dims).
			With(errdefs.Op("memory put"), errdefs.Resource("%s:%s", p.Namespace, p.ID), errdefs.Fix("use one embedding for all of a namespace"))
	}
	parents, err := t.parents(by, p)
	if err != nil {
		return done, err
	}
	r := row{
		id: p.ID, tags: tags, agent: by.Agent, name: by.Name, domain: by.Domain, cap: sc.Cap, parents: parents, text: p.Text,
		bytes: size(p.Text, len(p.Vector), tags, p.ID),
	}
	if err := t.afford(sc, &r, old); err != nil {
		return done, err
	}
	if r.ns, err = t.makeNamespace(ns, p.Namespace, dims, len(p.Vector)); err != nil {
		return done, err
	}
	r.version = t.version()
	r.created = r.version
	if p.TTL > 0 {
		r.expires = t.now + int64(p.TTL*1e6)
	}
	if old != nil {
		r.key, r.created = old.key, old.created
		if err := t.keepVersion(old); err != nil {
			return done, err
		}
	}
	var key any = r.key
	if old == nil {
		key = nil
	}
	err = t.tx.QueryRow("INSERT OR REPLACE INTO items ("+columns+", vector) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) RETURNING key",
		key, r.ns, r.id, r.version, r.created, r.expires, list(r.tags), r.agent, r.name, r.domain, r.cap, list(r.parents), r.bytes, r.text, pack(p.Vector)).Scan(&r.key)
	if err != nil {
		return done, broken(err, "put")
	}
	t.charge(charge{agent: r.agent, cap: r.cap, name: r.name, items: 1, bytes: r.bytes})
	terms, n := count(r.text)
	t.changes = append(t.changes, change{ns: r.ns, space: p.Namespace, key: r.key, put: &entry{
		doc:   doc{key: r.key, version: r.version, expires: r.expires, tags: r.tags, length: int32(n), node: noNode, vector: len(p.Vector) > 0},
		terms: terms, vector: p.Vector,
	}})
	return semantic.PutDone{ID: r.id, Version: r.version}, nil
}

// makeNamespace returns the number of the namespace, which comes to be with its
// first item and gets its dimensions with its first vector.
func (t *txn) makeNamespace(id int64, name string, dims, want int) (int64, error) {
	switch {
	case id == 0:
		var n int
		if err := t.tx.QueryRow("SELECT count(*) FROM namespaces").Scan(&n); err != nil {
			return 0, broken(err, "put")
		}
		if n >= maxNamespaces {
			return 0, errdefs.Newf(errdefs.QuotaExceeded, "there are %d namespaces, and may not be more", n).
				With(errdefs.Op("memory put"), errdefs.Fix("use one that there is, and tags"))
		}
		err := t.tx.QueryRow("INSERT INTO namespaces (name, dims) VALUES (?, ?) RETURNING id", name, want).Scan(&id)
		return id, broken(err, "put")
	case dims == 0 && want > 0:
		_, err := t.tx.Exec("UPDATE namespaces SET dims = ? WHERE id = ?", want, id)
		return id, broken(err, "put")
	}
	return id, nil
}

// afford refuses what would be more than the capability, or the store, may hold.
func (t *txn) afford(sc *semantic.Scope, r, old *row) error {
	u := t.of(who{cap: sc.Cap})
	items, bytes := u.Items+1, u.Bytes+uint64(r.bytes)
	if old != nil && old.cap == sc.Cap {
		items-- // It takes the place of one of its own, of which a version is kept.
	}
	refuse := func(what string, have, limit uint64) error {
		return errdefs.Newf(errdefs.QuotaExceeded, "through the capability %d %s would be written, and may be %d", have, what, limit).
			With(errdefs.Op("memory put"), errdefs.Capability(sc.Cap), errdefs.Fix("delete items, or ask for semantic:%s with more", sc.Pattern))
	}
	switch {
	case sc.Items != 0 && items > sc.Items:
		return refuse("items", items, sc.Items)
	case sc.Bytes != 0 && bytes > sc.Bytes:
		return refuse("bytes", bytes, sc.Bytes)
	case t.s.o.MaxBytes != 0 && int64(t.total.Bytes)+r.bytes > t.s.o.MaxBytes:
		return errdefs.Newf(errdefs.QuotaExceeded, "the store holds %d bytes, and may hold %d", t.total.Bytes, t.s.o.MaxBytes).
			With(errdefs.Op("memory put"), errdefs.Fix("`aiosctl memory stats` shows who has written most, `aiosctl memory rm` removes items"))
	}
	return nil
}

// keepVersion puts an item among the earlier versions, of which the oldest goes.
func (t *txn) keepVersion(old *row) error {
	_, err := t.tx.Exec("INSERT INTO versions ("+columns+", vector) SELECT "+columns+", vector FROM items WHERE key = ?", old.key)
	if err != nil {
		return broken(err, "put")
	}
	t.charge(charge{agent: old.agent, cap: old.cap, items: -1}) // Its bytes stay.
	rows, err := t.tx.Query(`DELETE FROM versions WHERE key = ? AND version NOT IN
		(SELECT version FROM versions WHERE key = ? ORDER BY version DESC LIMIT ?) RETURNING agent, cap, bytes`, old.key, old.key, semantic.KeptVersions)
	if err != nil {
		return broken(err, "put")
	}
	return t.refund(rows)
}

// parents finds the items that another was made from, which the caller must see.
func (t *txn) parents(by *semantic.Caller, p semantic.Put) (out []semantic.Parent, err error) {
	for _, ref := range p.Parents {
		space, id, other := strings.Cut(ref, ":")
		if !other {
			space, id = p.Namespace, ref
		}
		missing := errdefs.New(errdefs.NotFound, "there is no such parent", errdefs.Op("memory put"), errdefs.Resource("%.200s", ref),
			errdefs.Fix("name items that you may read: an ID, or NAMESPACE:ID"))
		ns, _, err := t.namespace(space)
		if err != nil {
			return nil, err
		}
		if ns == 0 {
			return nil, missing
		}
		r, err := t.lookup(ns, id)
		if err != nil {
			return nil, err
		}
		if r == nil || r.expires != 0 && r.expires <= t.now || !shows(readable(by, space), r.tags) {
			return nil, missing
		}
		out = append(out, semantic.Parent{Namespace: space, ID: id, Version: r.version})
	}
	return out, nil
}

func (s *Store) delete(ctx context.Context, req *semantic.Request, reply *semantic.Reply) (any, error) {
	var d semantic.Delete
	if err := semantic.Decode(req.Body, &d); err != nil {
		return nil, err
	}
	if err := d.Check(); err != nil {
		return nil, err
	}
	var done semantic.Deleted
	err := s.submit(ctx, func(t *txn) (err error) {
		done.Deleted, err = t.delete(&req.Caller, &d)
		return err
	})
	if err != nil {
		return nil, err
	}
	reply.Changed, reply.Namespace = done.Deleted, d.Namespace
	return done, nil
}

// mostDeleted is how many items one delete of all removes; who wants to remove
// more asks again.
const mostDeleted = 5000

// delete removes items, and returns how many.
func (t *txn) delete(by *semantic.Caller, d *semantic.Delete) (n int, err error) {
	scopes, err := by.May(semantic.OpDelete, d.Namespace, abi.SemanticDelete)
	if err != nil {
		return 0, err
	}
	ns, _, err := t.namespace(d.Namespace)
	if err != nil {
		return 0, err
	}
	var rows []*row
	if d.All && ns != 0 {
		if rows, err = t.all(ns, scopes); err != nil {
			return 0, err
		}
	}
	for _, id := range d.IDs {
		var r *row
		if ns != 0 {
			if r, err = t.lookup(ns, id); err != nil {
				return 0, err
			}
		}
		gone := r == nil || r.expires != 0 && r.expires <= t.now || !shows(scopes, r.tags)
		if v := d.IfVersion; v != nil && (gone || *v != r.version) {
			return 0, errdefs.New(errdefs.VersionConflict, "the item has another version, or is not there", errdefs.Op("memory delete"),
				errdefs.Resource("%s:%s", d.Namespace, id), errdefs.Fix("read it again"))
		}
		if !gone {
			rows = append(rows, r)
		}
	}
	for _, r := range rows {
		if err := t.drop(r, d.Namespace); err != nil {
			return 0, err
		}
		if r.expires == 0 || r.expires > t.now {
			n++
		}
	}
	return n, nil
}

// all returns items of a namespace that are seen through the scopes.
func (t *txn) all(ns int64, scopes []semantic.Scope) (out []*row, err error) {
	rows, err := t.tx.Query("SELECT "+columns+" FROM items WHERE ns = ?", ns)
	if err != nil {
		return nil, broken(err, "delete")
	}
	defer rows.Close()
	for len(out) < mostDeleted && rows.Next() {
		var r row
		if err := r.scan(rows, false); err != nil {
			return nil, broken(err, "delete")
		}
		if shows(scopes, r.tags) {
			out = append(out, &r)
		}
	}
	return out, broken(rows.Err(), "delete")
}
