// Package capability is the authority of agents: who may do what, to what, how
// much of it, and until when.
//
// A Capability names an object, carries rights and limits, may be lent for a
// time, and is held by one agent. It is also a node of one tree per Space:
// what is derived from it hangs below it, in whosever table, and dies with it.
// An agent speaks of what it holds by a Handle, a number that means something
// in its own table only, is counted up and is never given twice.
//
// Each of the ideas has been proven elsewhere. The derivation tree, minting
// with a badge and revoking a whole subtree are seL4's; the handle as an index
// into the holder's own table and rights that only shrink are Fuchsia's; that
// taking back is a property of the edge between giver and receiver and not of
// the object, EROS's; that a resource is bought from the giver's own share,
// KeyKOS's space bank.
//
// Key types: Space is the tree and every table; Capability a node; Spec what
// one says, as a value and as text; Change how a derived one differs; Door is
// told, once, when a capability ends; Effective is all that one holder may do.
//
// Rules. What is derived never exceeds what it is derived from: rights are a
// subset, the object lies within, the lease ends no later, and the limits of
// all that lives below a capability sum up to no more than its own. An agent
// acts on what it holds and on what was derived from that. When Revoke has
// returned, nothing of what it revoked is Live, every Door of it has returned,
// and Changed has been called for every holder that lost by it.
//
// Units: bytes, pieces, thousandths of a processor, weights from 1 to 10000,
// bytes per second, operations per second. Times are durations on the
// monotonic clock, which does not count while the host sleeps.
//
// Locks, the outer first:
//
//	Space.emit       while Options.Audit is called
//	table.notify     while Options.Changed is called
//	  Space.mu       the tree, budgets, leases; never held across a callback
//	    table.mu     the handles of one holder
//	Capability.mu    the doors of one capability; never held across a callback
//
// Live takes none of them, Lookup and List only table.mu to read. Callbacks
// (Door, Audit, Changed) may read the Space; they must not change it.
//
// The package imports errdefs, abi and ktime only: it knows neither gVisor nor
// the bus nor the daemon, and enforces nothing itself.
package capability

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// ID names a capability over all domains: "c" and twelve hexadecimal digits.
// It gives no authority.
type ID string

// newID returns an ID and its number.
func newID() (ID, uint64) {
	var b [8]byte
	rand.Read(b[2:]) // Never fails since Go 1.24.
	var text [13]byte
	text[0] = 'c'
	hex.Encode(text[1:], b[2:])
	return ID(text[:]), binary.BigEndian.Uint64(b[:])
}

// number is what the digits of an ID stand for.
func (id ID) number() uint64 {
	n, _ := strconv.ParseUint(string(id[1:]), 16, 64)
	return n
}

// IsID reports whether s has the form of an ID.
func IsID(s string) bool {
	return len(s) == 13 && s[0] == 'c' && strings.Trim(s[1:], "0123456789abcdef") == ""
}

// Handle is what a holder calls a capability by. Zero is no handle.
type Handle uint64

// forever is the end of a capability that has no lease.
const forever = math.MaxInt64

// Capability is a node of the tree. It is safe to keep for ever and to use
// from any goroutine: what changes is read atomically.
type Capability struct {
	s      *Space
	id     ID
	number uint64 // of the ID
	table  *table // of the holder; nil if the holder is in another domain
	handle Handle
	parent *Capability
	remote string
	origin ID
	depth  int

	// until is when it ends, on the clock of the Space: forever without a
	// lease, 0 once it is dead or has been moved away. The one word that Live
	// reads.
	until atomic.Int64
	// end says why until is 0; it is set first.
	end  atomic.Pointer[ending]
	spec atomic.Pointer[Spec]
	// carved is how much of each limit its live children have. Written under
	// Space.mu, and only if the limit exists.
	carved [kinds]atomic.Uint64

	mu    sync.Mutex
	doors doorSet // +checklocks:mu

	// The rest is guarded by Space.mu.

	// own is when the lease that was given to this very capability ends,
	// forever if none was; expiry is the earliest own on the way to the root.
	own    int64
	expiry int64
	moved  bool // it has left the table; its heir is a child
	dead   bool
	heir   bool              // it is a copy's of its parent's holder
	lease  *ktime.ExactTimer // nil if it never had one of its own

	firstChild *Capability
	lastChild  *Capability
	prev       *Capability // sibling
	next       *Capability // sibling
}

// ending is why capabilities ended, shared by all that ended together.
type ending struct {
	code   errdefs.Code
	what   string // "revoked by operator", "its lease ended"
	reason string
	root   ID // of what was taken back; "" if there were many
	batch  *batch
}

// ID returns the name of c.
func (c *Capability) ID() ID { return c.id }

// Spec returns what c says now. Its Lease is the one last given, not what is
// left of it; see Expires.
func (c *Capability) Spec() Spec { return *c.spec.Load() }

// Object returns the object of c.
func (c *Capability) Object() Object { return c.spec.Load().Object }

// Rights returns the rights of c, whether or not it is still live.
func (c *Capability) Rights() abi.Rights { return c.spec.Load().Rights }

// Holder returns the agent that holds c, or the one that moved it away; "" if
// it is in another domain.
func (c *Capability) Holder() string {
	if c.table == nil {
		return ""
	}
	return c.table.holder
}

// Handle returns what the holder calls c by; 0 if it is in another domain.
func (c *Capability) Handle() Handle { return c.handle }

// Parent returns what c was derived from, or nil if it was minted.
func (c *Capability) Parent() *Capability { return c.parent }

// Depth returns how many derivations lie between c and what was minted.
func (c *Capability) Depth() int { return c.depth }

// Remote returns "domain/agent" if the holder is in another domain, else "".
func (c *Capability) Remote() string { return c.remote }

// Origin returns the ID of the capability in another domain that c is the
// image of, or "".
func (c *Capability) Origin() ID { return c.origin }

// Live reports whether c may be used: it has been neither revoked nor moved
// away, and its lease runs.
func (c *Capability) Live() bool {
	u := c.until.Load()
	return u == forever || c.s.before(u)
}

// Allows reports whether c is live and holds every right of want.
func (c *Capability) Allows(want abi.Rights) bool {
	return c.Live() && c.spec.Load().Rights.Has(want)
}

// Err returns nil while c is live, and then why it is not.
func (c *Capability) Err() error {
	if c.Live() {
		return nil
	}
	res := errdefs.Resource("%s (%s)", c.id, c.Object())
	e := c.end.Load()
	if e == nil {
		return errdefs.New(errdefs.LeaseExpired, "its lease has ended", res,
			errdefs.Fix("ask whoever gave it to give it again, with a longer lease, and to renew it in time"))
	}
	detail := e.what
	if e.root != "" && e.root != c.id {
		detail = "what it was derived from, " + string(e.root) + ", " + e.what
	} else {
		detail = "it " + detail
	}
	if e.reason != "" {
		detail += ": " + e.reason
	}
	return errdefs.New(e.code, detail, res, errdefs.Fix("ask whoever gave it to give it again"))
}

// Expires returns how long c will live if nobody renews or revokes it; ok is
// false if it has no lease.
func (c *Capability) Expires() (left time.Duration, ok bool) {
	switch u := c.until.Load(); u {
	case forever:
		return 0, false
	case 0:
		return 0, true
	default:
		return time.Duration(max(0, u-c.s.now())), true
	}
}
