package socket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// echo answers with what it was asked.
func echo(op string, body []byte) (json.RawMessage, error) {
	switch op {
	case "refuse":
		return nil, semantic.Refusal("get", "notes", 1)
	case "stats":
		return json.RawMessage(`{"protocol":1}`), nil
	}
	return json.Marshal(map[string]any{"op": op, "bytes": len(body)})
}

// client speaks to a server over a pipe, as programs in agents do.
func client(t *testing.T, ask Ask) *http.Client {
	t.Helper()
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { ours.Close() })
		go func() {
			Serve(theirs, ask)
			theirs.Close()
		}()
		return ours, nil
	}}}
}

func TestQuestionsAndAnswers(t *testing.T) {
	c := client(t, echo)
	for _, one := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/put", `{"a":1}`, 200, `{"bytes":7,"op":"put"}`},
		{"GET", "/v1/stats", "", 200, `{"protocol":1}`},
		{"POST", "/v1/refuse", "", 403, `"code":"CAPABILITY_DENIED"`},
		{"POST", "/v1/refuse", "", 403, `"fix":"ask for semantic:notes:read"`},
		{"POST", "/v2/put", "", 404, `"code":"INVALID_ARGUMENT"`},
		{"POST", "/v1/put/x", "", 404, `/v1/OPERATION`},
		{"DELETE", "/v1/put", "", 405, `use POST`},
		{"POST", "/v1/put", strings.Repeat("x", semantic.MaxBody), 200, fmt.Sprintf(`"bytes":%d`, semantic.MaxBody)},
		{"POST", "/v1/put", strings.Repeat("x", semantic.MaxBody+1), 413, `longer than 1 MiB`},
	} {
		req, err := http.NewRequest(one.method, "http://aios"+one.path, strings.NewReader(one.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", one.method, one.path, err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != one.status || !strings.Contains(string(got), one.want) {
			t.Errorf("%s %s: %d %s %v; want %d with %s", one.method, one.path, resp.StatusCode, got, err, one.status, one.want)
		}
	}
}

// TestTooLongIsAnswered: who sends all of a question before it reads sees that it was
// too long.
func TestTooLongIsAnswered(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			Serve(c, echo)
			c.Close()
		}
	}()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const body = 8 << 20
	if _, err := fmt.Fprintf(c, "POST /v1/put HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", body, strings.Repeat("x", body)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%+v, %v", resp, err)
	}
}

// wire is a connection of which all that is sent is known beforehand.
type wire struct {
	io.Reader
	bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error) { return w.Reader.Read(p) }

func serve(t testing.TB, sent string, ask Ask) string {
	w := &wire{Reader: strings.NewReader(sent)}
	Serve(w, ask)
	return w.String()
}

func TestOneAfterTheOther(t *testing.T) {
	one := "POST /v1/put HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
	chunked := "POST /v1/get HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
	expects := "POST /v1/list HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n{}"
	got := serve(t, one+chunked+expects+one, echo)
	r := bufio.NewReader(strings.NewReader(got))
	for _, want := range []string{"put", "get", "list"} {
		resp, err := http.ReadResponse(r, nil)
		for err == nil && resp.StatusCode == http.StatusContinue {
			resp, err = http.ReadResponse(r, nil)
		}
		if err != nil {
			t.Fatalf("%s: %v in %q", want, err, got)
		}
		body, _ := io.ReadAll(resp.Body)
		if !strings.Contains(string(body), `"op":"`+want+`"`) {
			t.Errorf("%s: %s", want, body)
		}
	}
	if rest, _ := io.ReadAll(r); len(rest) != 0 {
		t.Errorf("after the one that was to be the last: %q", rest)
	}
}

func TestEveryRefusalHasAStatus(t *testing.T) {
	for code, want := range map[errdefs.Code]int{
		errdefs.VersionConflict: 409, errdefs.QuotaExceeded: 507, errdefs.NotFound: 404, errdefs.CapabilityRevoked: 403,
		errdefs.ServiceDown: 503, errdefs.HostIO: 500,
	} {
		got := serve(t, "POST /v1/put HTTP/1.1\r\nHost: a\r\n\r\n", func(string, []byte) (json.RawMessage, error) { return nil, errdefs.New(code, "no") })
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", want)) {
			t.Errorf("%s: %.40q, want %d", code, got, want)
		}
	}
}

// FuzzServe sends anything: every answer is one, and there are no more of them
// than there could be questions.
func FuzzServe(f *testing.F) {
	f.Add("POST /v1/put HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
	f.Add("GET /v1/stats HTTP/1.0\r\n\r\nGET /")
	f.Add("POST /v1/get HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n{}")
	f.Add("POST /v1/get HTTP/1.1\r\nHost: a\r\nContent-Length: -2\r\n\r\n")
	f.Fuzz(func(t *testing.T, sent string) {
		asked := 0
		got := serve(t, sent, func(op string, body []byte) (json.RawMessage, error) {
			asked++
			if len(body) > semantic.MaxBody || strings.Contains(op, "/") {
				t.Errorf("asked %q with %d bytes", op, len(body))
			}
			return echo(op, body)
		})
		r := bufio.NewReader(strings.NewReader(got))
		answers := 0
		for {
			if _, err := r.Peek(1); err != nil {
				break
			}
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("%q was answered with %q: %v", sent, got, err)
			}
			if resp.StatusCode == http.StatusContinue {
				continue
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || !json.Valid(body) {
				t.Fatalf("%q was answered with %q: %v", sent, body, err)
			}
			answers++
		}
		if answers < asked || answers > len(sent) {
			t.Errorf("%d answers to %d questions", answers, asked)
		}
	})
}
