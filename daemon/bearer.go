package daemon

import (
	"context"
	"errors"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
)

// A call that shows a token is done on its bearer's behalf, and does what the
// token allows and nothing else. It passes three places: admitBearer, before
// its message is read, takes the token for what it is; the guard, which knows
// what each method takes (methods.go), examines what is asked, and what is
// answered; and the token is watched while the call lasts (tokenuse.go).

// bearer is on whose behalf a call is made that shows a token.
type bearer struct {
	*token.Authority
	token token.Token
}

// actor is how the audit trail names the bearer.
func (b *bearer) actor() string { return "token:" + b.Subject }

type bearerKey struct{}

// bearerFrom returns the bearer who makes a call, nil when it shows no token.
func bearerFrom(ctx context.Context) *bearer {
	b, _ := ctx.Value(bearerKey{}).(*bearer)
	return b
}

// bearerOf takes the text of a token for what it is.
func (d *System) bearerOf(text string) (*bearer, error) {
	t, err := token.Parse(text)
	if err != nil {
		return nil, err
	}
	k, err := d.keyring()
	if err != nil {
		return nil, err
	}
	a, err := token.Verify(t, token.Policy{Trust: k.trust.Key, Audience: k.audience, Now: d.clock.Now(), Revoked: k.revoked.Revoked})
	if err != nil {
		return &bearer{token: t}, err
	}
	return &bearer{Authority: a, token: t}, nil
}

// admitBearer is the api.Bearer of the daemon.
func (d *System) admitBearer(ctx context.Context, method, text string) (context.Context, error) {
	if text == "" {
		err := errdefs.New(errdefs.TokenInvalid, "no token is shown, and only bearers of one are served here", errdefs.Op("verify token"))
		d.turnedAway(ctx, nil, method, err)
		return ctx, errdefs.Public(err).With(errdefs.Fix("show a token: --token-file FILE or AIOS_TOKEN"))
	}
	b, err := d.bearerOf(text)
	if err != nil {
		d.turnedAway(ctx, b, method, err)
		return ctx, errdefs.Public(err)
	}
	return context.WithValue(ctx, bearerKey{}, b), nil
}

// guards are the interceptors that hold calls to what their tokens allow.
// required refuses calls without one.
func (d *System) guards(required bool) []grpc.ServerOption {
	hold := func(ctx context.Context) (*bearer, error) {
		b := bearerFrom(ctx)
		if b == nil && required {
			return nil, errdefs.New(errdefs.TokenInvalid, "no token is shown")
		}
		return b, nil
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		b, err := hold(ctx)
		if err != nil || b == nil {
			return nilOr(err, func() (any, error) { return h(ctx, req) })
		}
		a, err := d.ask(ctx, b, info.FullMethod)
		if err != nil {
			return nil, err
		}
		defer a.done()
		m, ok := req.(proto.Message)
		if !ok {
			return nil, errdefs.Newf(errdefs.Internal, "a request is a %T", req)
		}
		if err := a.examine(m); err != nil {
			return nil, err
		}
		resp, err := h(a.ctx, req)
		if err != nil {
			return nil, a.outcome(err)
		}
		if m, ok := resp.(proto.Message); ok && a.method.shown != nil {
			a.method.shown(a, m)
		}
		return resp, nil
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		b, err := hold(ss.Context())
		if err != nil || b == nil {
			_, err := nilOr(err, func() (any, error) { return nil, h(srv, ss) })
			return err
		}
		a, err := d.ask(ss.Context(), b, info.FullMethod)
		if err != nil {
			return err
		}
		defer a.done()
		return a.outcome(h(srv, &guardedStream{ServerStream: ss, a: a}))
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}
}

// nilOr returns err, or else what f does.
func nilOr(err error, f func() (any, error)) (any, error) {
	if err != nil {
		return nil, err
	}
	return f()
}

// veils are the interceptors that tell bearers no more of a failure than they
// may know. They are around those that remember failures.
func veils() []grpc.ServerOption {
	veil := func(ctx context.Context, err error) error {
		if err == nil || bearerFrom(ctx) == nil {
			return err
		}
		return errdefs.Public(err)
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(ctx, req)
			return resp, veil(ctx, err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return veil(ss.Context(), h(srv, ss))
		}),
	}
}

// asked is a call of a bearer.
type asked struct {
	d      *System
	b      *bearer
	method method
	name   string          // of the method
	ctx    context.Context // ends with the token
	use    *use
	// agent is the ID of the one that it turned out to be about, of a spawn "".
	agent string
	// examined is what the examination came to.
	examined error
	// subject is what the token's patterns were compared with.
	subject *token.Agent
}

// ask begins the examination of a call. The caller calls done when the call has
// ended.
func (d *System) ask(ctx context.Context, b *bearer, fullMethod string) (*asked, error) {
	a := &asked{d: d, b: b, name: path.Base(fullMethod)}
	m, ok := methods[fullMethod]
	if !ok {
		return nil, a.refused(ctx, errdefs.New(errdefs.Denied, "tokens do not extend to this method", errdefs.Op(a.name),
			errdefs.Fix("ask the operator of the daemon")))
	}
	a.method = m
	var err error
	if a.ctx, a.use, err = d.beginUse(ctx, b); err != nil {
		return nil, a.refused(ctx, err)
	}
	return a, nil
}

func (a *asked) done() { a.d.endUse(a.use) }

// examine decides about the message that says what is asked.
func (a *asked) examine(m proto.Message) error {
	check := a.method.check
	if check == nil {
		check = (*asked).aboutAgent
		if !a.method.agent() {
			check = (*asked).aboutHost
		}
	}
	if err := check(a, m); err != nil {
		a.examined = a.refused(a.ctx, err)
		return a.examined
	}
	a.d.used(a.ctx, a.b, a.name)
	return nil
}

// refused writes a refusal into the audit trail, and returns it.
func (a *asked) refused(ctx context.Context, err error) error {
	if isRefusal(err) {
		a.d.denied(ctx, a.b, a.name, a.agent, err)
	}
	return err
}

// isRefusal tells what a bearer may not do from what nobody could.
func isRefusal(err error) bool {
	switch errdefs.CodeOf(err) {
	case errdefs.Denied, errdefs.RightsExceed, errdefs.AgentLimit,
		errdefs.TokenInvalid, errdefs.TokenExpired, errdefs.TokenRevoked, errdefs.AudienceMismatch:
		return true
	}
	return false
}

// outcome returns what a handler's error is for a bearer: when the token has
// ended meanwhile, that is why. Some refusals only the handler can make.
func (a *asked) outcome(err error) error {
	if a.examined != nil {
		return a.examined
	}
	var end endOfUse
	if errors.As(context.Cause(a.ctx), &end) {
		err = end.error
	}
	return a.refused(a.ctx, err)
}

// guardedStream holds a stream to what the token allows, message by message.
type guardedStream struct {
	grpc.ServerStream
	a     *asked
	begun bool
}

// Context ends with the token.
func (s *guardedStream) Context() context.Context { return s.a.ctx }

// SendMsg sends nothing more once the token has ended.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.a.ctx.Err(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// RecvMsg examines the first message, which says what is asked, and whatever
// later ones ask for.
func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := s.a.ctx.Err(); err != nil {
		return err
	}
	msg, ok := m.(proto.Message)
	if !ok {
		return errdefs.Newf(errdefs.Internal, "a message is a %T", m)
	}
	if !s.begun {
		s.begun = true
		return s.a.examine(msg)
	}
	r, ok := msg.(*apiv1.AttachRequest)
	if !ok {
		return nil
	}
	if _, ok := r.GetMsg().(*apiv1.AttachRequest_Signal); ok {
		if err := s.a.b.Allow(token.OpSignal, s.a.subject); err != nil {
			s.a.use.end(err) // The handler would take an error for the client's departure.
			return err
		}
	}
	return nil
}
