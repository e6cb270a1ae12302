package main

import (
	"errors"
	"fmt"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

const eventPackage = "aios.dev/aios/event"

// bus measures what an event costs where it is published, with and without
// somebody who listens, and how soon it is in another process.
func (h *harness) bus() error {
	if h.aios == nil {
		return nil
	}
	count := max(3, h.rounds/8)
	m, err := goBenchmarks(h.ctx, eventPackage, "^BenchmarkPublish$", "1s", count)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name, unit, label, shown string
		goal                     *goal
		more                     bool
	}{
		{"Publish/nobody", "ns/op", "bus: an event that nobody listens to", "ns", &goal{Limit: 2}, false},
		{"Publish/paced", "Mgot/s", "bus: events that a subscriber in the process gets, at 2.5 M/s", "M/s", &goal{Limit: 2.49}, true},
		{"Publish/paced", "%lost", "bus: of these, lost", "%", &goal{}, false},
		{"Publish/unbounded", "Mgot/s", "bus: events that it gets when there are as many as can be", "M/s", nil, true},
	} {
		v, ok := m.median(c.name, c.unit)
		if !ok {
			return fmt.Errorf("the benchmark of the bus does not say %s of %s", c.unit, c.name)
		}
		h.table.add(row{Figure: c.label, Unit: c.shown, Values: ours(v), Goal: c.goal, More: c.more, Runs: count})
	}
	m, err = goBenchmarks(h.ctx, eventPackage+"/hub", "^BenchmarkSubscribers$", "1s", count)
	if err != nil {
		return err
	}
	if v, ok := m.median("Subscribers", "ns/op"); ok {
		h.table.add(row{Figure: "bus: an event to the filters of 1,000 subscribers, one of which it passes", Unit: "µs", Values: ours(v / 1000), Runs: count})
	}
	late, err := h.lateness(20 * h.rounds)
	if err != nil {
		return err
	}
	h.table.spreadOurs("bus: from the kernel to a subscriber in another process", "µs", late, nil, &goal{Limit: 1000})
	return nil
}

// lateness pauses and resumes an agent n times, and returns for each event of it
// how many microseconds it took until it was here.
func (h *harness) lateness(n int) ([]float64, error) {
	if _, err := h.toolsRoot(); err != nil {
		return nil, err
	}
	id, err := h.sleeper()
	if err != nil {
		return nil, err
	}
	defer h.aios.Remove(h.ctx, &apiv1.RemoveRequest{Agent: id, Force: true})
	stream, err := h.aios.Watch(h.ctx, &apiv1.WatchRequest{Topics: []string{"agent.pause", "agent.resume"}, Agents: []string{id}})
	if err != nil {
		return nil, err
	}
	if m, err := stream.Recv(); err != nil || !m.GetReady() {
		return nil, errors.Join(err, fmt.Errorf("the first message is %v", m))
	}
	late := make(chan []float64, 1)
	go func() {
		var out []float64
		for len(out) < n {
			m, err := stream.Recv()
			if err != nil {
				break
			}
			if e := m.GetEvent(); e != nil {
				out = append(out, microseconds(time.Since(time.Unix(0, e.GetWall()))))
			}
		}
		late <- out
	}()
	for i := range n {
		if i%2 == 0 {
			_, err = h.aios.Pause(h.ctx, &apiv1.PauseRequest{Agent: id})
		} else {
			_, err = h.aios.Resume(h.ctx, &apiv1.ResumeRequest{Agent: id})
		}
		if err != nil {
			return nil, err
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case out := <-late:
		if len(out) != n {
			return nil, fmt.Errorf("%d of %d events came", len(out), n)
		}
		return out, nil
	case <-time.After(10 * time.Second):
		return nil, errors.New("not every event has come after ten seconds")
	}
}
