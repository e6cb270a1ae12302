package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"aios.dev/aios/test/natsserver"
)

// webReceiver is a web server that takes events, or is down.
type webReceiver struct {
	t    *testing.T
	addr string

	mu     sync.Mutex
	server *http.Server
	got    []eventLine   // guarded by mu
	header []http.Header // guarded by mu
}

func newWebReceiver(t *testing.T) *webReceiver {
	t.Helper()
	w := &webReceiver{t: t, addr: "127.0.0.1:0"}
	w.up()
	t.Cleanup(w.down)
	return w
}

// up listens, at the same address as before.
func (w *webReceiver) up() {
	w.t.Helper()
	var l net.Listener
	eventually(w.t, "the receiver listens", 10*time.Second, func() (bool, string) {
		var err error
		l, err = net.Listen("tcp", w.addr)
		return err == nil, fmt.Sprint(err)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addr = l.Addr().String()
	w.server = &http.Server{Handler: w}
	go w.server.Serve(l)
}

// down ends every connection and listens no more.
func (w *webReceiver) down() {
	w.mu.Lock()
	s := w.server
	w.mu.Unlock()
	s.Close()
}

func (w *webReceiver) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // It was cut off, and comes again.
	}
	var all []eventLine
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents-batch+json") {
		err = json.Unmarshal(body, &all)
	} else {
		all = make([]eventLine, 1)
		err = json.Unmarshal(body, &all[0])
	}
	if err != nil {
		w.t.Errorf("%v: %s", err, body)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, all...)
	w.header = append(w.header, r.Header)
	rw.WriteHeader(http.StatusNoContent)
}

// ids are those of the events of a topic that came, without what came again.
func (w *webReceiver) ids(topic string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return distinct(w.got, topic)
}

func distinct(all []eventLine, topic string) (out []string) {
	for _, e := range all {
		if e.topic() == topic && !slices.Contains(out, e.ID) {
			out = append(out, e.ID)
		}
	}
	return out
}

// past returns the events of a topic that the journal has.
func (in *install) past(t testing.TB, topic string) (out []eventLine) {
	t.Helper()
	raw := strings.TrimSpace(string(in.ok(t, "events", "--topic", topic, "-o", "json")))
	for line := range strings.SplitSeq(raw, "\n") {
		var e eventLine
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, e)
	}
	return out
}

type sinkLine struct {
	Name, State, Target, Breaker, Error string
	Delivered, Failures, Skipped, Lost  uint64
	Behind                              uint64
}

// sink returns how a sink is.
func (in *install) sink(t testing.TB, name string) sinkLine {
	t.Helper()
	var all []sinkLine
	if err := json.Unmarshal(in.ok(t, "sink", "ls", "-o", "json"), &all); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(s sinkLine) bool { return s.Name == name })
	if i < 0 {
		t.Fatalf("there is no sink %s: %+v", name, all)
	}
	return all[i]
}

// secret writes a file that only its owner may use.
func (in *install) secret(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(in.dir, name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// TestSinks sends the end of every agent to a web server and to a stream of a
// NATS server, while each of them and the daemon are killed in turn. Nothing is
// lost, the stream has nothing twice, and who looks sees how the sinks are.
func TestSinks(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	web, server := newWebReceiver(t), natsserver.Start(t)
	nc, err := nats.Connect(server.URL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "AIOS", Subjects: []string{"aios.>"}, Duplicates: time.Hour})
	must(t, err)
	secret := in.secret(t, "hook.secret", "0123456789abcdef0123456789abcdef")
	in.config(t, `version: 1
sinks:
  - name: web
    webhook: {url: 'http://`+web.addr+`/in', mode: batched, secret_file: `+secret+`}
    topics: [agent.exit]
  - name: bus
    nats: {servers: ['`+server.URL+`'], jetstream: true, timeout: 2s}
    topics: [agent.exit, sink.*]
`)
	in.ok(t, "daemon", "start")
	spawn := func(n int) {
		t.Helper()
		for range n {
			id := in.spawn(t, "--", "true")
			in.ok(t, "wait", id)
		}
	}
	failed := func(name string) {
		t.Helper()
		eventually(t, name+" has failed", 60*time.Second, func() (bool, string) {
			s := in.sink(t, name)
			return s.State == "failed" && s.Breaker != "closed" && s.Error != "" && s.Behind > 0, fmt.Sprintf("%+v", s)
		})
		if r := in.run(t, "health"); r.status != 1 || !strings.Contains(string(r.stdout), "sink "+name) {
			t.Errorf("health: %s", r)
		}
	}

	spawn(2)
	web.down()
	spawn(2)
	failed("web")
	kill9(t, in.process(t, "serve"))
	in.ok(t, "daemon", "start")
	spawn(2)
	web.up()
	server.Stop()
	spawn(2)
	failed("bus")
	spawn(1)
	server.Restart()
	eventually(t, "the stream's sink is restored", 60*time.Second, func() (bool, string) {
		s := in.sink(t, "bus")
		return s.State == "ok", fmt.Sprintf("%+v", s)
	})
	spawn(1)
	kill9(t, in.process(t, "serve"))
	in.ok(t, "daemon", "start")

	want := distinct(in.past(t, "agent.exit"), "agent.exit")
	if len(want) != 10 {
		t.Fatalf("the journal has %d of 10", len(want))
	}
	eventually(t, "the web server has everything", 90*time.Second, func() (bool, string) {
		got := web.ids("agent.exit")
		return slices.Equal(got, want), fmt.Sprintf("%v\nand not\n%v", got, want)
	})
	stream := func() (out []eventLine) {
		s, err := js.Stream(t.Context(), "AIOS")
		must(t, err)
		info, err := s.Info(t.Context())
		must(t, err)
		for i := uint64(1); i <= info.State.LastSeq; i++ {
			m, err := s.GetMsg(t.Context(), i)
			must(t, err)
			var e eventLine
			must(t, json.Unmarshal(m.Data, &e))
			if m.Subject != "aios."+e.topic() {
				t.Errorf("%s under %s", e.topic(), m.Subject)
			}
			out = append(out, e)
		}
		return out
	}
	eventually(t, "the stream has everything", 90*time.Second, func() (bool, string) {
		all := stream()
		return slices.Equal(distinct(all, "agent.exit"), want) && len(distinct(all, "sink.restored")) > 0, fmt.Sprint(all)
	})
	all := stream()
	for i, e := range all {
		if slices.ContainsFunc(all[:i], func(o eventLine) bool { return o.ID == e.ID }) {
			t.Errorf("%s is twice in the stream", e.ID)
		}
	}
	eventually(t, "all is well", 60*time.Second, func() (bool, string) {
		r := in.run(t, "health")
		return r.status == 0 && in.sink(t, "web").Behind == 0 && in.sink(t, "bus").Behind == 0, string(r.stdout)
	})
	// Of the outage that ended with the daemon's death there is no more to tell.
	for topic, n := range map[string]int{"sink.failed": 2, "breaker.open": 2, "sink.restored": 1, "breaker.close": 1} {
		if got := in.past(t, topic); len(got) != n {
			t.Errorf("%d events of %s: %+v", len(got), topic, got)
		}
	}
	web.mu.Lock()
	for _, h := range web.header {
		if h.Get("webhook-id") == "" || !strings.HasPrefix(h.Get("webhook-signature"), "v1,") {
			t.Errorf("%v", h)
		}
	}
	web.mu.Unlock()

	// A sink that is taken out keeps its place until that is forgotten.
	if r := in.run(t, "events", "forget", "sink:web"); r.status == 0 {
		t.Errorf("a sink at work was forgotten: %s", r)
	}
	in.config(t, "version: 1\n")
	if out := string(in.ok(t, "daemon", "reload")); !strings.Contains(out, "sinks.web.webhook.url") || strings.Contains(out, web.addr) {
		t.Errorf("reload: %s", out)
	}
	if out := strings.TrimSpace(string(in.ok(t, "sink", "ls", "-o", "json"))); out != "[]" {
		t.Errorf("after the sinks were taken out: %s", out)
	}
	in.ok(t, "events", "forget", "sink:web", "sink:bus")
	in.ok(t, "health")
}
