package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/ktime"
)

// Options say where a store is and what it may hold.
type Options struct {
	// Dir is where its files are.
	Dir   string
	Clock ktime.Clock
	// MaxBytes bounds what all items come to; 0 is no bound.
	MaxBytes int64
	// Log hears of what went wrong in the background.
	Log func(what string, err error)
}

// Store is semantic memory. It is safe for concurrent use.
type Store struct {
	o        Options
	lock     *os.File
	write    *sql.DB
	read     *sql.DB
	openedIn float64

	jobs    chan *job
	stop    context.CancelFunc
	stopped sync.WaitGroup
	toLink  chan struct{} // holds one when there may be something to link

	last atomic.Int64 // the highest version

	mu     sync.RWMutex
	spaces map[string]*space // +checklocks:mu
	byID   map[int64]*space  // +checklocks:mu
	usage  map[who]semantic.Usage
	names  map[string]string // +checklocks:mu
	total  semantic.Usage    // +checklocks:mu
}

// who has written something: an agent or a capability.
type who struct{ agent, cap string }

// Do answers a question.
func (s *Store) Do(ctx context.Context, req *semantic.Request) (*semantic.Reply, error) {
	if len(req.Caller.Scopes) > semantic.MaxScopes {
		req.Caller.Scopes = req.Caller.Scopes[:semantic.MaxScopes]
	}
	var body any
	reply := &semantic.Reply{}
	var err error
	switch req.Op {
	case semantic.OpPut:
		body, err = s.put(ctx, req, reply)
	case semantic.OpDelete:
		body, err = s.delete(ctx, req, reply)
	case semantic.OpBatch:
		body, err = s.batch(ctx, req, reply)
	case semantic.OpGet:
		body, err = s.get(ctx, req, reply)
	case semantic.OpList:
		body, err = s.list(ctx, req, reply)
	case semantic.OpHistory:
		body, err = s.history(ctx, req, reply)
	case semantic.OpSearch:
		body, err = s.search(ctx, req, reply)
	case semantic.OpNamespaces:
		body, err = s.namespaces(req)
	case semantic.OpStats:
		body, err = s.stats(req)
	default:
		err = errdefs.Newf(errdefs.InvalidArgument, "there is no operation %.40q", req.Op).
			With(errdefs.Op("memory"), errdefs.Fix("the operations are put, get, search, list, delete, batch, history, namespaces and stats"))
	}
	if err != nil {
		return nil, err
	}
	if reply.Body, err = json.Marshal(body); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "memory "+req.Op)
	}
	if len(reply.Body) > semantic.MaxAnswer {
		return nil, errdefs.New(errdefs.QuotaExceeded, "the answer would be longer than 3 MiB", errdefs.Op("memory "+req.Op),
			errdefs.Fix("ask for fewer items, or without vectors"))
	}
	s.mu.RLock()
	reply.Usage = s.usage[who{agent: req.Caller.Agent}]
	if req.Caller.Operates() {
		reply.Usage = s.total
	}
	s.mu.RUnlock()
	return reply, nil
}

// now is the time in microseconds.
func (s *Store) now() int64 { return s.o.Clock.Now().UnixMicro() }

// readable returns the scopes by which a caller may read a namespace.
func readable(c *semantic.Caller, namespace string) (out []semantic.Scope) {
	for _, sc := range c.Scopes {
		if sc.Rights.Has(abi.SemanticRead) && sc.Covers(namespace) {
			out = append(out, sc)
		}
	}
	return out
}

// shows says whether any of the scopes shows an item with these tags.
func shows(scopes []semantic.Scope, tags []string) bool {
	for i := range scopes {
		if scopes[i].Shows(tags) {
			return true
		}
	}
	return false
}

func (s *Store) namespaces(req *semantic.Request) (any, error) {
	if err := semantic.Decode(req.Body, &struct{}{}); err != nil {
		return nil, err
	}
	out := semantic.Namespaces{Namespaces: []semantic.Namespace{}}
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, name := range s.sortedLocked() {
		scopes := readable(&req.Caller, name)
		if len(scopes) == 0 {
			continue
		}
		sp := s.spaces[name]
		v := sp.seenBy(scopes, nil, now)
		n := v.count - sp.expired(v)
		if n == 0 {
			continue
		}
		var rights abi.Rights
		for _, sc := range req.Caller.Scopes {
			if sc.Covers(name) {
				rights |= sc.Rights
			}
		}
		out.Namespaces = append(out.Namespaces, semantic.Namespace{
			Name: name, Items: n, Dimensions: sp.dims, Rights: rights.Format(abi.ClassSemantic),
		})
	}
	return out, nil
}

func (s *Store) stats(req *semantic.Request) (any, error) {
	if err := semantic.Decode(req.Body, &struct{}{}); err != nil {
		return nil, err
	}
	out := semantic.Stats{Protocol: semantic.ProtocolVersion, Limits: semantic.Bounds()}
	if req.Caller.Operates() {
		out.Store, out.OpenedIn = s.onDisk(), s.openedIn
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out.Usage = s.usage[who{agent: req.Caller.Agent}]
	if !req.Caller.Operates() {
		return out, nil
	}
	out.Usage = s.total
	for w, u := range s.usage {
		if w.cap == "" {
			out.Agents = append(out.Agents, semantic.AgentUsage{Agent: w.agent, Name: s.names[w.agent], Usage: u})
		}
	}
	sortAgents(out.Agents)
	for _, sp := range s.spaces {
		if sp.graph != nil {
			out.Vectors += sp.graph.Len() - sp.graph.Dead()
			out.Unlinked += sp.graph.Unlinked()
		}
	}
	return out, nil
}

// onDisk is how long the files are.
func (s *Store) onDisk() (n int64) {
	files, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return 0
	}
	for _, f := range files {
		if st, err := os.Stat(filepath.Join(s.o.Dir, f.Name())); err == nil {
			n += st.Size()
		}
	}
	return n
}
