// Package socket is what is spoken on the socket of semantic memory inside of
// agents: HTTP/1.1 with JSON, so that curl and the standard libraries of most
// languages speak it.
//
//	POST /v1/OPERATION   the parameters as a JSON object; the answer is one
//	GET  /v1/OPERATION   for those that need none
//
// What is refused is answered with {"error": {"code", "message", "fix"}} and a
// status that says about what it was: 4xx what the caller can change, 503 what may
// work later.
//
// Serve does one question after the other; what is sent meanwhile waits. It keeps no
// more than semantic.MaxBody bytes of one, and nothing between them; of a longer one
// it throws away what still comes, up to a bound, so that the answer is seen. Who
// asks is known to whoever calls it: nothing that is sent tells.
//
// The package imports semantic, errdefs and net/http, of which it uses the reader
// of requests: the connections of agents have no time-outs, and need none, since
// each belongs to one agent, which has so many and no more.
package socket

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// Prefix is of the paths that are served.
const Prefix = "/v1/"

const (
	// room is what a request may have beside its body.
	room = 32 << 10
	// wasteMost is how much more of a request is read than is taken: a client sees no
	// answer before it has sent all, or the connection's end as it sends.
	wasteMost = 16 << 20
)

// Ask answers a question; what it returns is the JSON of the answer.
type Ask func(op string, body []byte) (json.RawMessage, error)

// bounded reads up to n bytes, which whoever reads a request sets.
type bounded struct {
	r io.Reader
	n int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n <= 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p[:min(len(p), b.n)])
	b.n -= n
	return n, err
}

var errTooLong = errdefs.New(errdefs.InvalidArgument, "the question is longer than 1 MiB", errdefs.Op("memory"), errdefs.Fix("split it"))

// Serve answers what comes over a connection until it ends.
func Serve(conn io.ReadWriter, ask Ask) error {
	in := &bounded{r: conn}
	r := bufio.NewReaderSize(in, 4096)
	for {
		in.n = semantic.MaxBody + room
		req, err := http.ReadRequest(r)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return answer(conn, http.StatusBadRequest, true, failure(errdefs.New(errdefs.InvalidArgument, "it is no request of HTTP/1.1", errdefs.Op("memory"))))
		}
		end, err := one(conn, req, ask)
		if errors.Is(err, errTooLong) {
			if err = answer(conn, http.StatusRequestEntityTooLarge, true, failure(errTooLong)); err == nil {
				io.Copy(io.Discard, io.LimitReader(conn, wasteMost))
			}
			return err
		}
		if err != nil || end {
			return err
		}
	}
}

// one answers one request; end says that it was the last.
func one(conn io.Writer, req *http.Request, ask Ask) (end bool, err error) {
	body, err := read(conn, req)
	switch {
	case errors.Is(err, errTooLong):
		return true, err
	case err != nil: // What follows cannot be told from the rest of the body.
		return true, answer(conn, http.StatusRequestEntityTooLarge, true, failure(err))
	}
	end = req.Close
	op, ok := strings.CutPrefix(req.URL.Path, Prefix)
	switch {
	case !ok || op == "" || strings.Contains(op, "/"):
		return end, answer(conn, http.StatusNotFound, end, failure(errdefs.New(errdefs.InvalidArgument, "there is nothing at this path", errdefs.Op("memory"),
			errdefs.Resource("%.80q", req.URL.Path), errdefs.Fix("ask for /v1/OPERATION, where OPERATION is one of "+strings.Join(semantic.Ops(), ", ")))))
	case req.Method != http.MethodPost && req.Method != http.MethodGet:
		return end, answer(conn, http.StatusMethodNotAllowed, end, failure(errdefs.New(errdefs.InvalidArgument, "this method is not served", errdefs.Op("memory"),
			errdefs.Resource("%.20q", req.Method), errdefs.Fix("use POST"))))
	}
	out, err := ask(op, body)
	if err != nil {
		return end, answer(conn, status(err), end, failure(err))
	}
	return end, answer(conn, http.StatusOK, end, out)
}

// read reads the body of a request.
func read(conn io.Writer, req *http.Request) ([]byte, error) {
	if req.ContentLength > semantic.MaxBody {
		return nil, errTooLong
	}
	if strings.EqualFold(req.Header.Get("Expect"), "100-continue") {
		if _, err := io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return nil, err
		}
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, semantic.MaxBody+1))
	switch {
	case err != nil:
		return nil, errdefs.New(errdefs.InvalidArgument, "the body of the question is not whole", errdefs.Op("memory"))
	case len(body) > semantic.MaxBody:
		return nil, errTooLong
	}
	return body, nil
}

func answer(conn io.Writer, status int, end bool, body []byte) error {
	how := "keep-alive"
	if end {
		how = "close"
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n",
		status, http.StatusText(status), len(body)+1, how)
	_, err := conn.Write(append(append([]byte(head), body...), '\n'))
	return err
}

func failure(err error) json.RawMessage {
	f := semantic.FailureOf(errdefs.Public(err))
	b, _ := json.Marshal(map[string]*semantic.Failure{"error": f}) // Of strings.
	return b
}

// status is about what an error is.
func status(err error) int {
	switch errdefs.CodeOf(err) {
	case errdefs.InvalidArgument, errdefs.CapabilityInvalid:
		return http.StatusBadRequest
	case errdefs.CapabilityDenied, errdefs.CapabilityRevoked, errdefs.LeaseExpired, errdefs.Denied:
		return http.StatusForbidden
	case errdefs.NotFound:
		return http.StatusNotFound
	case errdefs.VersionConflict, errdefs.AlreadyExists:
		return http.StatusConflict
	case errdefs.QuotaExceeded, errdefs.DiskFull, errdefs.BudgetExhausted:
		return http.StatusInsufficientStorage
	case errdefs.RateLimited:
		return http.StatusTooManyRequests
	case errdefs.DaemonUnreachable, errdefs.Timeout, errdefs.BreakerOpen, errdefs.Cancelled, errdefs.ServiceDown:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
