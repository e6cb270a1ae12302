package daemon

import (
	"context"
	"fmt"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/clocks"
)

// ownClock is what a kernel is told of the clocks that an agent is to have.
func ownClock(c *apiv1.OwnClock) *control.Clock {
	if c == nil {
		return nil
	}
	return &control.Clock{Offset: c.GetOffsetNano(), Monotonic: c.GetMonotonicNano(), Wall: c.GetWallUnixNano(), Rate: c.GetRatePpb()}
}

// clockProto is what a client is told of them.
func clockProto(c *control.Clock) *apiv1.OwnClock {
	if c == nil {
		return nil
	}
	return &apiv1.OwnClock{OffsetNano: c.Offset, MonotonicNano: c.Monotonic, RatePpb: c.Rate}
}

// checkClock refuses clocks that make no sense.
func checkClock(c *apiv1.OwnClock) error {
	bad := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("set the clock"), errdefs.Fix("%s", fix))
	}
	switch {
	case c.GetWallUnixNano() < 0:
		return bad("a clock shows no time before 1970", "give a later one")
	case c.GetWallUnixNano() != 0 && c.GetOffsetNano() != 0:
		return bad("a clock cannot be set to a time and by an offset", "give one of the two")
	case c.GetRatePpb() != 0 && !clocks.Rate(c.GetRatePpb()).Valid():
		return bad("a clock cannot go so fast, or so slowly", fmt.Sprintf("give a rate from %v to %v", clocks.Slowest, clocks.Fastest))
	}
	return nil
}

// AgentClock implements the RPC.
func (t clockService) AgentClock(ctx context.Context, req *apiv1.AgentClockRequest) (*apiv1.AgentClockResponse, error) {
	r, dom, err := t.d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	if err := checkClock(&apiv1.OwnClock{OffsetNano: req.GetOffsetNano(), WallUnixNano: req.GetWallUnixNano(), RatePpb: req.GetRatePpb()}); err != nil {
		return nil, err
	}
	ask := control.ClockRequest{ID: r.id, Offset: req.OffsetNano, Rate: req.GetRatePpb(), Actor: actor(ctx)}
	if req.WallUnixNano != nil {
		ask.Wall = max(req.GetWallUnixNano(), int64(time.Nanosecond)) // 0 is none.
	}
	var got control.ClockReply
	if err := dom.call(ctx, control.MethodClock, ask, &got); err != nil {
		return nil, err
	}
	return &apiv1.AgentClockResponse{
		Agent: r.id, Name: r.spec().GetName(), Domain: dom.name, Clock: clockProto(&got.Clock), Was: clockProto(&got.Was),
		RealtimeUnixNano: got.Realtime, UptimeNano: got.Uptime,
	}, nil
}

// ownClockSpec is what it takes to set the clock of an agent.
var ownClockSpec = capability.Spec{Object: capability.Object{Class: abi.ClassSys, Name: "clock"}, Rights: abi.SysUse}

// agentClock takes the grant of clocks when it sets one.
func (a *asked) agentClock(m *apiv1.AgentClockRequest) error {
	if m.OffsetNano != nil || m.WallUnixNano != nil || m.RatePpb != nil {
		if err := a.may(token.OpGrant, &m.Agent); err != nil {
			return err
		}
		if err := a.b.AllowGrants(ownClockSpec); err != nil {
			return err
		}
	}
	return a.aboutAgent(m)
}
