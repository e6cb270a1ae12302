package store

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// maxRequest bounds a semantic.Request on its way from the daemon: the question,
// and who asks.
const maxRequest = 2 * semantic.MaxBody

// Serve answers the questions that the daemon sends over l, each a
// semantic.Request by HTTP, until end is closed. Then it finishes what it has begun.
func Serve(l net.Listener, s *Store, end <-chan struct{}) error {
	server := &http.Server{Handler: http.HandlerFunc(s.serveHTTP)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-end
		server.Shutdown(context.Background())
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return errdefs.Wrap(err, errdefs.HostIO, "serve memory")
	}
	<-done
	return nil
}

func (s *Store) serveHTTP(w http.ResponseWriter, r *http.Request) {
	var ans semantic.Answer
	var req semantic.Request
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err == nil && len(body) > maxRequest {
		err = errdefs.New(errdefs.InvalidArgument, "the question is too long", errdefs.Op("memory"))
	}
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	if err == nil {
		ans.Reply, err = s.Do(r.Context(), &req)
	}
	if err != nil {
		ans.Error = semantic.FailureOf(err)
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(ans) // Who asked may be gone.
}
