package ctlfs

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// session is the right of an open file to speak for the agent that opened it.
type session struct {
	auth  Authority
	agent string
	door  string // the path, for what is reported
}

// newSession returns a session for the agent of the calling task.
func newSession(ctx context.Context, auth Authority, door string) (*session, error) {
	agent, ok := auth.Holder(ctx)
	if !ok {
		return nil, linuxerr.EPERM
	}
	return &session{auth: auth, agent: agent, door: door}, nil
}

// check refuses, and reports, a task of another agent: it was handed an open
// file that would speak for an agent it is not part of.
func (s *session) check(ctx context.Context) error {
	agent, ok := s.auth.Holder(ctx)
	if ok && agent == s.agent {
		return nil
	}
	if ok {
		s.auth.Denied(agent, "use", s.door, errdefs.New(errdefs.CapabilityDenied,
			"the file was opened by agent "+s.agent+" and speaks for no other", errdefs.Fix("open it again")))
	}
	return linuxerr.EPERM
}

// own returns the capability that the agent calls by h.
func (s *session) own(h capability.Handle) (*capability.Capability, error) {
	return s.auth.Space().Lookup(s.agent, h)
}

// find returns a capability of the agent by its handle, or by its ID one that
// is the agent's or was derived from the agent's. That another one exists it
// does not tell.
func (s *session) find(h capability.Handle, id capability.ID) (*capability.Capability, error) {
	if id == "" {
		return s.own(h)
	}
	c, err := s.auth.Space().ByID(id)
	if err == nil && s.derivedFromOwn(c) {
		return c, nil
	}
	return nil, errdefs.New(errdefs.CapabilityNotFound, "no capability of yours, or derived from yours, has that ID",
		errdefs.Resource("%s", id), errdefs.Fix("read %s/self/tree", Mountpoint))
}

// report tells of err, if it is a refusal that belongs in the audit trail: one
// of authority, of a handle that may be forged, or of a capability to one thing
// that is used, or bent, to be one to another.
func (s *session) report(op, object string, err error) {
	code := errdefs.CodeOf(err)
	forged := code == errdefs.CapabilityNotFound || code == errdefs.CapabilityInvalid
	if forged || code == errdefs.Denied || errdefs.InfoOf(code).Escalation&errdefs.TellAudit != 0 {
		s.auth.Denied(s.agent, op, object, err)
	}
}

func (s *session) id() ([]byte, error) { return []byte(s.agent + "\n"), nil }

func (s *session) name() ([]byte, error) {
	name, _ := s.auth.Self(s.agent)
	return []byte(name + "\n"), nil
}

func (s *session) domain() ([]byte, error) {
	_, domain := s.auth.Self(s.agent)
	return []byte(domain + "\n"), nil
}

func (s *session) version() ([]byte, error) {
	return fmt.Appendf(nil, "%s device=%d\n", abi.Version, abi.DeviceVersion), nil
}

func (s *session) stats() ([]byte, error) {
	text, err := s.auth.Stats(s.agent)
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}
