package store

import (
	"context"
	"database/sql"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// withVector adds the column of the vector.
func withVector(yes bool) string {
	if yes {
		return ", vector"
	}
	return ""
}

// room is how much of an answer is left.
type room int

// takes says whether an item fits, and takes its part. An estimate: Do measures.
func (r *room) takes(it *semantic.Item) bool {
	*r -= room(2*len(it.Text) + 16*len(it.Vector) + 512)
	return *r > 0
}

// spaceID returns the number of a namespace, 0 if there is none.
func (s *Store) spaceID(name string) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if sp := s.spaces[name]; sp != nil {
		return sp.id
	}
	return 0
}

func (s *Store) get(ctx context.Context, req *semantic.Request, reply *semantic.Reply) (any, error) {
	var g semantic.Get
	if err := semantic.Decode(req.Body, &g); err != nil {
		return nil, err
	}
	if err := g.Check(); err != nil {
		return nil, err
	}
	scopes, err := req.Caller.May(semantic.OpGet, g.Namespace, abi.SemanticRead)
	if err != nil {
		return nil, err
	}
	out := semantic.Items{Items: []semantic.Item{}}
	ns, now := s.spaceID(g.Namespace), s.now()
	for _, id := range g.IDs {
		var r row
		err := r.scan(s.read.QueryRowContext(ctx, "SELECT "+columns+withVector(g.Vectors)+" FROM items WHERE ns = ? AND id = ?", ns, id), g.Vectors)
		if err == sql.ErrNoRows {
			continue
		}
		if err != nil {
			return nil, broken(err, "get")
		}
		if (r.expires == 0 || r.expires > now) && shows(scopes, r.tags) {
			out.Items = append(out.Items, r.item(g.Namespace, g.Vectors))
		}
	}
	reply.Seen, reply.Namespace = len(out.Items), g.Namespace
	return out, nil
}

func (s *Store) list(ctx context.Context, req *semantic.Request, reply *semantic.Reply) (any, error) {
	var l semantic.List
	if err := semantic.Decode(req.Body, &l); err != nil {
		return nil, err
	}
	if err := l.Check(); err != nil {
		return nil, err
	}
	scopes, err := req.Caller.May(semantic.OpList, l.Namespace, abi.SemanticRead)
	if err != nil {
		return nil, err
	}
	only := semantic.Scope{Tags: l.Tags}
	out := semantic.Items{Items: []semantic.Item{}}
	now := s.now()
	rows, err := s.read.QueryContext(ctx, "SELECT "+columns+withVector(l.Vectors)+" FROM items WHERE ns = ? AND id > ? ORDER BY id", s.spaceID(l.Namespace), l.After)
	if err != nil {
		return nil, broken(err, "list")
	}
	defer rows.Close()
	left := room(semantic.MaxAnswer)
	for rows.Next() {
		var r row
		if err := r.scan(rows, l.Vectors); err != nil {
			return nil, broken(err, "list")
		}
		if r.expires != 0 && r.expires <= now || !shows(scopes, r.tags) || !only.Shows(r.tags) {
			continue
		}
		it := r.item(l.Namespace, l.Vectors)
		if len(out.Items) == l.Limit || !left.takes(&it) {
			out.Next = out.Items[len(out.Items)-1].ID
			break
		}
		out.Items = append(out.Items, it)
	}
	reply.Seen, reply.Namespace = len(out.Items), l.Namespace
	return out, broken(rows.Err(), "list")
}

func (s *Store) history(ctx context.Context, req *semantic.Request, reply *semantic.Reply) (any, error) {
	var h semantic.History
	if err := semantic.Decode(req.Body, &h); err != nil {
		return nil, err
	}
	if err := h.Check(); err != nil {
		return nil, err
	}
	scopes, err := req.Caller.May(semantic.OpHistory, h.Namespace, abi.SemanticRead)
	if err != nil {
		return nil, err
	}
	missing := errdefs.New(errdefs.NotFound, "there is no such item", errdefs.Op("memory history"), errdefs.Resource("%s:%s", h.Namespace, h.ID),
		errdefs.Fix("list the namespace"))
	cols := columns + withVector(h.Vectors)
	var now row
	err = now.scan(s.read.QueryRowContext(ctx, "SELECT "+cols+" FROM items WHERE ns = ? AND id = ?", s.spaceID(h.Namespace), h.ID), h.Vectors)
	switch {
	case err == sql.ErrNoRows:
		return nil, missing
	case err != nil:
		return nil, broken(err, "history")
	case now.expires != 0 && now.expires <= s.now() || !shows(scopes, now.tags):
		return nil, missing
	}
	out := semantic.Items{Items: []semantic.Item{now.item(h.Namespace, h.Vectors)}}
	rows, err := s.read.QueryContext(ctx, "SELECT "+cols+" FROM versions WHERE key = ? ORDER BY version DESC", now.key)
	if err != nil {
		return nil, broken(err, "history")
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		if err := r.scan(rows, h.Vectors); err != nil {
			return nil, broken(err, "history")
		}
		if r.version < now.version && shows(scopes, r.tags) { // What it is by now may be seen; what it was, perhaps not.
			out.Items = append(out.Items, r.item(h.Namespace, h.Vectors))
		}
	}
	reply.Seen, reply.Namespace = len(out.Items), h.Namespace
	return out, broken(rows.Err(), "history")
}

// fetch reads items by their keys.
func (s *Store) fetch(ctx context.Context, keys []int64, vectors bool) (map[int64]*row, error) {
	out := make(map[int64]*row, len(keys))
	if len(keys) == 0 {
		return out, nil
	}
	args := make([]any, len(keys))
	for i, k := range keys {
		args[i] = k
	}
	rows, err := s.read.QueryContext(ctx, "SELECT "+columns+withVector(vectors)+" FROM items WHERE key IN ("+strings.Repeat(",?", len(keys))[1:]+")", args...)
	if err != nil {
		return nil, broken(err, "search")
	}
	defer rows.Close()
	for rows.Next() {
		r := &row{}
		if err := r.scan(rows, vectors); err != nil {
			return nil, broken(err, "search")
		}
		out[r.key] = r
	}
	return out, broken(rows.Err(), "search")
}
