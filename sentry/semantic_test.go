package sentry

import (
	"encoding/json"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// askedMemory is a question to semantic memory that waits for its answer.
type askedMemory struct {
	req    *semantic.Request
	answer chan control.Answer
}

// memoryDaemon has questions come over a channel, to be answered by the test.
func memoryDaemon(t *testing.T) <-chan askedMemory {
	t.Helper()
	asked := make(chan askedMemory, 8)
	theDaemon.mu.Lock()
	theDaemon.answer = func(q control.Ask) control.Answer {
		if q.Kind != control.AskMemory {
			return control.NewAnswer(q.Seq, nil, nil)
		}
		m := askedMemory{q.Memory, make(chan control.Answer, 1)}
		asked <- m
		a := <-m.answer
		a.Seq = q.Seq
		return a
	}
	theDaemon.mu.Unlock()
	t.Cleanup(func() {
		theDaemon.mu.Lock()
		theDaemon.answer = nil
		theDaemon.mu.Unlock()
	})
	return asked
}

func (m askedMemory) reply(body string) {
	m.answer <- control.Answer{Memory: &semantic.Reply{Body: json.RawMessage(body), Usage: semantic.Usage{Items: 3, Bytes: 40}}}
}

type memoryAnswer struct {
	body json.RawMessage
	err  error
}

// semanticCap returns the agent's capability of class semantic.
func semanticCap(t *testing.T, a *Agent) *capability.Capability {
	t.Helper()
	for _, c := range theKernel.space.List(a.id) {
		if c.Object().Class == abi.ClassSemantic {
			return c
		}
	}
	t.Fatal("the agent holds none")
	return nil
}

func TestSemanticMemoryIsAskedByWhatIsHeld(t *testing.T) {
	asked := memoryDaemon(t)
	operator := capability.Actor{Name: "operator", Privileged: true}
	none := listens(t)
	if _, err := (ctlAuthority{theKernel}).Memory(none.id).Ask("get", []byte(`{}`)); errdefs.CodeOf(err) != errdefs.CapabilityDenied {
		t.Errorf("without a capability: %v", err)
	}
	a := listens(t, "semantic:notes/*@red:read+write,count=7")
	link := (ctlAuthority{theKernel}).Memory(a.id)
	ask := func(op string) <-chan memoryAnswer {
		out := make(chan memoryAnswer, 1)
		go func() {
			body, err := link.Ask(op, []byte(`{"x":1}`))
			out <- memoryAnswer{body, err}
		}()
		return out
	}
	for _, bad := range []string{`{`, `{}{}`, "\xff"} {
		if _, err := link.Ask("get", []byte(bad)); errdefs.CodeOf(err) != errdefs.InvalidArgument {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := link.Ask("drop table", nil); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("an operation that there is not: %v", err)
	}

	// What is told of the agent is what the kernel knows.
	got := ask("search")
	q := <-asked
	q.reply(`"one"`)
	if r := <-got; string(r.body) != `"one"` || r.err != nil {
		t.Errorf("the answer is %s, %v", r.body, r.err)
	}
	sc := q.req.Caller.Scopes
	if q.req.Caller.Agent != a.id || q.req.Op != "search" || string(q.req.Body) != `{"x":1}` || len(sc) != 1 ||
		sc[0].Pattern != "notes/*" || len(sc[0].Tags) != 1 || sc[0].Rights != abi.SemanticRead|abi.SemanticWrite || sc[0].Items != 7 {
		t.Errorf("it was asked %+v", q.req)
	}
	if snap := a.snapshot(); snap.SemanticItems.Now != 3 || snap.SemanticBytes.Now != 40 {
		t.Errorf("its account says %+v, %+v", snap.SemanticItems, snap.SemanticBytes)
	}
	theDaemon.recorded(t, a.id, func(r control.AuditRecord) bool { return r.Op == opUse && r.Cap == semanticCap(t, a).ID() })

	// What is narrowed while somebody reads is read again with what is left.
	got = ask("list")
	q = <-asked
	narrower := "notes/x@red"
	if _, err := theKernel.space.Attenuate(semanticCap(t, a), capability.Change{Object: &narrower}, operator); err != nil {
		t.Fatal(err)
	}
	q.reply(`"too much"`)
	q = <-asked
	if p := q.req.Caller.Scopes[0].Pattern; p != "notes/x" {
		t.Errorf("it was asked again for %s", p)
	}
	q.reply(`"enough"`)
	if r := <-got; string(r.body) != `"enough"` {
		t.Errorf("the answer is %s, %v", r.body, r.err)
	}

	// Who revokes waits for what is written, which then has been written.
	got = ask("put")
	q = <-asked
	c := semanticCap(t, a)
	revoked := make(chan struct{})
	go func() {
		theKernel.space.Revoke(c, true, operator, "")
		close(revoked)
	}()
	eventually(t, func() bool { return !c.Live() })
	select {
	case <-revoked:
		t.Error("the revocation did not wait")
	default:
	}
	q.reply(`"written"`)
	if r := <-got; string(r.body) != `"written"` || r.err != nil {
		t.Errorf("the answer is %s, %v", r.body, r.err)
	}
	<-revoked

	// What was used is gone: that is said once.
	if _, err := link.Ask("get", nil); errdefs.CodeOf(err) != errdefs.CapabilityRevoked {
		t.Errorf("after the revocation: %v", err)
	}
	if _, err := link.Ask("get", nil); errdefs.CodeOf(err) != errdefs.CapabilityDenied {
		t.Errorf("and then: %v", err)
	}
}

func TestWhatIsReadUnderARevocationIsNotAnswered(t *testing.T) {
	asked := memoryDaemon(t)
	a := listens(t, "semantic:notes:read")
	got := make(chan error, 1)
	go func() {
		_, err := (ctlAuthority{theKernel}).Memory(a.id).Ask("get", nil)
		got <- err
	}()
	q := <-asked
	if _, err := theKernel.space.Revoke(semanticCap(t, a), true, capability.Actor{Name: "operator", Privileged: true}, ""); err != nil {
		t.Fatal(err)
	}
	q.reply(`"secret"`)
	if err := <-got; errdefs.CodeOf(err) != errdefs.CapabilityRevoked {
		t.Errorf("the answer is %v", err)
	}
}
