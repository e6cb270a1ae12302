package aios

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// TestMemory speaks to a server that answers as the kernel does.
func TestMemory(t *testing.T) {
	old := root
	root = t.TempDir()
	defer func() { root = old }()
	l, err := net.Listen("unix", filepath.Join(root, "semantic.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var asked map[string]any
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = nil
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		switch r.URL.Path {
		case "/v1/put":
			w.Write([]byte(`{"id":"x","version":7}`))
		case "/v1/search":
			w.Write([]byte(`{"hits":[{"namespace":"notes","id":"x","version":7,"text":"cat","score":0.5,"provenance":{"agent":"a1"}}]}`))
		case "/v1/delete":
			w.Write([]byte(`{"deleted":2}`))
		default:
			w.WriteHeader(http.StatusForbidden)
			w.Write([]byte(`{"error":{"code":"CAPABILITY_DENIED","message":"no","fix":"ask for it"}}`))
		}
	})}
	go server.Serve(l)
	defer server.Close()
	m := Remember("notes")
	zero := int64(0)
	id, version, err := m.Put(t.Context(), Item{Text: "cat", Vector: []float32{1, 2}, IfVersion: &zero})
	if id != "x" || version != 7 || err != nil {
		t.Errorf("put: %q, %d, %v", id, version, err)
	}
	if asked["namespace"] != "notes" || asked["if_version"] != 0.0 || len(asked["vector"].([]any)) != 2 {
		t.Errorf("it asked %v", asked)
	}
	hits, err := m.Search(t.Context(), Query{Namespace: "*", Text: "cat", K: 3})
	if err != nil || len(hits) != 1 || hits[0].Text != "cat" || hits[0].Score != 0.5 || hits[0].Provenance.Agent != "a1" {
		t.Errorf("search: %+v, %v", hits, err)
	}
	if asked["namespace"] != "*" || asked["k"] != 3.0 {
		t.Errorf("it asked %v", asked)
	}
	if n, err := m.Delete(t.Context(), "x", "y"); n != 2 || err != nil {
		t.Errorf("delete: %d, %v", n, err)
	}
	_, err = m.Get(t.Context(), "x")
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != "CAPABILITY_DENIED" || e.Fix != "ask for it" {
		t.Errorf("get: %v", err)
	}
	server.Close()
	if _, err = m.Get(t.Context(), "x"); err == nil {
		t.Error("nobody listens, and that is no error")
	}
}
