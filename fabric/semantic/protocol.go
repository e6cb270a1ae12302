package semantic

import (
	"encoding/json"
)

// Operations. Each takes parameters of the type that is named, as JSON, and
// answers with the type that follows.
const (
	OpPut        = "put"        // Put: Put
	OpGet        = "get"        // Get: Items
	OpSearch     = "search"     // Search: Hits
	OpList       = "list"       // List: Items
	OpDelete     = "delete"     // Delete: Deleted
	OpBatch      = "batch"      // Batch: Batched
	OpHistory    = "history"    // History: Items
	OpNamespaces = "namespaces" // Nothing: Namespaces
	OpStats      = "stats"      // Nothing: Stats
)

// Ops are all of them.
func Ops() []string {
	return []string{OpPut, OpGet, OpSearch, OpList, OpDelete, OpBatch, OpHistory, OpNamespaces, OpStats}
}

// Writes says whether an operation changes something.
func Writes(op string) bool { return op == OpPut || op == OpDelete || op == OpBatch }

// The descriptors that the service's process inherits.
const (
	DirFD    = 3 // the directory of the store
	SocketFD = 4 // what it listens at
	LifeFD   = 5 // a pipe that ends when the daemon does
)

// Request is a question to the service.
type Request struct {
	Caller Caller          `json:"caller"`
	Op     string          `json:"op"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// Reply is the answer to one that was not refused.
type Reply struct {
	Body json.RawMessage `json:"body"`
	// Usage is what the caller has in the store now.
	Usage Usage `json:"usage"`
	// Seen and Changed are the number of items that were shown, and that were
	// written or removed.
	Seen    int `json:"seen,omitempty"`
	Changed int `json:"changed,omitempty"`
	// Namespace is that of the items; the first, of a transaction.
	Namespace string `json:"namespace,omitempty"`
}

// Usage is what somebody has written that is still there: items, and bytes of
// text, vectors and tags with their kept versions.
type Usage struct {
	Items uint64 `json:"items"`
	Bytes uint64 `json:"bytes"`
}

// Item is something that is remembered.
type Item struct {
	Namespace string    `json:"namespace"`
	ID        string    `json:"id"`
	Version   int64     `json:"version"`
	Text      string    `json:"text"`
	Vector    []float32 `json:"vector,omitempty"`
	Tags      []string  `json:"tags,omitempty"`
	// Created and Updated are seconds since 1970; Expires as well, 0 for never.
	Created    float64    `json:"created"`
	Updated    float64    `json:"updated"`
	Expires    float64    `json:"expires,omitempty"`
	Provenance Provenance `json:"provenance"`
}

// Provenance is where a version of an item comes from. The service says so.
type Provenance struct {
	Agent      string   `json:"agent,omitempty"`
	Name       string   `json:"name,omitempty"`
	Domain     string   `json:"domain,omitempty"`
	Capability string   `json:"capability,omitempty"`
	Parents    []Parent `json:"parents,omitempty"`
}

// Parent is an item that another was made from, as it was then.
type Parent struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	Version   int64  `json:"version"`
}

// Put adds an item, or puts it in the place of the one with that ID.
type Put struct {
	Namespace string `json:"namespace"`
	// ID is the service's to choose if it is empty.
	ID     string    `json:"id,omitempty"`
	Text   string    `json:"text,omitempty"`
	Vector []float32 `json:"vector,omitempty"`
	Tags   []string  `json:"tags,omitempty"`
	// TTL is in seconds; 0 is for ever.
	TTL float64 `json:"ttl,omitempty"`
	// Parents are IDs of items of the same namespace, or NAMESPACE:ID.
	Parents []string `json:"parents,omitempty"`
	// IfVersion has it done only if the item has that version; 0: if there is none.
	IfVersion *int64 `json:"if_version,omitempty"`
}

// PutDone is what became of a Put.
type PutDone struct {
	ID      string `json:"id"`
	Version int64  `json:"version"`
}

// Get asks for items by their IDs. Those that are not there are missing in the
// answer.
type Get struct {
	Namespace string   `json:"namespace"`
	IDs       []string `json:"ids"`
	Vectors   bool     `json:"vectors,omitempty"`
}

// Items is an answer.
type Items struct {
	Items []Item `json:"items"`
	// Next is where the next page begins, "" behind the last.
	Next string `json:"next,omitempty"`
}

// List asks for the items of a namespace in the order of their IDs.
type List struct {
	Namespace string   `json:"namespace"`
	Tags      []string `json:"tags,omitempty"`
	After     string   `json:"after,omitempty"`
	Limit     int      `json:"limit,omitempty"` // 100 if it is 0
	Vectors   bool     `json:"vectors,omitempty"`
}

// Modes of a search.
const (
	ModeHybrid = "hybrid" // if there is a text and a vector
	ModeText   = "text"
	ModeVector = "vector"
)

// Search asks for the items that are nearest.
type Search struct {
	// Namespace is a name or a pattern; "" is all that the caller may read.
	Namespace string    `json:"namespace,omitempty"`
	Text      string    `json:"text,omitempty"`
	Vector    []float32 `json:"vector,omitempty"`
	K         int       `json:"k,omitempty"` // 10 if it is 0
	// Mode is what counts, by default what was given.
	Mode string `json:"mode,omitempty"`
	// Tags must all be on an item.
	Tags []string `json:"tags,omitempty"`
	// Exact compares with every vector.
	Exact bool `json:"exact,omitempty"`
	// Weight is how much of a hybrid rank is the vector's, from 0 to 1; 0.5 if
	// it is left out.
	Weight  *float64 `json:"weight,omitempty"`
	Vectors bool     `json:"vectors,omitempty"`
}

// Hit is an item that was found.
type Hit struct {
	Item
	// Score is what it is ranked by: BM25, the cosine, or what was made of both
	// ranks. Cosine and BM25 are those that it was found by.
	Score  float64  `json:"score"`
	Cosine *float64 `json:"cosine,omitempty"`
	BM25   *float64 `json:"bm25,omitempty"`
}

// Hits is the answer to a Search, the best first.
type Hits struct {
	Hits []Hit `json:"hits"`
}

// Delete removes items, with their earlier versions.
type Delete struct {
	Namespace string   `json:"namespace"`
	IDs       []string `json:"ids,omitempty"`
	// All removes whatever the caller may remove of the namespace.
	All       bool   `json:"all,omitempty"`
	IfVersion *int64 `json:"if_version,omitempty"`
}

// Deleted is the answer to a Delete.
type Deleted struct {
	Deleted int `json:"deleted"`
}

// Change is one of a transaction: one of the two.
type Change struct {
	Put    *Put    `json:"put,omitempty"`
	Delete *Delete `json:"delete,omitempty"`
}

// Namespace is that of the item that is changed.
func (c *Change) Namespace() string {
	if c.Put != nil {
		return c.Put.Namespace
	}
	return c.Delete.Namespace
}

// Batch makes changes, all or none.
type Batch struct {
	Changes []Change `json:"changes"`
}

// Batched is the answer: one for each change.
type Batched struct {
	Results []ChangeDone `json:"results"`
}

// ChangeDone is what became of one change.
type ChangeDone struct {
	Put    *PutDone `json:"put,omitempty"`
	Delete *Deleted `json:"delete,omitempty"`
}

// History asks for the versions of an item that are kept, the latest first.
type History struct {
	Namespace string `json:"namespace"`
	ID        string `json:"id"`
	Vectors   bool   `json:"vectors,omitempty"`
}

// Namespace is what a caller may know of one.
type Namespace struct {
	Name       string `json:"namespace"`
	Items      int    `json:"items"`
	Dimensions int    `json:"dimensions,omitempty"`
	Rights     string `json:"rights,omitempty"`
}

// Namespaces is an answer.
type Namespaces struct {
	Namespaces []Namespace `json:"namespaces"`
}

// Stats is how the store is.
type Stats struct {
	Protocol int    `json:"protocol"`
	Limits   Limits `json:"limits"`
	// Usage is the caller's; for an operator everybody's.
	Usage Usage `json:"usage"`
	// The rest is for operators.
	Agents   []AgentUsage `json:"agents,omitempty"`
	Store    int64        `json:"store_bytes,omitempty"` // on disk
	Vectors  int          `json:"vectors,omitempty"`
	Unlinked int          `json:"unlinked,omitempty"` // not in a graph yet: compared one by one
	OpenedIn float64      `json:"opened_in,omitempty"`
}

// AgentUsage is what an agent has written that is still there.
type AgentUsage struct {
	Agent string `json:"agent"`
	Name  string `json:"name,omitempty"`
	Usage
}
