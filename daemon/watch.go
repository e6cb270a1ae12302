package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
	"aios.dev/aios/event/hub"
	"aios.dev/aios/event/sink"
	eventv1 "aios.dev/aios/event/v1"
)

// Bounds of what a client asks for.
const (
	maxWaiting = 1 << 16 // events
	maxTopics  = 64
	maxName    = 128 // bytes
)

// Watch implements the RPC.
func (d *System) Watch(req *apiv1.WatchRequest, out grpc.ServerStreamingServer[apiv1.WatchResponse]) error {
	o, err := d.watchOptions(req)
	if err != nil {
		return err
	}
	sub, err := d.events.Subscribe(o)
	if err != nil {
		return err
	}
	defer sub.Close()
	var delivered, lost uint64
	reason := ""
	if !o.Past { // Who reads what was is no subscriber.
		d.tellWanted() // Who hears that it listens misses nothing from then on.
		d.emit(event.BusSubscribe, "", "", &eventv1.BusSubscription{
			Name: o.Name, Topics: req.GetTopics(), Filter: req.GetFilter(), Policy: o.Policy.String(),
		})
	}
	defer func() {
		if o.Past {
			return
		}
		d.emit(event.BusUnsubscribe, "", "", &eventv1.BusSubscription{Name: o.Name, Topics: req.GetTopics(), Reason: reason, Delivered: delivered, Lost: lost})
	}()
	if err := out.Send(&apiv1.WatchResponse{Ready: true}); err != nil {
		return err
	}
	for {
		e, missed, err := sub.Next(out.Context())
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			if errors.Is(err, context.Canceled) {
				reason = "the client has gone"
				return nil
			}
			reason = event.Text(err.Error())
			return err
		case missed != nil:
			lost += missed.Count
			err = out.Send(&apiv1.WatchResponse{Missed: missed.Count, Why: missed.Why})
		default:
			delivered++
			name, _ := d.eventNames.Load(e.Agent)
			text, _ := name.(string)
			err = out.Send(&apiv1.WatchResponse{Event: e.Proto(), Cursor: e.Cursor, AgentName: text})
		}
		if err != nil {
			reason = "the client has gone"
			return err
		}
	}
}

// watchOptions examines what a client asks for.
func (d *System) watchOptions(req *apiv1.WatchRequest) (o hub.Options, err error) {
	bad := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("subscribe"), errdefs.Fix("%s", fix))
	}
	switch {
	case len(req.GetTopics()) > maxTopics:
		return o, bad(fmt.Sprintf("%d topics are too many", len(req.GetTopics())), fmt.Sprintf("name at most %d, or patterns such as agent.*", maxTopics))
	case len(req.GetName()) > maxName || len(req.GetDurable()) > maxName:
		return o, bad("the name of the subscriber is too long", fmt.Sprintf("choose one of at most %d bytes", maxName))
	case req.GetCapacity() > maxWaiting:
		return o, bad(fmt.Sprintf("%d events cannot wait for a subscriber", req.GetCapacity()), fmt.Sprintf("ask for at most %d", maxWaiting))
	case req.GetPast() && req.GetDurable() != "":
		return o, bad("a durable subscription does not end with the past", "leave one of the two out")
	}
	if strings.HasPrefix(req.GetDurable(), sink.Prefix) {
		return o, bad("names that begin with "+sink.Prefix+" are those of sinks", "choose another")
	}
	o = hub.Options{
		Name: req.GetName(), Topics: req.GetTopics(), Capacity: int(req.GetCapacity()), Past: req.GetPast(), Durable: req.GetDurable(),
		From: req.GetFromCursor(),
	}
	if o.Name == "" {
		o.Name = o.Durable
	}
	if o.Policy, err = event.ParsePolicy(req.GetPolicy()); err != nil {
		return o, err
	}
	if req.GetSeverity() != "" {
		if o.Floor, err = event.ParseSeverity(req.GetSeverity()); err != nil {
			return o, err
		}
	}
	if req.GetFilter() != "" {
		if o.Filter, err = filter.Compile(req.GetFilter()); err != nil {
			return o, err
		}
	}
	if req.GetShare() != 0 {
		if o.Sampler, err = filter.NewSampler(req.GetShare()); err != nil {
			return o, err
		}
	}
	if req.GetPerSecond() != 0 {
		if o.Limiter, err = filter.NewLimiter(req.GetPerSecond(), 0, d.clock); err != nil {
			return o, err
		}
	}
	if req.GetFromUnixNano() != 0 {
		o.From = max(d.events.Cursor(req.GetFromUnixNano()), 1)
	}
	o.Allowed, err = d.watchAllowed(req)
	return o, err
}

// watch is the check of Watch: bearers name the agents whose events they want.
func (a *asked) watch(m *apiv1.WatchRequest) error {
	if m.GetDurable() != "" {
		return durable(a, m)
	}
	if len(m.GetAgents()) == 0 {
		return errdefs.New(errdefs.Denied, "with a token you see the events of agents that you name, not all", errdefs.Op("subscribe"),
			errdefs.Fix("name agents, with --agent"))
	}
	for i := range m.Agents {
		if err := a.may(token.OpEvents, &m.Agents[i]); err != nil {
			return err
		}
	}
	return nil
}

// durable is the check of what is about durable subscriptions, which have
// names that belong to nobody.
func durable(*asked, proto.Message) error {
	return errdefs.New(errdefs.Denied, "no token extends to durable subscriptions", errdefs.Op("subscribe"),
		errdefs.Fix("follow without one, or from a cursor"))
}

// watchAllowed returns what decides which agents a subscription is about.
func (d *System) watchAllowed(req *apiv1.WatchRequest) (func(*event.Event) bool, error) {
	ids := make(map[string]bool)
	for _, ref := range req.GetAgents() {
		r, err := d.find(ref)
		switch {
		case err == nil:
			ids[r.id] = true
		case abi.IsAgentID(ref):
			ids[ref] = true // It is gone; what it did is still in the journal.
		default:
			return nil, err
		}
	}
	domain, since := req.GetDomain(), req.GetFromUnixNano()
	if len(ids) == 0 && domain == "" && since == 0 {
		return nil, nil
	}
	return func(e *event.Event) bool {
		return (len(ids) == 0 || ids[e.Agent]) && (domain == "" || e.Domain == domain) && e.Wall >= since
	}, nil
}

// Acknowledge implements the RPC.
func (d *System) Acknowledge(_ context.Context, req *apiv1.AcknowledgeRequest) (*apiv1.AcknowledgeResponse, error) {
	return &apiv1.AcknowledgeResponse{}, d.events.Ack(req.GetDurable(), req.GetCursor())
}

// Unsubscribe implements the RPC.
func (d *System) Unsubscribe(_ context.Context, req *apiv1.UnsubscribeRequest) (*apiv1.UnsubscribeResponse, error) {
	if name, ok := strings.CutPrefix(req.GetDurable(), sink.Prefix); ok && d.sinks.get(name) != nil {
		return nil, errdefs.New(errdefs.WrongState, "a sink has this name, and would send again or not at all", errdefs.Op("forget subscription"),
			errdefs.Resource("%s", req.GetDurable()), errdefs.Fix("take the sink out of the configuration first"))
	}
	return &apiv1.UnsubscribeResponse{}, d.events.Forget(req.GetDurable())
}

// EventStats implements the RPC.
func (d *System) EventStats(context.Context, *apiv1.EventStatsRequest) (*apiv1.EventStatsResponse, error) {
	st := d.events.Stats()
	resp := &apiv1.EventStatsResponse{
		Topics: st.Bus.Topics, Twice: st.Twice, Unknown: st.Unknown,
		Journal: &apiv1.EventJournal{
			FirstCursor: st.Journal.First, LastCursor: st.Journal.Last, Bytes: st.Journal.Bytes,
			Segments: uint32(st.Journal.Segments), Lost: st.Journal.Lost,
		},
	}
	if st.Journal.Failure != nil {
		resp.Journal.Failure = st.Journal.Failure.Error()
	}
	for _, s := range st.Bus.Subscriptions {
		floor := ""
		if s.Floor != 0 {
			floor = s.Floor.String()
		}
		resp.Subscribers = append(resp.Subscribers, &apiv1.EventSubscriber{
			Name: s.Name, Topics: s.Topics, Severity: floor, Policy: s.Policy.String(),
			Waiting: uint64(s.Waiting), Delivered: s.Delivered, Lost: s.Lost,
		})
	}
	for _, p := range st.Durable {
		behind := uint64(0)
		if next := st.Journal.Last + 1; next > p.Next {
			behind = next - p.Next
		}
		resp.Durable = append(resp.Durable, &apiv1.DurableSubscriber{
			Name: p.Name, NextCursor: p.Next, Behind: behind, Lost: p.Lost, AcknowledgedUnixNano: p.Acked,
		})
	}
	return resp, nil
}
