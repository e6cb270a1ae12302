package aios

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
)

// Memory is a way to semantic memory; docs/semantic-memory.md says what it does.
// The zero value is ready to use.
type Memory struct {
	// Namespace is that of calls that name none.
	Namespace string
	client    http.Client
}

// Remember returns a way to a namespace of semantic memory.
func Remember(namespace string) *Memory {
	m := &Memory{Namespace: namespace}
	m.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(root, "semantic.sock"))
	}}
	return m
}

// Item is something to be remembered.
type Item struct {
	Namespace string    `json:"namespace,omitempty"`
	ID        string    `json:"id,omitempty"`
	Text      string    `json:"text,omitempty"`
	Vector    []float32 `json:"vector,omitempty"`
	Tags      []string  `json:"tags,omitempty"`
	// TTL is in seconds; 0 is for ever.
	TTL     float64  `json:"ttl,omitempty"`
	Parents []string `json:"parents,omitempty"`
	// IfVersion has it written only if the item has that version; 0: if there is
	// none.
	IfVersion *int64 `json:"if_version,omitempty"`
}

// Found is an item as it is remembered.
type Found struct {
	Namespace  string    `json:"namespace"`
	ID         string    `json:"id"`
	Version    int64     `json:"version"`
	Text       string    `json:"text"`
	Vector     []float32 `json:"vector"`
	Tags       []string  `json:"tags"`
	Created    float64   `json:"created"`
	Updated    float64   `json:"updated"`
	Expires    float64   `json:"expires"`
	Provenance struct {
		Agent, Name, Domain, Capability string
	} `json:"provenance"`
	// Score is what a search ranked it by.
	Score float64 `json:"score"`
}

// Query is what to search for.
type Query struct {
	Namespace string    `json:"namespace,omitempty"`
	Text      string    `json:"text,omitempty"`
	Vector    []float32 `json:"vector,omitempty"`
	K         int       `json:"k,omitempty"`
	Mode      string    `json:"mode,omitempty"`
	Tags      []string  `json:"tags,omitempty"`
	Exact     bool      `json:"exact,omitempty"`
	Weight    *float64  `json:"weight,omitempty"`
}

// Ask puts a question: an operation and its parameters. The answer goes into out,
// unless that is nil.
func (m *Memory) Ask(ctx context.Context, op string, params, out any) error {
	body, err := json.Marshal(params)
	if err != nil {
		return &Error{Message: err.Error()}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://aios/v1/"+op, bytes.NewReader(body))
	if err != nil {
		return &Error{Message: err.Error()}
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return outside(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return outside(err)
	}
	if resp.StatusCode != http.StatusOK {
		var refused struct {
			Error struct{ Code, Message, Fix string }
		}
		if json.Unmarshal(raw, &refused) != nil || refused.Error.Code == "" {
			return &Error{Message: strings.TrimSpace(string(raw))}
		}
		return &Error{Code: refused.Error.Code, Message: refused.Error.Message, Fix: refused.Error.Fix}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return &Error{Message: err.Error()}
	}
	return nil
}

// Put writes an item, and returns its ID and version.
func (m *Memory) Put(ctx context.Context, it Item) (id string, version int64, err error) {
	if it.Namespace == "" {
		it.Namespace = m.Namespace
	}
	var done struct {
		ID      string
		Version int64
	}
	err = m.Ask(ctx, "put", it, &done)
	return done.ID, done.Version, err
}

// Get returns those of the items that are there.
func (m *Memory) Get(ctx context.Context, ids ...string) ([]Found, error) {
	var out struct{ Items []Found }
	err := m.Ask(ctx, "get", map[string]any{"namespace": m.Namespace, "ids": ids}, &out)
	return out.Items, err
}

// Search returns the items that are nearest, the best first.
func (m *Memory) Search(ctx context.Context, q Query) ([]Found, error) {
	if q.Namespace == "" {
		q.Namespace = m.Namespace
	}
	var out struct{ Hits []Found }
	err := m.Ask(ctx, "search", q, &out)
	return out.Hits, err
}

// Delete removes items, and returns how many there were.
func (m *Memory) Delete(ctx context.Context, ids ...string) (int, error) {
	var out struct{ Deleted int }
	err := m.Ask(ctx, "delete", map[string]any{"namespace": m.Namespace, "ids": ids}, &out)
	return out.Deleted, err
}
