package sink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"aios.dev/aios/errdefs"
)

// reconnectEvery is how often a server that is away is tried. Events do not wait
// for it in the client: they are in the journal.
const reconnectEvery = 500 * time.Millisecond

// connectTimeout bounds one attempt to connect, for which the end of a sink waits.
const connectTimeout = 2 * time.Second

// natsTarget publishes events to a NATS server.
type natsTarget struct {
	cfg   *NATS
	shown string
	conn  *nats.Conn
	js    jetstream.JetStream // nil: the server acknowledges, no stream does
}

// readNATS reads the files of a NATS receiver.
func (s *Spec) readNATS(n *NATS) (key string, err error) {
	for _, f := range []struct{ key, path string }{
		{"credentials_file", n.CredentialsFile}, {"token_file", n.TokenFile}, {"password_file", n.PasswordFile}, {"nkey_file", n.NKeyFile},
	} {
		if err := s.files.read(f.key, f.path, true); err != nil {
			return f.key, err
		}
	}
	if key, err := s.files.readTLS(&n.TLS); err != nil {
		return key, err
	}
	if data := s.files["credentials_file"]; data != nil {
		_, err := nkeys.ParseDecoratedJWT(data)
		if err == nil {
			_, err = nkeys.ParseDecoratedNKey(data)
		}
		if err != nil {
			return "credentials_file", bad("it does not hold a user's JWT and seed", "write there what `nsc generate creds` prints")
		}
	}
	if s.files["nkey_file"] != nil {
		if _, err := s.nkey(); err != nil {
			return "nkey_file", err
		}
	}
	return "", nil
}

// nkey is the option of a connection that proves who it is with an NKey.
func (s *Spec) nkey() (nats.Option, error) {
	notSeed := bad("it does not hold the seed of a user", "write there what `nk -gen user` prints first")
	pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(s.files["nkey_file"]))))
	if err != nil {
		return nil, notSeed
	}
	public, err := pair.PublicKey()
	if err != nil || !nkeys.IsValidPublicUserKey(public) {
		return nil, notSeed
	}
	return nats.Nkey(public, pair.Sign), nil
}

// newNATS begins to connect. A server that is away is tried again for ever.
func newNATS(s *Spec) (*natsTarget, error) {
	c := s.cfg.NATS
	t := &natsTarget{cfg: c, shown: shownServers(c.Servers)}
	opts := []nats.Option{
		nats.Name("aios"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectEvery),
		nats.IgnoreAuthErrorAbort(), nats.Timeout(min(c.Timeout, connectTimeout)), nats.NoEcho(),
		nats.ReconnectBufSize(-1), // Publish fails while there is no connection, instead of keeping events.
		// Otherwise the client prints errors.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), nats.DisconnectErrHandler(func(*nats.Conn, error) {}),
	}
	switch {
	case c.CredentialsFile != "":
		opts = append(opts, nats.UserCredentialBytes(s.files["credentials_file"]))
	case c.TokenFile != "":
		opts = append(opts, nats.Token(s.files.text("token_file")))
	case c.User != "":
		opts = append(opts, nats.UserInfo(c.User, s.files.text("password_file")))
	case c.NKeyFile != "":
		o, err := s.nkey()
		if err != nil {
			return nil, err
		}
		opts = append(opts, o)
	}
	if c.CAFile != "" || c.CertFile != "" {
		cfg := new(tls.Config)
		if _, err := s.files.tls(cfg); err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(cfg))
	}
	var err error
	if t.conn, err = nats.Connect(strings.Join(c.Servers, ","), opts...); err != nil {
		return nil, failed(t.shown+": "+err.Error(), "check what the configuration says of the sink")
	}
	if c.JetStream {
		if t.js, err = jetstream.New(t.conn); err != nil {
			t.conn.Close()
			return nil, failed(t.shown+": "+err.Error(), "check what the configuration says of the sink")
		}
	}
	return t, nil
}

// shownServers names servers without what may be a secret.
func shownServers(servers []string) string {
	var out []string
	for _, s := range servers {
		if u, err := url.Parse(s); err == nil {
			out = append(out, u.Scheme+"://"+u.Host)
		}
	}
	return strings.Join(out, ",")
}

func (t *natsTarget) close() { t.conn.Close() }

// send implements target.
func (t *natsTarget) send(ctx context.Context, batch []message) error {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	if !t.conn.IsConnected() {
		return t.judge(ctx, errdefs.New(errdefs.SinkFailed, "there is no connection", errdefs.Cause(t.conn.LastError())))
	}
	if t.js != nil {
		return t.judge(ctx, t.publishStream(ctx, batch))
	}
	return t.judge(ctx, t.publish(ctx, batch))
}

// msg is an event as CloudEvents over NATS has it, in structured mode.
func (t *natsTarget) msg(m message) *nats.Msg {
	out := nats.NewMsg(t.cfg.subject(m.topic))
	out.Header.Set("Content-Type", "application/cloudevents+json")
	out.Header.Set(nats.MsgIdHdr, m.id) // A stream drops what comes twice.
	out.Data = m.json
	return out
}

// publish publishes events and waits until the server has processed them: it
// answers a ping after what came before on the connection.
func (t *natsTarget) publish(ctx context.Context, batch []message) error {
	before, connections := t.conn.LastError(), t.conn.Stats().Reconnects
	for _, m := range batch {
		if err := t.conn.PublishMsg(t.msg(m)); err != nil {
			return err
		}
	}
	if err := t.conn.FlushWithContext(ctx); err != nil {
		return err
	}
	// The pong may have come over another connection than the events went.
	if t.conn.Stats().Reconnects != connections {
		return nats.ErrDisconnected
	}
	if err := t.conn.LastError(); err != nil && err != before && errors.Is(err, nats.ErrPermissionViolation) {
		return err
	}
	return nil
}

// publishStream publishes events and waits until a stream has stored each.
func (t *natsTarget) publishStream(ctx context.Context, batch []message) error {
	acks := make([]jetstream.PubAckFuture, 0, len(batch))
	for _, m := range batch {
		ack, err := t.js.PublishMsgAsync(t.msg(m))
		if err != nil {
			return err
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// judge says what the failure of a publication means.
func (t *natsTarget) judge(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	detail := t.shown + ": " + err.Error()
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return refused(detail, "raise max_payload of the server, or narrow what the sink sends with topics or filter")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return failed(fmt.Sprintf("%s did not acknowledge within %v", t.shown, t.cfg.Timeout), "see whether the server is overloaded, or allow more with timeout")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return failed(t.shown+": no stream takes "+t.cfg.Subject, "make a stream of that subject, or leave jetstream out")
	case errors.Is(err, nats.ErrPermissionViolation):
		return failed(detail, "allow the sink's user to publish under its subject")
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return failed(detail, "check the credentials that the configuration names")
	case errors.As(err, &api):
		return failed(detail, "look at the stream: `nats stream info`")
	}
	return failed(detail, "see whether the server runs and can be reached from here")
}
