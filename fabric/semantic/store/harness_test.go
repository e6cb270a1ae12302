package store

import (
	"context"
	"encoding/json"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/ktime"
)

// failer is a test, of testing or of rapid.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// world is a store, and what is needed to ask it.
type world struct {
	t     failer
	s     *Store
	clock ktime.Clock
	dir   string
}

func newWorld(t testing.TB, clock ktime.Clock) *world {
	t.Helper()
	w := &world{t: t, clock: clock, dir: t.TempDir()}
	w.open()
	t.Cleanup(func() { w.s.Close() })
	return w
}

func (w *world) open() {
	w.t.Helper()
	s, err := Open(Options{Dir: w.dir, Clock: w.clock, Log: func(what string, err error) { w.t.Errorf("%s: %v", what, err) }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = s
}

// crash ends the store as if its process had been killed: no graph is saved.
func (w *world) crash() {
	w.s.stop()
	w.s.stopped.Wait()
	if err := w.s.closeFiles(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) removeGraphs() {
	for id := range w.s.byID {
		w.s.removeSaved(id)
	}
}

// link waits until every vector is in its graph.
func (w *world) link() {
	for _, g := range w.s.graphs() {
		for g.Link() {
		}
	}
}

var operator = semantic.Caller{Scopes: []semantic.Scope{semantic.Operator()}}

// agent is a caller with what these capabilities give.
func agent(id string, scopes ...semantic.Scope) semantic.Caller {
	return semantic.Caller{Agent: id, Name: "n-" + id, Domain: "d", Scopes: scopes}
}

func scope(capID, pattern string, rights abi.Rights, tags ...string) semantic.Scope {
	return semantic.Scope{Cap: capID, Pattern: pattern, Rights: rights, Tags: tags}
}

const allRights = abi.SemanticRead | abi.SemanticWrite | abi.SemanticDelete

// ask has the store do something; the answer goes into out.
func (w *world) ask(by semantic.Caller, op string, params, out any) error {
	body, err := json.Marshal(params)
	if err != nil {
		w.t.Fatal(err)
	}
	reply, err := w.s.Do(context.Background(), &semantic.Request{Caller: by, Op: op, Body: body})
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(reply.Body, out); err != nil {
		w.t.Fatal(err)
	}
	return nil
}

func (w *world) must(by semantic.Caller, op string, params, out any) {
	w.t.Helper()
	if err := w.ask(by, op, params, out); err != nil {
		w.t.Fatalf("%s: %v", op, err)
	}
}
