package token

import (
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// The worlds that random tokens and questions are made of.
var (
	worldOps      = []string{OpList, OpSpawn, OpSignal, "*"}
	worldAudience = []string{"host-a", "host-b", "*"}
	worldAgents   = []string{"*", "own", "name:a*", "name:ab", "name:b", "id:a000000000001", "label:t=x*", "label:t=y"}
	worldGrants   = []string{"fs:/:ro", "fs:/d:rw", "fs:/d:rw,quota=1M", "fs:/d/e:ro", "mem:self,bytes=1M", "mem:self,bytes=3M", "mem:self",
		"net:*", "net:loopback:connect", "svc:*,sealed", "svc:db,badge=3", "svc:db,lease=1m"}
	worldNames = []string{"a", "ab", "b"}
)

func drawList(t *rapid.T, name string, world []string) []string {
	switch rapid.IntRange(0, 5).Draw(t, name+" kind") {
	case 0:
		return nil
	case 1:
		return []string{}
	}
	return rapid.SliceOfN(rapid.SampledFrom(world), 1, 4).Draw(t, name)
}

func drawSpecs(t *rapid.T, name string) []capability.Spec {
	list := drawList(t, name, worldGrants)
	if list == nil {
		return nil
	}
	out := []capability.Spec{}
	for _, text := range list {
		s, err := capability.ParseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func drawTime(t *rapid.T, name string) time.Time {
	if rapid.Bool().Draw(t, name+" unset") {
		return time.Time{}
	}
	return start.Add(time.Duration(rapid.IntRange(1, 100).Draw(t, name)) * time.Second)
}

func drawRestriction(t *rapid.T) Restriction {
	return Restriction{
		NotBefore: drawTime(t, "not before"), Expires: drawTime(t, "expires"),
		Audience: drawList(t, "audience", worldAudience), Ops: drawList(t, "ops", worldOps),
		Agents: drawList(t, "agents", worldAgents), Grants: drawSpecs(t, "grants"),
		MaxAgents: uint32(rapid.IntRange(0, 3).Draw(t, "max agents")),
	}
}

// TestChildIsWithinParent: whatever a token allows, the token that it was made
// from allows.
func TestChildIsWithinParent(t *testing.T) {
	allowed := 0
	rapid.Check(t, func(t *rapid.T) {
		r := drawRestriction(t)
		c := Claims{Subject: "s", Audience: append(r.Audience, "host-a"), NotBefore: r.NotBefore, Expires: start.Add(100 * time.Second),
			Ops: append(r.Ops, OpList), Agents: append(r.Agents, "own", "name:*"), Grants: r.Grants, MaxAgents: r.MaxAgents}
		if !c.NotBefore.Before(c.Expires) {
			c.NotBefore = time.Time{}
		}
		tok, err := Issue(testKey(1), c, start)
		if err != nil {
			t.Fatal(err)
		}
		chain := []Token{tok}
		for range rapid.IntRange(1, 4).Draw(t, "depth") {
			next, err := Attenuate(chain[len(chain)-1], drawRestriction(t))
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, next)
		}
		for range 20 {
			p := Policy{Trust: trustOne, Audience: rapid.SampledFrom(worldAudience[:2]).Draw(t, "host"),
				Now: start.Add(time.Duration(rapid.IntRange(-40, 110).Draw(t, "now")) * time.Second)}
			revoked := rapid.SampledFrom(append([]ID{{}, {1}, {2}}, chain[len(chain)-1].ID())).Draw(t, "revoked")
			p.Revoked = func(id ID) bool { return id == revoked }
			agent := &Agent{ID: rapid.SampledFrom([]string{"a000000000001", "a000000000002"}).Draw(t, "id"),
				Name:   rapid.SampledFrom(worldNames).Draw(t, "name"),
				Labels: map[string]string{"t": rapid.SampledFrom([]string{"x1", "y", ""}).Draw(t, "label")}}
			if i := rapid.IntRange(-1, len(chain)-1).Draw(t, "spawned with"); i >= 0 {
				for _, b := range chain[i].Blocks() {
					agent.Tokens = append(agent.Tokens, b.ID)
				}
			}
			op := rapid.SampledFrom(worldOps[:3]).Draw(t, "op")
			ask := drawSpecs(t, "ask")
			live := rapid.IntRange(0, 3).Draw(t, "live")
			var before [4]bool
			for i, tok := range chain {
				var now [4]bool
				if a, err := Verify(tok, p); err == nil {
					now = [4]bool{true, a.Allow(op, agent) == nil, a.AllowGrants(ask...) == nil,
						a.AllowSpawn(agent.Name, agent.Labels, func(ID) int { return live }) == nil}
				}
				for q := range now {
					if i > 0 && now[q] && !before[q] {
						t.Fatalf("block %d widens (question %d): %+v", i, q, tok.Blocks())
					}
					if i > 0 && now[q] {
						allowed++
					}
				}
				before = now
			}
		}
	})
	if allowed == 0 {
		t.Error("no child ever allowed anything: nothing was tried")
	}
}

// TestOnlyWholeTokens puts tokens together out of the parts of others. Only
// those that were made verify.
func TestOnlyWholeTokens(t *testing.T) {
	var pool []Token
	for range 2 {
		root := issue(t, claims(t))
		one, two := attenuate(t, root, Restriction{MaxAgents: 1}), attenuate(t, root, Restriction{MaxAgents: 2})
		three := attenuate(t, one, Restriction{MaxAgents: 1})
		pool = append(pool, root, one, two, three)
	}
	foreign, err := Issue(testKey(2), claims(t), start)
	must(t, err)
	claimed := foreign.blocks[0].block
	claimed.Issuer = testKey(1).ID()
	forged, err := Token{}.extend(claimed, testKey(2).private, nil)
	must(t, err)
	made := map[string]bool{}
	for _, tok := range slices.Clone(pool) {
		sealed, err := Seal(tok)
		must(t, err)
		pool = append(pool, sealed)
	}
	for _, tok := range pool {
		made[tok.Text()] = true
		authority(t, tok)
	}
	pool = append(pool, foreign, forged, attenuate(t, foreign, Restriction{}))
	var parts []signed
	for _, tok := range pool {
		parts = append(parts, tok.blocks...)
	}
	found := 0
	try := func(t rapid.TB, tok Token) {
		again, err := Parse(tok.Text())
		if err == nil {
			_, err = Verify(again, policy())
		}
		if err == nil && !made[tok.Text()] {
			t.Fatalf("put together: %+v", tok.Blocks())
		}
		if err != nil && !errors.Is(err, errdefs.TokenInvalid) {
			t.Fatal(err)
		}
		if err == nil {
			found++
		}
	}
	for _, tok := range pool {
		for _, end := range pool {
			for n := 1; n <= len(tok.blocks); n++ { // Blocks dropped, another end.
				try(t, Token{tok.blocks[:n], end.secret, end.seal})
			}
			for i := range tok.blocks { // One block left out, or twice.
				try(t, Token{slices.Delete(slices.Clone(tok.blocks), i, i+1), end.secret, end.seal})
				try(t, Token{slices.Insert(slices.Clone(tok.blocks), i, tok.blocks[i]), end.secret, end.seal})
			}
		}
		for i := range tok.blocks { // One block from elsewhere.
			for _, p := range parts {
				blocks := slices.Clone(tok.blocks)
				blocks[i] = p
				try(t, Token{blocks, tok.secret, tok.seal})
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		end := rapid.SampledFrom(pool).Draw(t, "end")
		var blocks []signed
		for range rapid.IntRange(1, 4).Draw(t, "n") {
			b := parts[rapid.IntRange(0, len(parts)-1).Draw(t, "part")]
			if rapid.IntRange(0, 4).Draw(t, "swap") == 0 { // Another key announced.
				b.next = parts[rapid.IntRange(0, len(parts)-1).Draw(t, "key")].next
			}
			blocks = append(blocks, b)
		}
		try(t, Token{blocks, end.secret, end.seal})
	})
	if found == 0 {
		t.Error("the tokens that were made were never tried")
	}
}

// TestEveryBitCounts changes each bit of a token, each character of its text,
// and its length.
func TestEveryBitCounts(t *testing.T) {
	open := attenuate(t, issue(t, claims(t)), Restriction{Ops: []string{OpList}, Agents: []string{"own"}})
	sealed, err := Seal(open)
	must(t, err)
	for _, tok := range []Token{open, sealed} {
		text := tok.Text()
		refused := func(what, changed string) {
			t.Helper()
			got, err := Parse(changed)
			if err == nil {
				_, err = Verify(got, policy())
			}
			if !errors.Is(err, errdefs.TokenInvalid) {
				t.Fatalf("%s: %v", what, err)
			}
		}
		raw, err := encoding.DecodeString(text[len(Prefix):])
		must(t, err)
		for i := range raw {
			for bit := range 8 {
				raw[i] ^= 1 << bit
				refused("bit flipped", Prefix+encoding.EncodeToString(raw))
				raw[i] ^= 1 << bit
			}
		}
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		for i := range text {
			for _, c := range []string{"\n", "=", " ", "A", "_", "\x00"} {
				if text[i:i+1] != c {
					refused("character replaced", text[:i]+c+text[i+1:])
				}
			}
			refused("character left out", text[:i]+text[i+1:])
			refused("line break", text[:i]+"\n"+text[i:])
		}
		for _, c := range alphabet { // The last one carries spare bits.
			if changed := text[:len(text)-1] + string(c); changed != text {
				refused("last character", changed)
			}
			refused("longer", text+string(c))
		}
	}
}

func FuzzParse(f *testing.F) {
	tok := issue(f, claims(f))
	for _, tok := range []Token{tok, attenuate(f, tok, Restriction{Ops: []string{OpList}, NotBefore: start, MaxAgents: 7})} {
		sealed, err := Seal(tok)
		must(f, err)
		f.Add(tok.Text())
		f.Add(sealed.Text())
	}
	f.Add(Prefix)
	f.Add(Prefix + strings.Repeat("A", 200))
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := Parse(text)
		if err != nil {
			if !errors.Is(err, errdefs.TokenInvalid) {
				t.Fatalf("the error has no code: %v", err)
			}
			return
		}
		if again := tok.Text(); again != text {
			t.Fatalf("%q is another text of %q", text, again)
		}
		if n := len(tok.Blocks()); n < 1 || n > MaxBlocks {
			t.Fatalf("%d blocks", n)
		}
		p := policy()
		p.Trust = func(KeyID) (ed25519.PublicKey, bool) { return testKey(1).Public(), true }
		// The fuzzer's workers issue tokens of their own: what verifies has to
		// say what they say, since nobody else has the key.
		if a, err := Verify(tok, p); err == nil && (a.Subject != "ci" || !a.Issued.Equal(start)) {
			t.Fatalf("forged: %+v", a)
		}
	})
}

// FuzzPayload gives the reader of blocks what no issuer would sign.
func FuzzPayload(f *testing.F) {
	tok := attenuate(f, issue(f, claims(f)), Restriction{Grants: []capability.Spec{}, Audience: []string{"*"}})
	f.Add(tok.blocks[0].payload, true)
	f.Add(tok.blocks[1].payload, false)
	f.Fuzz(func(t *testing.T, payload []byte, authority bool) {
		b, err := parsePayload(payload, authority)
		if err != nil {
			if !errors.Is(err, errdefs.TokenInvalid) {
				t.Fatalf("the error has no code: %v", err)
			}
			return
		}
		if again := b.encode(authority); string(again) != string(payload) {
			t.Fatalf("%x is another form of %x", payload, again)
		}
	})
}
