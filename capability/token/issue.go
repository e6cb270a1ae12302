package token

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// MaxLifetime is the longest time from issue to expiry. It bounds how long a
// revocation has to be remembered.
const MaxLifetime = 366 * 24 * time.Hour

// Claims are what a new token gives. What they do not mention it does not give.
type Claims struct {
	// Subject says whom the token is for, in the audit trail.
	Subject string
	// Audience are the names of the daemons that accept it; "*": any that
	// trusts the issuer. At least one.
	Audience []string
	// NotBefore is when it becomes valid; zero: at once. Expires is when it
	// ends; required.
	NotBefore, Expires time.Time
	// Ops are operations, or "*".
	Ops []string
	// Agents are patterns, see ParsePattern.
	Agents []string
	// Grants are what it may give to agents.
	Grants []capability.Spec
	// MaxAgents is how many agents that were spawned with it may live at once;
	// 0: no bound.
	MaxAgents uint32
}

// Issue signs a token.
func Issue(key *Key, c Claims, now time.Time) (Token, error) {
	refuse := func(detail, fix string) (Token, error) {
		return Token{}, errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("issue token"), errdefs.Fix("%s", fix))
	}
	switch {
	case !validSubject(c.Subject):
		return refuse("the subject is missing, longer than 128 bytes, or not printable ASCII", "say whom the token is for")
	case len(c.Audience) == 0:
		return refuse("the audience is missing", "name the daemons that shall accept it, or * for any that trusts this key")
	case c.Expires.IsZero():
		return refuse("the expiry is missing", "say how long the token shall be valid")
	case !c.Expires.After(now):
		return refuse("it would have expired already", "choose an expiry in the future")
	case c.Expires.Sub(now) > MaxLifetime:
		return refuse("it would be valid for longer than 366 days", "choose an earlier expiry and issue anew in time")
	case !c.NotBefore.IsZero() && !c.NotBefore.Before(c.Expires):
		return refuse("it would expire before it is valid", "choose a later expiry")
	}
	b, err := restrict(Restriction{
		NotBefore: c.NotBefore, Expires: c.Expires, Audience: c.Audience,
		Ops: c.Ops, Agents: c.Agents, Grants: c.Grants, MaxAgents: c.MaxAgents,
	})
	if err != nil {
		return Token{}, errdefs.Wrap(err, errdefs.InvalidArgument, "issue token")
	}
	for _, op := range b.Ops {
		if op != "*" && !slices.ContainsFunc(ops, func(o Op) bool { return o.Name == op }) {
			return refuse(fmt.Sprintf("there is no operation %.40q", op), "choose out of "+opNames()+", or *")
		}
	}
	rand.Read(b.ID[:]) // Never fails since Go 1.24.
	b.Issuer, b.Subject, b.Issued = key.ID(), c.Subject, second(now)
	return Token{}.extend(b, key.private, nil)
}

func opNames() string {
	var b bytes.Buffer
	for i, o := range ops {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(o.Name)
	}
	return b.String()
}

// Restriction is what a block adds to a token. A nil list or zero value leaves
// a thing as it was; an empty list takes all of it away.
type Restriction struct {
	NotBefore, Expires time.Time
	Audience           []string
	Ops                []string
	Agents             []string
	Grants             []capability.Spec
	MaxAgents          uint32
}

// Attenuate returns a token that allows what t does and r as well, and nothing
// else. It needs no key and asks nobody. A sealed token is refused.
func Attenuate(t Token, r Restriction) (Token, error) {
	if err := t.open("attenuate token"); err != nil {
		return Token{}, err
	}
	if len(t.blocks) == MaxBlocks {
		return Token{}, errdefs.New(errdefs.InvalidArgument, "it has 16 blocks already", errdefs.Op("attenuate token"),
			errdefs.Resource("%s", t.ID()), errdefs.Fix("attenuate the token that it was made from"))
	}
	b, err := restrict(r)
	if err != nil {
		return Token{}, errdefs.Wrap(err, errdefs.InvalidArgument, "attenuate token")
	}
	return t.extend(b, ed25519.NewKeyFromSeed(t.secret), t.blocks[len(t.blocks)-1].sig)
}

// Seal returns t without the secret that attenuating takes. What it allows
// stays the same.
func Seal(t Token) (Token, error) {
	if err := t.open("seal token"); err != nil {
		return Token{}, err
	}
	key := ed25519.NewKeyFromSeed(t.secret)
	s := Token{blocks: t.blocks, seal: ed25519.Sign(key, sealMessage(t.blocks[len(t.blocks)-1].sig))}
	return s, s.fits()
}

func (t Token) open(op string) error {
	switch {
	case len(t.blocks) == 0:
		return errdefs.New(errdefs.InvalidArgument, "there is no token", errdefs.Op(op), errdefs.Fix("parse or issue one"))
	case t.seal != nil:
		return errdefs.New(errdefs.Sealed, "it is sealed", errdefs.Op(op), errdefs.Resource("%s", t.ID()),
			errdefs.Fix("attenuate the token before it is sealed"))
	}
	return nil
}

// extend signs b with key and appends it.
func (t Token) extend(b Block, key ed25519.PrivateKey, prev []byte) (Token, error) {
	public, next, err := ed25519.GenerateKey(nil)
	if err != nil {
		return Token{}, errdefs.Wrap(err, errdefs.Internal, "make key")
	}
	if prev == nil {
		prev = make([]byte, ed25519.SignatureSize)
	}
	s := signed{payload: b.encode(len(t.blocks) == 0), block: b, next: public}
	s.sig = ed25519.Sign(key, message(len(t.blocks), prev, s.payload, public))
	out := Token{blocks: append(slices.Clone(t.blocks), s), secret: next.Seed()}
	return out, out.fits()
}

// fits refuses a token that nobody would parse.
func (t Token) fits() error {
	if n := len(t.Text()); n > MaxText {
		return errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("the token would have %d bytes", n), errdefs.Op("make token"),
			errdefs.Fix("at most %d are allowed: name fewer agents and grants", MaxText))
	}
	return nil
}

// restrict checks a restriction and brings it into its one form.
func restrict(r Restriction) (Block, error) {
	b := Block{NotBefore: second(r.NotBefore), Expires: second(r.Expires), MaxAgents: r.MaxAgents,
		Audience: canonical(r.Audience), Ops: canonical(r.Ops)}
	for _, t := range []time.Time{b.NotBefore, b.Expires} {
		if !t.IsZero() && (t.Unix() <= 0 || t.Unix() > maxUnix) {
			return b, errdefs.New(errdefs.InvalidArgument, "a time is out of range", errdefs.Fix("choose one between 1970 and 9999"))
		}
	}
	for _, s := range b.Audience {
		if !validAudience(s) {
			return b, errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("%.80q is not the name of an audience", s),
				errdefs.Fix("write 1 to 128 letters, digits and ._/:@-, or * for any"))
		}
	}
	for _, s := range b.Ops {
		if !validOp(s) {
			return b, errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("%.80q is not an operation", s),
				errdefs.Fix("choose out of %s, or *", opNames()))
		}
	}
	if r.Agents != nil {
		b.Agents = []string{}
	}
	for _, s := range r.Agents {
		p, err := ParsePattern(s)
		if err != nil {
			return b, err
		}
		b.Agents = append(b.Agents, p)
	}
	b.Agents = canonical(b.Agents)
	if r.Grants != nil {
		b.Grants = []string{}
	}
	for _, spec := range r.Grants {
		text := spec.String()
		if _, err := capability.ParseSpec(text); err != nil {
			return b, err
		}
		b.Grants = append(b.Grants, text)
	}
	b.Grants = canonical(b.Grants)
	for _, list := range [][]string{b.Audience, b.Ops, b.Agents, b.Grants} {
		if len(list) > maxItems {
			return b, errdefs.New(errdefs.InvalidArgument, "a list has more than 256 items", errdefs.Fix("name fewer"))
		}
	}
	return b, nil
}

// second is t in UTC, in whole seconds.
func second(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return time.Unix(t.Unix(), 0).UTC()
}
