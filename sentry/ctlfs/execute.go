package ctlfs

import (
	"fmt"
	"strings"

	"gvisor.dev/gvisor/pkg/context"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/ctlfs/command"
)

// execute carries out a line that was written to /aios/ctl and returns the
// answer: "ok", and behind it or from the second line on what there is to say.
func (s *session) execute(ctx context.Context, line string) (string, error) {
	if command.IsRegion(line) {
		return s.executeRegion(ctx, line)
	}
	cmd, err := command.Parse(line)
	if err != nil {
		return "", err
	}
	answer, err := s.carryOut(ctx, cmd)
	if err != nil {
		s.report(string(cmd.Verb), cmd.Target(), err)
	}
	return answer, err
}

func (s *session) executeRegion(ctx context.Context, line string) (string, error) {
	req, err := command.ParseRegion(line)
	if err != nil {
		return "", err
	}
	reply, err := s.auth.Fabric(ctx, s.auth.Actor(s.agent), req)
	if err != nil {
		s.report("region "+req.Op, req.Name, err)
		return "", err
	}
	return lines([]byte(command.RegionAnswer(req, reply)), nil)
}

func (s *session) carryOut(ctx context.Context, cmd *command.Command) (string, error) {
	switch cmd.Verb {
	case command.List:
		return lines(s.caps())
	case command.Tree:
		return lines(s.tree())
	case command.Explain:
		return s.explain(ctx, cmd.Op)
	case command.Inspect:
		return s.inspect(ctx, cmd)
	case command.Signal, command.Pause, command.Resume:
		c, err := s.own(cmd.Handle)
		if err != nil {
			return "", err
		}
		text, err := s.act(ctx, c, Action{Verb: string(cmd.Verb), Agent: cmd.Agent, Signal: cmd.Signal})
		return lines([]byte(text), err)
	case command.Revoke, command.RevokeChildren:
		n, err := s.revoke(ctx, cmd.Handle, cmd.ID, cmd.Verb == command.RevokeChildren)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("ok revoked=%d\n", n), nil
	}
	c, err := s.change(ctx, cmd)
	if err != nil {
		return "", err
	}
	return "ok " + command.Line(c, s.agent) + "\n", nil
}

// lines is an answer of several lines.
func lines(text []byte, err error) (string, error) {
	if err != nil {
		return "", err
	}
	out := "ok\n" + string(text)
	if !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	return out, nil
}

// change carries out the commands whose answer is a capability.
func (s *session) change(ctx context.Context, cmd *command.Command) (*capability.Capability, error) {
	c, err := s.find(cmd.Handle, cmd.ID)
	if err != nil {
		return nil, err
	}
	switch cmd.Verb {
	case command.Seal:
		return c, s.seal(c)
	case command.Renew:
		return c, s.auth.Renew(ctx, s.auth.Actor(s.agent), c, cmd.Lease)
	}
	change, err := cmd.Change(c.Spec())
	if err != nil {
		return nil, err
	}
	if cmd.Verb == command.Attenuate {
		return s.attenuate(c, change)
	}
	return s.delegate(ctx, c, cmd.To, change, cmd.Verb == command.Move)
}

func (s *session) seal(c *capability.Capability) error {
	return s.auth.Space().Seal(c, s.auth.Actor(s.agent))
}

func (s *session) attenuate(c *capability.Capability, change capability.Change) (*capability.Capability, error) {
	return s.auth.Attenuate(s.auth.Actor(s.agent), c, change)
}

// delegate gives a capability to an agent; "self" is the giver.
func (s *session) delegate(ctx context.Context, c *capability.Capability, to string, change capability.Change, move bool) (*capability.Capability, error) {
	if to == "self" {
		to = s.agent
	}
	return s.auth.Delegate(ctx, s.auth.Actor(s.agent), c, to, change, move)
}

func (s *session) revoke(ctx context.Context, h capability.Handle, id capability.ID, childrenOnly bool) (int, error) {
	c, err := s.find(h, id)
	if err != nil {
		return 0, err
	}
	return s.auth.Revoke(ctx, s.auth.Actor(s.agent), c, childrenOnly)
}

func (s *session) explain(ctx context.Context, op string) (string, error) {
	allowed, why, err := s.auth.Explain(ctx, s.agent, op)
	if err != nil {
		return "", err
	}
	verdict := "ok refused\n"
	if allowed {
		verdict = "ok allowed\n"
	}
	return verdict + strings.TrimSuffix(why, "\n") + "\n", nil
}

// inspect describes a capability, and the agent that it is to.
func (s *session) inspect(ctx context.Context, cmd *command.Command) (string, error) {
	c, err := s.own(cmd.Handle)
	if err != nil {
		return "", err
	}
	out := "ok " + command.Line(c, s.agent) + "\n"
	name := c.Object().Name
	if c.Object().Class != abi.ClassAgent || !c.Allows(abi.AgentInspect) || name == "*" && cmd.Agent == "" {
		return out, nil
	}
	text, err := s.act(ctx, c, Action{Verb: ActInspect, Agent: cmd.Agent})
	if err != nil {
		return "", err
	}
	return out + strings.TrimSuffix(text, "\n") + "\n", nil
}

// agentRights is what each Action needs.
var agentRights = map[string]abi.Rights{
	ActSignal:  abi.AgentSignal,
	ActPause:   abi.AgentPause,
	ActResume:  abi.AgentPause,
	ActInspect: abi.AgentInspect,
}

// act checks that c covers what is to be done to the other agent. Whether an
// agent that was named is the object, only the kernel knows: it has names.
func (s *session) act(ctx context.Context, c *capability.Capability, do Action) (string, error) {
	object := c.Object()
	var err error
	switch want := agentRights[do.Verb]; {
	case object.Class != abi.ClassAgent:
		err = errdefs.New(errdefs.CapabilityInvalid, "it is a capability to "+object.Class.String()+", not to an agent",
			errdefs.Fix("use one whose line begins with agent:"))
	case c.Err() != nil:
		err = c.Err()
	case !c.Rights().Has(want):
		err = errdefs.New(errdefs.CapabilityDenied, "it does not give the right "+want.Format(abi.ClassAgent),
			errdefs.Fix("ask whoever gave it for agent:%s:%s", object.Name, want.Format(abi.ClassAgent)))
	case object.Name == "*" && do.Agent == "":
		err = errdefs.New(errdefs.InvalidArgument, "it covers every agent", errdefs.Fix("say which one: agent=NAME"))
	}
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.CapabilityDenied, do.Verb, errdefs.Resource("%s", object))
	}
	return s.auth.Act(ctx, s.auth.Actor(s.agent), c, do)
}
