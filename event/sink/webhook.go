package sink

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Media types of CloudEvents over HTTP.
const (
	typeStructured = "application/cloudevents+json; charset=utf-8"
	typeBatched    = "application/cloudevents-batch+json; charset=utf-8"
)

const (
	// maxAnswer is how much of an answer is read.
	maxAnswer = 4 << 10
	// maxRetryAfter bounds what a receiver can ask to be left alone for.
	maxRetryAfter = time.Minute
)

// webhook sends events in HTTP requests.
type webhook struct {
	url     string
	shown   string // the URL as it may be told
	batched bool
	key     []byte // nil: requests are not signed
	token   string
	timeout time.Duration
	client  *http.Client
	clock   ktime.Clock
}

// readWebhook reads the files of a webhook.
func (s *Spec) readWebhook(w *Webhook) (key string, err error) {
	if err := s.files.read("url_file", w.URLFile, true); err != nil {
		return "url_file", err
	}
	if w.URLFile != "" {
		if _, err := webURL(s.files.text("url_file"), w.TokenFile != ""); err != nil {
			return "url_file", err
		}
	}
	if err := s.files.read("token_file", w.TokenFile, true); err != nil {
		return "token_file", err
	}
	if strings.ContainsFunc(s.files.text("token_file"), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "token_file", bad("a token has neither blanks nor control characters", "write the token alone into the file")
	}
	if err := s.files.read("secret_file", w.SecretFile, true); err != nil {
		return "secret_file", err
	}
	if w.SecretFile != "" {
		if _, err := parseSecret(s.files.text("secret_file")); err != nil {
			return "secret_file", err
		}
	}
	return s.files.readTLS(&w.TLS)
}

// newWebhook makes the client of a webhook.
func newWebhook(s *Spec) (*webhook, error) {
	c := s.cfg.Webhook
	text := c.URL
	if text == "" {
		text = s.files.text("url_file")
	}
	u, err := webURL(text, false)
	if err != nil {
		return nil, err
	}
	w := &webhook{url: u.String(), shown: shownURL(u), batched: c.Mode == "batched", token: s.files.text("token_file"), timeout: c.Timeout, clock: ktime.Real}
	if c.SecretFile != "" {
		if w.key, err = parseSecret(s.files.text("secret_file")); err != nil {
			return nil, err
		}
	}
	tlsConfig := new(tls.Config)
	if _, err := s.files.tls(tlsConfig); err != nil {
		return nil, err
	}
	w.client = &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, MaxIdleConns: 2, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
			DialContext: (&net.Dialer{Timeout: c.Timeout}).DialContext, TLSHandshakeTimeout: c.Timeout,
		},
		// What is signed is for the one who is named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

// shownURL is a URL without what may be a secret.
func shownURL(u *url.URL) string {
	s := u.Scheme + "://" + u.Host
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		s += "/…"
	}
	return s
}

func (w *webhook) close() { w.client.CloseIdleConnections() }

// send implements target.
func (w *webhook) send(ctx context.Context, batch []message) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	body, media := batch[0].json, typeStructured
	if w.batched {
		body, media = joined(batch), typeBatched
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return errdefs.Wrap(withoutURL(err), errdefs.SinkFailed, "post events")
	}
	id := batch[0].id
	if n := len(batch); n > 1 {
		id += "+" + strconv.Itoa(n-1)
	}
	h := req.Header
	h.Set("Content-Type", media)
	h.Set("User-Agent", "aios/"+abi.Version)
	h.Set("webhook-id", id)
	if w.key != nil {
		sign(h, w.key, id, w.clock.Now(), body)
	}
	if w.token != "" {
		h.Set("Authorization", "Bearer "+w.token)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return w.unanswered(ctx, err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return w.judge(resp, answer)
}

// joined is a JSON array of events.
func joined(batch []message) []byte {
	n := 2
	for _, m := range batch {
		n += len(m.json) + 1
	}
	b := append(make([]byte, 0, n), '[')
	for i, m := range batch {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, m.json...)
	}
	return append(b, ']')
}

// unanswered is the error of a request that got no answer.
func (w *webhook) unanswered(ctx context.Context, err error) error {
	err = withoutURL(err)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return failed(fmt.Sprintf("%s did not answer within %v", w.shown, w.timeout), "see whether the receiver is overloaded, or allow more with timeout")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return failed(w.shown+": "+err.Error(), "name the authority that signed its certificate with ca_file")
	}
	return failed(w.shown+": "+err.Error(), "see whether the receiver runs and can be reached from here")
}

// withoutURL takes the URL out of an error.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// judge says what an answer means.
func (w *webhook) judge(resp *http.Response, answer []byte) error {
	code := resp.StatusCode
	if code/100 == 2 {
		return nil
	}
	detail := w.shown + " answered " + strconv.Itoa(code)
	if text := http.StatusText(code); text != "" {
		detail += " " + text
	}
	if said := firstLine(answer); said != "" {
		detail += ": " + said
	}
	switch code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return refused(detail, "have the receiver take such events, narrow what the sink sends with topics or filter, or write refused: skip")
	case http.StatusUnauthorized, http.StatusForbidden:
		return failed(detail, "check token_file and secret_file, and what the receiver expects")
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone:
		return failed(detail, "check url")
	}
	if code/100 == 3 {
		return failed(detail+"; redirects are not followed", "name in url where it leads")
	}
	return failed(detail, "look at the receiver's own log", errdefs.Delay(retryAfter(resp.Header.Get("Retry-After"), w.clock.Now())))
}

// retryAfter reads how long a receiver wants to be left alone.
func retryAfter(text string, now time.Time) time.Duration {
	if s, err := strconv.Atoi(text); err == nil {
		return min(max(time.Duration(min(s, 1<<20))*time.Second, 0), maxRetryAfter)
	}
	if t, err := http.ParseTime(text); err == nil {
		return min(max(t.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// firstLine is the beginning of what a receiver says, fit to be shown.
func firstLine(b []byte) string {
	const most = 200
	s, _, _ := strings.Cut(strings.TrimSpace(strings.ToValidUTF8(string(b), "\uFFFD")), "\n")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.TrimSpace(s)
}
