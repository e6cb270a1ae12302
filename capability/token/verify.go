package token

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// Skew is by how much the issuer's clock may be ahead of the verifier's: a
// token that is valid from now on is accepted so much earlier. Expiry has no
// tolerance; the verifier's clock decides.
const Skew = 30 * time.Second

// Policy is what a verifier holds a token against.
type Policy struct {
	// Trust returns the public key with an ID, if tokens of it are accepted.
	Trust func(KeyID) (ed25519.PublicKey, bool)
	// Audience is the verifier's own name.
	Audience string
	// Now is the wall clock's time.
	Now time.Time
	// Revoked reports whether the block with an ID, and with it every token
	// that has it, was revoked; nil: none was.
	Revoked func(ID) bool
}

// Verify checks every signature of t, that none of its blocks was revoked, and
// that it is for this audience and this time. The errors are TOKEN_INVALID,
// TOKEN_REVOKED, AUDIENCE_MISMATCH and TOKEN_EXPIRED, in this order.
func Verify(t Token, p Policy) (*Authority, error) {
	if len(t.blocks) == 0 {
		return nil, malformed("there is none")
	}
	refuse := func(code errdefs.Code, detail, fix string) (*Authority, error) {
		return nil, errdefs.New(code, detail, errdefs.Op("verify token"), errdefs.Resource("%s", t.ID()), errdefs.Fix("%s", fix))
	}
	root := &t.blocks[0].block
	key, ok := p.Trust(root.Issuer)
	if !ok || len(key) != ed25519.PublicKeySize || KeyIDOf(key) != root.Issuer {
		return refuse(errdefs.TokenInvalid, fmt.Sprintf("it was issued with the key %s, which is not trusted here", root.Issuer),
			"trust that key, or have a token issued here")
	}
	if i := t.checkSignatures(key); i >= 0 {
		return refuse(errdefs.TokenInvalid, fmt.Sprintf("the signature of block %d is wrong", i), "use the whole token as it was issued")
	}
	a := &Authority{Issuer: root.Issuer, Subject: root.Subject, Issued: root.Issued, Sealed: t.Sealed(), blocks: t.Blocks()}
	for i := range a.blocks {
		a.add(&a.blocks[i])
	}
	if err := a.notRevoked(p.Revoked); err != nil {
		return nil, err
	}
	for _, b := range a.blocks {
		if b.Audience != nil && !slices.Contains(b.Audience, "*") && !slices.Contains(b.Audience, p.Audience) {
			return refuse(errdefs.AudienceMismatch, fmt.Sprintf("it is for %q, not for %.128q", b.Audience, p.Audience),
				"use it where it is meant for, or have one issued for here")
		}
	}
	if err := a.timely(p.Now); err != nil {
		return nil, err
	}
	return a, nil
}

// checkSignatures returns the number of the first block that is not signed as
// it should be, -1 when there is none. The end of the token counts as a block.
func (t Token) checkSignatures(key ed25519.PublicKey) int {
	prev := make([]byte, ed25519.SignatureSize)
	for i := range t.blocks {
		b := &t.blocks[i]
		if !ed25519.Verify(key, message(i, prev, b.payload, b.next), b.sig) {
			return i
		}
		key, prev = b.next, b.sig
	}
	var ok bool
	if t.seal != nil {
		ok = ed25519.Verify(key, sealMessage(prev), t.seal)
	} else {
		public := ed25519.NewKeyFromSeed(t.secret).Public().(ed25519.PublicKey)
		ok = bytes.Equal(public, key)
	}
	if !ok {
		return len(t.blocks)
	}
	return -1
}

// Authority is what a verified token allows. It is immutable.
type Authority struct {
	// ID is that of the token; IDs are those of all its blocks, the last of
	// which it is.
	ID  ID
	IDs []ID
	// Issuer is the key it was signed with, Subject whom it is for.
	Issuer  KeyID
	Subject string
	// Issued, NotBefore and Expires are in whole seconds.
	Issued, NotBefore, Expires time.Time
	Sealed                     bool

	blocks []Block
}

// add takes the next block into account.
func (a *Authority) add(b *Block) {
	a.ID = b.ID
	a.IDs = append(a.IDs, b.ID)
	if b.NotBefore.After(a.NotBefore) {
		a.NotBefore = b.NotBefore
	}
	if a.Expires.IsZero() || !b.Expires.IsZero() && b.Expires.Before(a.Expires) {
		a.Expires = b.Expires
	}
}

// Recheck says whether the token is valid still: for connections that outlive
// one request.
func (a *Authority) Recheck(now time.Time, revoked func(ID) bool) error {
	if err := a.notRevoked(revoked); err != nil {
		return err
	}
	return a.timely(now)
}

func (a *Authority) timely(now time.Time) error {
	refuse := func(code errdefs.Code, detail, fix string) error {
		return errdefs.New(code, detail, errdefs.Op("verify token"), errdefs.Resource("%s", a.ID), errdefs.Fix("%s", fix))
	}
	begin := a.Issued
	if a.NotBefore.After(begin) {
		begin = a.NotBefore
	}
	switch {
	case now.Add(Skew).Before(begin):
		return refuse(errdefs.TokenInvalid, "it is valid from "+begin.Format(time.RFC3339)+" on; here it is "+now.UTC().Format(time.RFC3339),
			"wait, or set the clocks of both hosts")
	case !now.Before(a.Expires):
		return refuse(errdefs.TokenExpired, "it expired at "+a.Expires.Format(time.RFC3339), "obtain a new one; check the clocks of both hosts")
	case a.blocks[0].Expires.Sub(a.Issued) > MaxLifetime+time.Second:
		return refuse(errdefs.TokenInvalid, "it was issued for longer than 366 days", "have it issued anew")
	}
	return nil
}

func (a *Authority) notRevoked(revoked func(ID) bool) error {
	if revoked == nil {
		return nil
	}
	for _, id := range a.IDs {
		if revoked(id) {
			return errdefs.New(errdefs.TokenRevoked, "it was revoked, as "+id.String(), errdefs.Op("verify token"),
				errdefs.Resource("%s", a.ID), errdefs.Fix("obtain a new one from whoever issued it"))
		}
	}
	return nil
}

// Allow says whether the token allows an operation on an agent; agent is nil
// for one that is not about an agent. The error is PERMISSION_DENIED.
func (a *Authority) Allow(op string, agent *Agent) error {
	refuse := func(detail, fix string) error {
		return errdefs.New(errdefs.Denied, detail, errdefs.Op(op), errdefs.Resource("token %s", a.ID), errdefs.Fix("%s", fix))
	}
	for i := range a.blocks {
		b := &a.blocks[i]
		if (i == 0 || b.Ops != nil) && !slices.Contains(b.Ops, "*") && !slices.Contains(b.Ops, op) {
			return refuse(a.place(i)+" does not allow the operation", "use a token for "+op)
		}
		if agent == nil || i > 0 && b.Agents == nil {
			continue
		}
		if !slices.ContainsFunc(b.Agents, func(p string) bool { return agent.matches(p, a.IDs[i]) }) {
			return refuse(a.place(i)+" does not extend to this agent", "use a token for this agent")
		}
	}
	return nil
}

// AllowSpawn is Allow for the start of an agent with this name and labels, which
// will count as the token's own. live returns how many agents live that were
// spawned with the token that ends at a block, or with one made from it.
func (a *Authority) AllowSpawn(name string, labels map[string]string, live func(ID) int) error {
	if err := a.Allow(OpSpawn, &Agent{Name: name, Labels: labels, Tokens: a.IDs}); err != nil {
		return err
	}
	for i, b := range a.blocks {
		if b.MaxAgents > 0 && live(b.ID) >= int(b.MaxAgents) {
			return errdefs.New(errdefs.AgentLimit, fmt.Sprintf("%s allows %d agents at once", a.place(i), b.MaxAgents), errdefs.Op(OpSpawn),
				errdefs.Resource("token %s", a.ID), errdefs.Fix("end one of the agents that were spawned with it"))
		}
	}
	return nil
}

// AllowGrants says whether the token may give all of this in one request. What
// the specs have of a limit adds up, and must fit into the token's grants; a
// second request starts anew. The error is RIGHTS_EXCEED.
func (a *Authority) AllowGrants(specs ...capability.Spec) error {
	for i := range a.blocks {
		b := &a.blocks[i]
		if i > 0 && b.Grants == nil {
			continue
		}
		if spec, why := exceeding(b.Grants, specs); why != "" {
			return errdefs.New(errdefs.RightsExceed, a.place(i)+" does not give "+spec+why, errdefs.Op("grant"),
				errdefs.Resource("token %s", a.ID), errdefs.Fix("ask for no more than one of its grants: %q", b.Grants))
		}
	}
	return nil
}

// place names a block in an error.
func (a *Authority) place(i int) string {
	if i == 0 {
		return "what was issued"
	}
	return fmt.Sprintf("restriction %d", i)
}
