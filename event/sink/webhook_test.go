package sink

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// keep writes a file that only its owner may use.
func keep(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// exits are messages about agents that ended.
func exits(codes ...int32) (out []message) {
	for i, c := range codes {
		e := event.Event{
			Seq: uint64(i + 1), Source: "d1", Wall: 1e18, Agent: "a1", Domain: "default", Type: event.AgentExit, Severity: event.Info,
			Payload: &eventv1.AgentExit{Code: c, Reason: "\"quotes\", <tags> and ünïcode"},
		}
		out = append(out, message{e.ID(), e.Topic(), e.AppendJSON(nil)})
	}
	return out
}

// seen is a request that a receiver got.
type seen struct {
	http.Header
	body []byte
	host string
}

// receiver is a web server that answers with a status.
func receiver(t testing.TB, answer func(http.ResponseWriter, *http.Request, []byte)) (*httptest.Server, chan seen) {
	t.Helper()
	got := make(chan seen, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			t.Errorf("%s: %v", r.Method, err)
		}
		got <- seen{r.Header, body, r.Host}
		if answer != nil {
			answer(w, r, body)
		}
	}))
	t.Cleanup(s.Close)
	return s, got
}

// post sends messages by a webhook that a file describes.
func post(t testing.TB, text string, batch []message) error {
	t.Helper()
	w, err := spec(t, text).target()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	return w.send(context.Background(), batch)
}

// cloudEvent is what every CloudEvent must have.
type cloudEvent struct {
	SpecVersion     string         `json:"specversion"`
	ID              string         `json:"id"`
	Source          string         `json:"source"`
	Type            string         `json:"type"`
	Time            time.Time      `json:"time"`
	DataContentType string         `json:"datacontenttype"`
	Data            map[string]any `json:"data"`
}

func (e *cloudEvent) check(t testing.TB, id string, code float64) {
	t.Helper()
	if e.SpecVersion != "1.0" || e.ID != id || e.Source != "/aios/default/a1" || e.Type != "dev.aios.agent.exit" || e.DataContentType != "application/json" ||
		!e.Time.Equal(time.Unix(1e9, 0)) || e.Data["code"] != code || e.Data["reason"] != "\"quotes\", <tags> and ünïcode" {
		t.Errorf("%+v", e)
	}
}

func TestWebhookStructured(t *testing.T) {
	s, got := receiver(t, nil)
	token, secret := keep(t, "token", "s3cret-token\n"), keep(t, "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
	if err := post(t, "name: s\nwebhook: {url: '"+s.URL+"/in?x=1', token_file: "+token+", secret_file: "+secret+"}", exits(3)); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" || r.Get("Authorization") != "Bearer s3cret-token" || r.Get("webhook-id") != "d1-1" {
		t.Errorf("%v", r.Header)
	}
	var e cloudEvent
	if err := json.Unmarshal(r.body, &e); err != nil {
		t.Fatal(err)
	}
	e.check(t, "d1-1", 3)
	// The receiver signs what it got, and compares.
	key, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	var unix int64
	if err := json.Unmarshal([]byte(r.Get("webhook-timestamp")), &unix); err != nil {
		t.Fatal(err)
	}
	h := make(http.Header)
	sign(h, key, r.Get("webhook-id"), time.Unix(unix, 0), r.body)
	if h.Get("webhook-signature") != r.Get("webhook-signature") || time.Since(time.Unix(unix, 0)).Abs() > time.Minute {
		t.Errorf("%v", r.Header)
	}
}

func TestWebhookBatched(t *testing.T) {
	s, got := receiver(t, func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusAccepted) })
	if err := post(t, "name: s\nwebhook: {url: '"+s.URL+"', mode: batched}", exits(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.Get("Content-Type") != "application/cloudevents-batch+json; charset=utf-8" || r.Get("webhook-id") != "d1-1+2" || r.Get("webhook-signature") != "" || r.Get("Authorization") != "" {
		t.Errorf("%v", r.Header)
	}
	var all []cloudEvent
	if err := json.Unmarshal(r.body, &all); err != nil || len(all) != 3 {
		t.Fatalf("%d, %v", len(all), err)
	}
	for i, e := range all {
		e.check(t, exits(1, 2, 3)[i].id, float64(i+1))
	}
}

// TestSignature is the example of the Standard Webhooks specification.
func TestSignature(t *testing.T) {
	key, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	h := make(http.Header)
	sign(h, key, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got := h.Get("webhook-signature"); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("%s", got)
	}
	for _, bad := range []string{"", "short", "whsec_%%%", "whsec_c2hvcnQ="} {
		if _, err := parseSecret(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

// TestWebhookAnswers: what each answer means.
func TestWebhookAnswers(t *testing.T) {
	for _, tc := range []struct {
		status int
		header string
		code   errdefs.Code
		delay  time.Duration
		fix    string
	}{
		{status: 200}, {status: 202}, {status: 204},
		{status: 400, code: errdefs.SinkRefused, fix: "refused: skip"},
		{status: 413, code: errdefs.SinkRefused}, {status: 415, code: errdefs.SinkRefused}, {status: 422, code: errdefs.SinkRefused},
		{status: 401, code: errdefs.SinkFailed, fix: "token_file"}, {status: 403, code: errdefs.SinkFailed},
		{status: 404, code: errdefs.SinkFailed, fix: "check url"}, {status: 410, code: errdefs.SinkFailed},
		{status: 302, code: errdefs.SinkFailed, fix: "where it leads"}, {status: 308, code: errdefs.SinkFailed},
		{status: 429, header: "7", code: errdefs.SinkFailed, delay: 7 * time.Second},
		{status: 503, header: "999999999999", code: errdefs.SinkFailed, delay: maxRetryAfter},
		{status: 503, header: "99999", code: errdefs.SinkFailed, delay: maxRetryAfter},
		{status: 503, header: "-5", code: errdefs.SinkFailed},
		{status: 503, header: "soon", code: errdefs.SinkFailed},
		{status: 500, code: errdefs.SinkFailed}, {status: 501, code: errdefs.SinkFailed}, {status: 599, code: errdefs.SinkFailed},
	} {
		followed := false
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
		s, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Location", other.URL)
			if tc.header != "" {
				w.Header().Set("Retry-After", tc.header)
			}
			w.WriteHeader(tc.status)
			if tc.status >= 200 && tc.status != 204 {
				io.WriteString(w, "  because \x1b[2J of this\nand that\n"+strings.Repeat("x", 1<<20))
			}
		})
		err := post(t, "name: s\nwebhook: {url: '"+s.URL+"/secret-path'}", exits(0))
		other.Close()
		if errdefs.CodeOf(err) != tc.code && !(err == nil && tc.code == "") {
			t.Errorf("%d: %v", tc.status, err)
			continue
		}
		if followed {
			t.Errorf("%d: the redirect was followed", tc.status)
		}
		if err == nil {
			continue
		}
		text := err.Error()
		if strings.Contains(text, "secret-path") || strings.Contains(text, "\x1b") || strings.Contains(text, "and that") || !strings.Contains(text, "because") || len(text) > 500 {
			t.Errorf("%d: %q", tc.status, text)
		}
		if errdefs.DelayOf(err) != tc.delay || !strings.Contains(errdefs.FixOf(err), tc.fix) {
			t.Errorf("%d: delay %v, fix %s", tc.status, errdefs.DelayOf(err), errdefs.FixOf(err))
		}
	}
	if d := retryAfter("Wed, 21 Oct 2015 07:28:10 GMT", time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC)); d != 10*time.Second {
		t.Errorf("a date is %v", d)
	}
}

// TestWebhookSecretsStaySecret: no error tells what a file holds, or where a URL
// leads.
func TestWebhookSecretsStaySecret(t *testing.T) {
	s, _ := receiver(t, nil)
	at := s.URL
	s.Close()
	hidden := keep(t, "url", at+"/services/T0KEN?key=T0KEN\n")
	text := "name: s\nwebhook: {url_file: " + hidden + ", token_file: " + keep(t, "token", "T0KEN-T0KEN") + "}"
	sp := spec(t, text)
	if sp.shown() != at+"/…" {
		t.Errorf("shown as %s", sp.shown())
	}
	err := post(t, text, exits(0))
	if errdefs.CodeOf(err) != errdefs.SinkFailed || strings.Contains(err.Error(), "T0KEN") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v", err)
	}
}

func TestWebhookTimeout(t *testing.T) {
	release := make(chan struct{})
	s, _ := receiver(t, func(http.ResponseWriter, *http.Request, []byte) { <-release })
	defer close(release)
	err := post(t, "name: s\nwebhook: {url: '"+s.URL+"', timeout: 50ms}", exits(0))
	if errdefs.CodeOf(err) != errdefs.SinkFailed || !strings.Contains(err.Error(), "did not answer within 50ms") {
		t.Errorf("%v", err)
	}
	w, err := spec(t, "name: s\nwebhook: {url: '"+s.URL+"'}").target()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.send(ctx, exits(0)); err != context.Canceled {
		t.Errorf("who was told to end says %v", err)
	}
}

func TestWebhookTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	s.Config.ErrorLog = nil
	ca := keep(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	if err := post(t, "name: s\nwebhook: {url: '"+s.URL+"'}", exits(0)); errdefs.CodeOf(err) != errdefs.SinkFailed || !strings.Contains(errdefs.FixOf(err), "ca_file") {
		t.Errorf("an unknown authority: %v", err)
	}
	if err := post(t, "name: s\nwebhook: {url: '"+s.URL+"', ca_file: "+ca+"}", exits(0)); err != nil {
		t.Error(err)
	}
}

// TestWebhookPromise sends through a whole sink to a web server that fails now
// and then, over real time.
func TestWebhookPromise(t *testing.T) {
	t.Parallel()
	n := 0
	taken := make(map[string]bool)
	s, _ := receiver(t, func(w http.ResponseWriter, _ *http.Request, body []byte) {
		if n++; n%3 == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var all []cloudEvent
		if json.NewDecoder(bytes.NewReader(body)).Decode(&all) == nil {
			for _, e := range all {
				taken[e.ID] = true
			}
		}
	})
	h := openHub(t, t.TempDir())
	o := new(told).options(h, &hasty{now: time.Unix(1e9, 0)})
	for i := range 100 {
		emit(h, i)
	}
	k := Start(spec(t, "name: s\nwebhook: {url: '"+s.URL+"', mode: batched, batch: 7}\nfrom: oldest"), o)
	until(t, "all is sent", func() bool { return k.Status().Behind == 0 && k.Status().Delivered >= 100 })
	k.Stop()
	if len(taken) < 100 {
		t.Errorf("%d of 100", len(taken))
	}
}

func FuzzWebURL(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:8080/x", "https://u:p@h/", "ftp://x", "http://[::1]:80/#f", "//x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := webURL(s, false)
		if err != nil {
			return
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
			t.Errorf("%q", s)
		}
		shown := shownURL(u)
		if strings.Contains(shown, "?") || len(shown) > len(u.Scheme)+len("://")+len(u.Host)+len("/…") {
			t.Errorf("%q is shown as %q", s, shown)
		}
		if _, err := url.Parse(u.String()); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}
