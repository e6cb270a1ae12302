package fabric

import (
	"slices"
	"sync"
	"sync/atomic"
)

// alone is which members end with their task.
type alone struct {
	n  atomic.Int64 // for a quick look
	mu sync.Mutex
	of map[Task][]*Member // +checklocks:mu
}

func (a *alone) add(m *Member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = make(map[Task][]*Member)
	}
	a.of[m.task] = append(a.of[m.task], m)
	a.n.Add(1)
}

func (a *alone) drop(m *Member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := len(a.of[m.task])
	left := slices.DeleteFunc(a.of[m.task], func(o *Member) bool { return o == m })
	a.n.Add(int64(len(left) - was))
	if a.of[m.task] = left; len(left) == 0 {
		delete(a.of, m.task)
	}
}

// TaskEnded ends what t was a member of by itself. It costs one look while
// nobody is.
func (s *Store) TaskEnded(t Task) {
	if s.alone.n.Load() == 0 {
		return
	}
	s.alone.mu.Lock()
	members := slices.Clone(s.alone.of[t])
	s.alone.mu.Unlock()
	for _, m := range members {
		ws := &m.view.r.waits
		ws.mu.Lock()
		ws.end(m)
		ws.mu.Unlock()
	}
}
