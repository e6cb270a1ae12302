package daemon

import (
	"errors"
	"io"
	"testing"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
)

// TestBearersSeeWhatTheyName: a token shows the events of agents that it extends
// to and that are named, and no others, whatever the filter asks for.
func TestBearersSeeWhatTheyName(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	mine, other := b.agent(t, "mine", nil), b.agent(t, "other", nil)
	for _, r := range []*record{mine, other} {
		b.d.emit(event.AgentExit, r.id, "default", &eventv1.AgentExit{Code: 3})
	}
	b.d.emit(event.DomainCrash, "", "default", &eventv1.DomainCrash{})
	watch := func(ops []string, req *apiv1.WatchRequest) (agents []string, err error) {
		t.Helper()
		tok := b.issue(t, func(c *token.Claims) { c.Ops, c.Agents = ops, []string{"name:mine"} })
		req.Past = req.GetDurable() == ""
		s, err := apiv1.NewEventsClient(b.dial(t, tok.Text())).Watch(soon(t), req)
		for err == nil {
			var m *apiv1.WatchResponse
			if m, err = s.Recv(); err == nil && !m.GetReady() {
				agents = append(agents, m.GetEvent().GetAgent())
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return agents, err
	}
	allowed := []string{token.OpEvents}
	for _, filter := range []string{"", "true", `topic == "domain.crash" || data.code == 3`} {
		got, err := watch(allowed, &apiv1.WatchRequest{Agents: []string{"mine"}, Filter: filter})
		if err != nil || len(got) != 1 || got[0] != mine.id {
			t.Errorf("filter %q: %v, %v", filter, got, err)
		}
	}
	for name, c := range map[string]struct {
		ops []string
		req *apiv1.WatchRequest
	}{
		"no agent":            {allowed, &apiv1.WatchRequest{}},
		"another agent":       {allowed, &apiv1.WatchRequest{Agents: []string{"mine", "other"}}},
		"another agent's ID":  {allowed, &apiv1.WatchRequest{Agents: []string{other.id}}},
		"another operation":   {[]string{token.OpLogs}, &apiv1.WatchRequest{Agents: []string{"mine"}}},
		"someone's place":     {allowed, &apiv1.WatchRequest{Agents: []string{"mine"}, Durable: "billing"}},
		"no agent, but topic": {allowed, &apiv1.WatchRequest{Topics: []string{"agent.exit"}, Domain: "default"}},
	} {
		if got, err := watch(c.ops, c.req); errdefs.CodeOf(err) != errdefs.Denied || len(got) > 0 {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
