package control

import (
	"time"

	"aios.dev/aios/capability"
)

// MethodFabric does something with regions of memory: FabricRequest, FabricReply.
// With the request for one that is persistent comes its file.
const MethodFabric = "fabric"

// What a FabricRequest asks for.
const (
	FabricCreate   = "create"
	FabricList     = "list"
	FabricShow     = "show"
	FabricShare    = "share"
	FabricUnshare  = "unshare"
	FabricRemove   = "remove"
	FabricSeal     = "seal"
	FabricSnapshot = "snapshot"
	FabricRollback = "rollback"
	FabricFork     = "fork"
	FabricDiff     = "diff"
	FabricDrop     = "drop"
	FabricOpen     = "open"
	FabricCommit   = "commit"
)

// FabricRequest asks for something to be done with the region Name. Which of the
// other fields count depends on Op.
type FabricRequest struct {
	Op   string `json:"op"`
	Name string `json:"name,omitempty"`
	// Agent is an ID: create, fork: the owner, "" for the domain; share, unshare:
	// who gets or loses it; list: only what it holds.
	Agent  string   `json:"agent,omitempty"`
	Size   uint64   `json:"size,omitempty"`
	Labels []string `json:"labels,omitempty"`
	Fixed  bool     `json:"fixed,omitempty"`
	Keep   int      `json:"keep,omitempty"`
	// Zeros: create, fork: who loses it reads zeros, instead of a fault.
	Zeros bool `json:"zeros,omitempty"`
	// Persistent: create: keep it in the file that comes with the request.
	Persistent bool `json:"persistent,omitempty"`
	// Rights and Lease are of a share; "" is to read.
	Rights string        `json:"rights,omitempty"`
	Lease  time.Duration `json:"lease,omitempty"`
	// Version is that of rollback, fork, drop, diff and open; Other is what diff compares
	// with; 0 is what the region is now.
	Version int    `json:"version,omitempty"`
	Other   int    `json:"other,omitempty"`
	Comment string `json:"comment,omitempty"`
	// As is the name of a fork.
	As    string `json:"as,omitempty"`
	Actor Actor  `json:"actor"`
}

// FabricReply is the answer.
type FabricReply struct {
	Regions  []Region        `json:"regions,omitempty"`
	Versions []RegionVersion `json:"versions,omitempty"`
	// Stored are the versions that its file keeps; a commit makes one.
	Stored []StoredVersion `json:"stored,omitempty"`
	// Cap is what a share made; Caps are those to a region that is shown.
	Cap  *Cap  `json:"cap,omitempty"`
	Caps []Cap `json:"caps,omitempty"`
	// Count is how many capabilities an unshare or a removal ended.
	Count int `json:"count,omitempty"`
	// Spans are the pages that differ, and Bytes how many that is in all, if there
	// were too many spans, too.
	Spans [][2]uint64 `json:"spans,omitempty"`
	Bytes uint64      `json:"bytes,omitempty"`
}

// Region describes a region.
type Region struct {
	Name     string        `json:"name"`
	Owner    string        `json:"owner,omitempty"` // ID; "" is the domain
	Size     uint64        `json:"size"`
	Addr     uint64        `json:"addr,omitempty"` // 0: wherever there is room
	Labels   []string      `json:"labels,omitempty"`
	Keep     int           `json:"keep,omitempty"`
	Lineage  string        `json:"lineage,omitempty"` // NAME@VERSION it was forked from
	Digest   string        `json:"digest,omitempty"`  // of what is sealed
	Age      time.Duration `json:"age"`
	Resident uint64        `json:"resident"`
	Charged  uint64        `json:"charged"`
	Mapped   uint64        `json:"mapped"` // by all memories together
	Versions int           `json:"versions,omitempty"`
	Rights   string        `json:"rights,omitempty"` // of the agent whose regions are listed
	Cap      capability.ID `json:"cap,omitempty"`
	Zeros    bool          `json:"zeros,omitempty"`
	Members  int           `json:"members,omitempty"` // who take part in the synchronisation
	Waiters  int           `json:"waiters,omitempty"`
	// Persistent ones are kept in a file, of which Committed is the last version;
	// Dirty is how many bytes may differ from that.
	Persistent bool   `json:"persistent,omitempty"`
	Committed  uint64 `json:"committed,omitempty"`
	Dirty      uint64 `json:"dirty,omitempty"`
}

// StoredVersion is a version in the file of a region.
type StoredVersion struct {
	Number  uint64 `json:"number"`
	Comment string `json:"comment,omitempty"`
	Time    int64  `json:"time"`  // nanoseconds since 1970
	Bytes   uint64 `json:"bytes"` // that are not zero, in pages
}

// RegionVersion describes a version of a region.
type RegionVersion struct {
	Number  int           `json:"number"`
	Comment string        `json:"comment,omitempty"`
	Age     time.Duration `json:"age"`
	Charged uint64        `json:"charged"`
}
