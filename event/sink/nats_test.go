package sink

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/test/natsserver"
)

// natsText is a sink to a server.
func natsText(s *natsserver.Server, more ...string) string {
	return "name: s\nnats:\n  servers: ['" + s.URL + "']\n  timeout: 2s\n  " + strings.Join(more, "\n  ")
}

// dial connects to a server as a receiver does.
func dial(t testing.TB, s *natsserver.Server, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.URL, append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// publish sends messages by a target that a file describes, once it is
// connected.
func publish(t testing.TB, text string, batch []message) (err error) {
	t.Helper()
	to, err := spec(t, text).target()
	if err != nil {
		t.Fatal(err)
	}
	defer to.close()
	until(t, "connected", func() bool { return to.(*natsTarget).conn.IsConnected() })
	return to.send(context.Background(), batch)
}

func TestNATS(t *testing.T) {
	t.Parallel()
	s := natsserver.Start(t)
	nc := dial(t, s)
	sub, err := nc.SubscribeSync("aios.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, natsText(s), exits(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		m, err := sub.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var e cloudEvent
		if err := json.Unmarshal(m.Data, &e); err != nil {
			t.Fatal(err)
		}
		e.check(t, exits(1, 2, 3)[i].id, float64(i+1))
		if m.Subject != "aios.agent.exit" || m.Header.Get("Content-Type") != "application/cloudevents+json" || m.Header.Get("Nats-Msg-Id") != e.ID {
			t.Errorf("%s %v", m.Subject, m.Header)
		}
	}
	big := message{"d1-9", "agent.exit", make([]byte, 2<<20)}
	if err := publish(t, natsText(s), []message{big}); errdefs.CodeOf(err) != errdefs.SinkRefused || !strings.Contains(errdefs.FixOf(err), "max_payload") {
		t.Errorf("too large: %v", err)
	}
}

// TestNATSStream: with jetstream an event is taken once a stream has it, and
// what comes twice is there once.
func TestNATSStream(t *testing.T) {
	t.Parallel()
	s := natsserver.Start(t)
	text := natsText(s, "jetstream: true", "subject: 'ops.{topic}'")
	if err := publish(t, text, exits(1)); errdefs.CodeOf(err) != errdefs.SinkFailed || !strings.Contains(err.Error(), "no stream takes ops.{topic}") {
		t.Errorf("without a stream: %v", err)
	}
	js, err := jetstream.New(dial(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OPS", Subjects: []string{"ops.>"}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := publish(t, text, exits(1, 2, 3)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.State.Msgs != 3 {
		t.Errorf("%d messages, %v", info.State.Msgs, err)
	}
}

// TestNATSCredentials: with what is right the server takes events; with what is
// wrong, and without, the sink says that it is not let in.
func TestNATSCredentials(t *testing.T) {
	t.Parallel()
	s := natsserver.Start(t, "--auth", "T0KEN-T0KEN")
	right, wrong := keep(t, "right", "T0KEN-T0KEN\n"), keep(t, "wrong", "T1KEN-T1KEN")
	if err := publish(t, natsText(s, "token_file: "+right), exits(1)); err != nil {
		t.Error(err)
	}
	to, err := spec(t, natsText(s, "token_file: "+wrong)).target()
	if err != nil {
		t.Fatal(err)
	}
	defer to.close()
	err = to.send(t.Context(), exits(1))
	if errdefs.CodeOf(err) != errdefs.SinkFailed || !strings.Contains(errdefs.FixOf(err), "credentials") || strings.Contains(err.Error(), "KEN") {
		t.Errorf("the wrong token: %v; fix: %s", err, errdefs.FixOf(err))
	}

	user := natsserver.Start(t, "--user", "aios", "--pass", "T0KEN-T0KEN")
	if err := publish(t, natsText(user, "user: aios", "password_file: "+right), exits(1)); err != nil {
		t.Error(err)
	}

	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := pair.PublicKey()
	seed, _ := pair.Seed()
	conf := keep(t, "nats.conf", "authorization: { users: [ { nkey: "+public+", permissions: { publish: \"aios.>\" } } ] }\n")
	signed := natsserver.Start(t, "-c", conf)
	nkey := "nkey_file: " + keep(t, "nkey", string(seed)+"\n")
	if err := publish(t, natsText(signed, nkey), exits(1)); err != nil {
		t.Error(err)
	}
	err = publish(t, natsText(signed, nkey, "subject: 'other.{topic}'"), exits(1))
	if errdefs.CodeOf(err) != errdefs.SinkFailed || !strings.Contains(errdefs.FixOf(err), "allow") {
		t.Errorf("what it may not publish: %v", err)
	}
}

// TestNATSOutage kills the server while events are sent, and starts it again: a
// stream has every event once.
func TestNATSOutage(t *testing.T) {
	t.Parallel()
	s := natsserver.Start(t)
	js, err := jetstream.New(dial(t, s))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "AIOS", Subjects: []string{"aios.>"}, Duplicates: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	h := openHub(t, t.TempDir())
	w := new(told)
	o := w.options(h, &hasty{now: time.Unix(1e9, 0)})
	k := Start(spec(t, natsText(s, "jetstream: true", "batch: 10")+"\ntopics: [agent.exit]\nfrom: oldest"), o)
	defer k.Stop()
	const events = 500
	for i := range events {
		emit(h, i)
		switch i {
		case 100:
			until(t, "some are sent", func() bool { return k.Status().Delivered > 20 })
			s.Stop()
		case 300:
			until(t, "it has failed", func() bool { return k.Status().Failed })
			s.Restart()
		}
	}
	until(t, "all is sent", func() bool { return k.Status().Behind == 0 && !k.Status().Failed })
	until(t, "the stream has all", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == events
	})
	if st := k.Status(); st.Lost != 0 || st.Skipped != 0 {
		t.Errorf("%+v", st)
	}
	t.Log(w.all())
}
