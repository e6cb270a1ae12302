package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/sink"
	"aios.dev/aios/recovery"
)

// sinks are those at work. mu is a leaf; who applies a configuration is alone.
type sinks struct {
	mu     sync.Mutex
	byName map[string]*sink.Sink // +checklocks:mu
}

func (s *sinks) get(name string) *sink.Sink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byName[name]
}

func (s *sinks) list() []*sink.Sink {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Values(s.byName))
	slices.SortFunc(all, func(a, b *sink.Sink) int { return cmp.Compare(a.Spec().Name(), b.Spec().Name()) })
	return all
}

// compileSinks examines what the file says of sinks.
func (s *settings) compileSinks(doc *config.Document) error {
	if len(s.Sinks) > sink.MaxSinks {
		return doc.Fail("sinks", errdefs.Newf(errdefs.InvalidArgument, "%d sinks are too many", len(s.Sinks)).
			With(errdefs.Fix("keep at most %d", sink.MaxSinks)))
	}
	seen := make(map[string]bool)
	for i := range s.Sinks {
		entry := fmt.Sprintf("sinks[%d]", i)
		spec, key, err := s.Sinks[i].Compile()
		if err != nil {
			if key != "" {
				entry += "." + key
			}
			return doc.Fail(entry, err)
		}
		if seen[spec.Name()] {
			return doc.Fail(entry+".name", errdefs.Newf(errdefs.InvalidArgument, "another sink has the name %q", spec.Name()).
				With(errdefs.Fix("choose another")))
		}
		seen[spec.Name()] = true
		s.sinks = append(s.sinks, spec)
	}
	return nil
}

func componentSink(name string) string { return "sink " + name }

// applySinks has these sinks at work and no others. One that has not changed
// goes on undisturbed; one that has goes on where it was.
func (d *System) applySinks(want []*sink.Spec) {
	s := &d.sinks
	var ending sync.WaitGroup
	var gone []string
	for _, old := range s.list() {
		name := old.Spec().Name()
		i := slices.IndexFunc(want, func(n *sink.Spec) bool { return n.Name() == name })
		if i >= 0 && want[i].Same(old.Spec()) {
			continue
		}
		ending.Go(old.Stop)
		s.mu.Lock()
		delete(s.byName, name)
		s.mu.Unlock()
		if i < 0 {
			gone = append(gone, name)
		}
	}
	ending.Wait()
	for _, name := range gone { // Only now: it says nothing of itself any more.
		d.health.Remove(componentSink(name))
	}
	for _, spec := range want {
		if s.get(spec.Name()) != nil {
			continue
		}
		d.health.Set(recovery.Component{Name: componentSink(spec.Name())})
		started := sink.Start(spec, sink.Options{
			Hub: d.events, Clock: d.clock, Log: d.log, OnBreaker: d.breakerChanged, OnChange: d.sinkChanged,
			Emit: func(t event.Type, p event.Payload) { d.emit(t, "", "", p) },
		})
		s.mu.Lock()
		if s.byName == nil {
			s.byName = make(map[string]*sink.Sink)
		}
		s.byName[spec.Name()] = started
		s.mu.Unlock()
	}
}

// stopSinks ends all sinks; the next daemon goes on where they were.
func (d *System) stopSinks() {
	var ending sync.WaitGroup
	for _, s := range d.sinks.list() {
		ending.Go(s.Stop)
	}
	ending.Wait()
}

// sinkChanged hears that a sink has failed or works again.
func (d *System) sinkChanged(st sink.Status) {
	c := recovery.Component{Name: componentSink(st.Name)}
	if st.Failed {
		c.Level, c.Reason, c.Fix = recovery.Degraded, "its events wait in the journal: "+st.Err, st.Fix
	}
	d.health.Set(c)
}

// SinkList implements the RPC.
func (d *System) SinkList(context.Context, *apiv1.SinkListRequest) (*apiv1.SinkListResponse, error) {
	resp := &apiv1.SinkListResponse{}
	for _, s := range d.sinks.list() {
		st := s.Status()
		p := &apiv1.SinkStatus{
			Name: st.Name, Kind: st.Kind, Target: st.Target, State: "ok", SinceUnixNano: st.Since.UnixNano(),
			Breaker: st.Breaker.State.String(), RetryInNano: int64(st.Breaker.RetryIn), Delivered: st.Delivered, Failures: st.Failures,
			Skipped: st.Skipped, Lost: st.Lost, Behind: st.Behind, Error: st.Err, Fix: st.Fix,
		}
		if st.Failed {
			p.State = "failed"
		}
		if !st.LastSent.IsZero() {
			p.LastSentUnixNano = st.LastSent.UnixNano()
		}
		if !st.ErrAt.IsZero() {
			p.ErrorUnixNano = st.ErrAt.UnixNano()
		}
		resp.Sinks = append(resp.Sinks, p)
	}
	return resp, nil
}
