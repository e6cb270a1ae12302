package token

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

var start = time.Unix(1_800_000_000, 0).UTC()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testKey(n byte) *Key {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = n
	return newKey(seed)
}

func specs(t testing.TB, texts ...string) []capability.Spec {
	t.Helper()
	out := []capability.Spec{}
	for _, text := range texts {
		s, err := capability.ParseSpec(text)
		must(t, err)
		out = append(out, s)
	}
	return out
}

func claims(t testing.TB) Claims {
	return Claims{
		Subject: "ci", Audience: []string{"host-a", "host-b"}, Expires: start.Add(time.Hour),
		Ops: []string{OpList, OpSpawn, OpSignal}, Agents: []string{"build-*", "own", "label:team=ml*"},
		Grants:    specs(t, "fs:/data:rw,quota=1G", "mem:self,bytes=512M", "net:loopback", "cpu:self,weight=100"),
		MaxAgents: 5,
	}
}

func issue(t testing.TB, c Claims) Token {
	t.Helper()
	tok, err := Issue(testKey(1), c, start)
	must(t, err)
	return tok
}

func attenuate(t testing.TB, tok Token, r Restriction) Token {
	t.Helper()
	out, err := Attenuate(tok, r)
	must(t, err)
	return out
}

func trustOne(id KeyID) (ed25519.PublicKey, bool) {
	return testKey(1).Public(), id == testKey(1).ID()
}

func policy() Policy { return Policy{Trust: trustOne, Audience: "host-a", Now: start} }

func authority(t testing.TB, tok Token) *Authority {
	t.Helper()
	again, err := Parse(tok.Text())
	must(t, err)
	a, err := Verify(again, policy())
	must(t, err)
	return a
}

func wantCode(t *testing.T, what string, err error, code errdefs.Code) {
	t.Helper()
	if code == "" && err != nil || code != "" && !errors.Is(err, code) {
		t.Errorf("%s: %v, want %q", what, err, code)
	}
	if err != nil && errdefs.FixOf(err) == "" {
		t.Errorf("%s: the error names no fix: %v", what, err)
	}
}

func TestIssueAndVerify(t *testing.T) {
	tok := issue(t, claims(t))
	if !strings.HasPrefix(tok.Text(), "aios1.") || strings.Contains(fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, tok), tok.Text()[20:40]) {
		t.Errorf("prints %v", tok)
	}
	a := authority(t, tok)
	if a.ID != tok.ID() || len(a.IDs) != 1 || a.Subject != "ci" || a.Issuer != testKey(1).ID() ||
		!a.Issued.Equal(start) || !a.Expires.Equal(start.Add(time.Hour)) || a.Sealed {
		t.Errorf("verified %+v", a)
	}
	b := tok.Blocks()[0]
	if fmt.Sprint(b.Agents) != "[label:team=ml* name:build-* own]" || b.Grants[1] != "fs:/data:rw,quota=1G" || b.MaxAgents != 5 {
		t.Errorf("says %+v", b)
	}
	id, err := ParseID(a.ID.String())
	if err != nil || id != a.ID {
		t.Errorf("ID %v read back as %v, %v", a.ID, id, err)
	}
	_, err = ParseID("T" + a.ID.String()[1:])
	wantCode(t, "bad ID", err, errdefs.InvalidArgument)
}

func TestIssueRefuses(t *testing.T) {
	for name, change := range map[string]func(*Claims){
		"no subject":     func(c *Claims) { c.Subject = "" },
		"long subject":   func(c *Claims) { c.Subject = strings.Repeat("x", 129) },
		"no audience":    func(c *Claims) { c.Audience = nil },
		"bad audience":   func(c *Claims) { c.Audience = []string{"a b"} },
		"no expiry":      func(c *Claims) { c.Expires = time.Time{} },
		"expired":        func(c *Claims) { c.Expires = start },
		"too long":       func(c *Claims) { c.Expires = start.Add(MaxLifetime + time.Second) },
		"late":           func(c *Claims) { c.NotBefore = c.Expires },
		"bad operation":  func(c *Claims) { c.Ops = []string{"Spawn!"} },
		"no operation":   func(c *Claims) { c.Ops = []string{"spwan"} },
		"bad agent":      func(c *Claims) { c.Agents = []string{"name:a b"} },
		"bad label":      func(c *Claims) { c.Agents = []string{"label:x"} },
		"bad grant":      func(c *Claims) { c.Grants = []capability.Spec{{}} },
		"too many items": func(c *Claims) { c.Agents = manyNames(257) },
		"too big":        func(c *Claims) { c.Agents = manyNames(250) },
		"out of range":   func(c *Claims) { c.NotBefore = time.Unix(-5, 0) },
	} {
		c := claims(t)
		change(&c)
		_, err := Issue(testKey(1), c, start)
		if err == nil || errdefs.CodeOf(err) == errdefs.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyNames(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("name:a-long-name-of-an-agent-%d", i))
	}
	return out
}

func TestVerifyRefuses(t *testing.T) {
	tok := issue(t, claims(t))
	child := attenuate(t, tok, Restriction{Expires: start.Add(time.Minute), Audience: []string{"host-a"}, NotBefore: start.Add(10 * time.Second)})
	at := func(p Policy, d time.Duration) Policy { p.Now = start.Add(d); return p }
	revoking := func(id ID) Policy {
		p := policy()
		p.Revoked = func(i ID) bool { return i == id }
		return p
	}
	elsewhere, other := policy(), policy()
	elsewhere.Audience = "host-b"
	other.Audience = "host-c"
	strangers := policy()
	strangers.Trust = func(KeyID) (ed25519.PublicKey, bool) { return nil, false }
	swapped := policy()
	swapped.Trust = func(KeyID) (ed25519.PublicKey, bool) { return testKey(2).Public(), true }
	both := revoking(tok.ID())
	both.Audience, both.Now = "host-c", start.Add(2*time.Hour)
	for name, tc := range map[string]struct {
		t    Token
		p    Policy
		want errdefs.Code
	}{
		"good":                      {tok, policy(), ""},
		"second audience":           {tok, elsewhere, ""},
		"wrong audience":            {tok, other, errdefs.AudienceMismatch},
		"audience pinned":           {child, elsewhere, errdefs.AudienceMismatch},
		"last second":               {tok, at(policy(), time.Hour-time.Nanosecond), ""},
		"expired":                   {tok, at(policy(), time.Hour), errdefs.TokenExpired},
		"child, last second":        {child, at(policy(), time.Minute-1), ""},
		"child expired":             {child, at(policy(), time.Minute), errdefs.TokenExpired},
		"clock behind":              {tok, at(policy(), -Skew), ""},
		"clock too far behind":      {tok, at(policy(), -Skew-1), errdefs.TokenInvalid},
		"child, not yet":            {child, at(policy(), 10*time.Second-Skew-1), errdefs.TokenInvalid},
		"child, soon":               {child, at(policy(), 10*time.Second-Skew), ""},
		"revoked":                   {tok, revoking(tok.ID()), errdefs.TokenRevoked},
		"parent revoked":            {child, revoking(tok.ID()), errdefs.TokenRevoked},
		"child revoked":             {child, revoking(child.ID()), errdefs.TokenRevoked},
		"child revoked, parent not": {tok, revoking(child.ID()), ""},
		"revoked before all else":   {tok, both, errdefs.TokenRevoked},
		"issuer not trusted":        {tok, strangers, errdefs.TokenInvalid},
		"another key in its place":  {tok, swapped, errdefs.TokenInvalid},
		"none":                      {Token{}, policy(), errdefs.TokenInvalid},
	} {
		a, err := Verify(tc.t, tc.p)
		wantCode(t, name, err, tc.want)
		if (a == nil) != (err != nil) {
			t.Errorf("%s: authority %v beside error %v", name, a, err)
		}
	}
	a := authority(t, tok)
	wantCode(t, "recheck", a.Recheck(start, nil), "")
	wantCode(t, "recheck late", a.Recheck(start.Add(time.Hour), nil), errdefs.TokenExpired)
	wantCode(t, "recheck revoked", a.Recheck(start, func(ID) bool { return true }), errdefs.TokenRevoked)
}

// A key that is its owner's can sign what Issue would not; Verify still bounds it.
func TestVerifyBoundsLifetime(t *testing.T) {
	b := Block{ID: ID{1}, Issuer: testKey(1).ID(), Issued: start, Subject: "x", Audience: []string{"*"}, Ops: []string{"*"},
		Expires: start.Add(2 * MaxLifetime)}
	tok, err := Token{}.extend(b, testKey(1).private, nil)
	must(t, err)
	_, err = Verify(tok, policy())
	wantCode(t, "two years", err, errdefs.TokenInvalid)
	short := attenuate(t, tok, Restriction{Expires: start.Add(time.Hour)})
	_, err = Verify(short, policy())
	wantCode(t, "two years, attenuated", err, errdefs.TokenInvalid)
}

func TestAllow(t *testing.T) {
	tok := issue(t, claims(t))
	child := attenuate(t, tok, Restriction{Ops: []string{OpSignal, OpImage}, Agents: []string{"*"}})
	nobody := attenuate(t, tok, Restriction{Agents: []string{}})
	nothing := attenuate(t, tok, Restriction{Ops: []string{}})
	own := attenuate(t, tok, Restriction{Agents: []string{"own"}})
	everything := issue(t, Claims{Subject: "root", Audience: []string{"*"}, Expires: start.Add(time.Hour), Ops: []string{"*"}, Agents: []string{"*"}})
	bare := issue(t, Claims{Subject: "x", Audience: []string{"*"}, Expires: start.Add(time.Hour)})
	build := &Agent{ID: "a0123456789ab", Name: "build-7"}
	db := &Agent{ID: "a0123456789ac", Name: "db"}
	mine := &Agent{ID: "a0123456789ad", Name: "x", Tokens: []ID{tok.ID()}}
	childs := &Agent{ID: "a0123456789ae", Name: "y", Tokens: []ID{tok.ID(), own.ID()}}
	ml := &Agent{ID: "a0123456789af", Labels: map[string]string{"team": "mlops"}}
	for name, tc := range map[string]struct {
		t     Token
		op    string
		agent *Agent
		want  errdefs.Code
	}{
		"by name":               {tok, OpSignal, build, ""},
		"by label":              {tok, OpSignal, ml, ""},
		"own":                   {tok, OpSignal, mine, ""},
		"own by a child":        {tok, OpSignal, childs, ""},
		"another's":             {tok, OpSignal, db, errdefs.Denied},
		"operation":             {tok, OpLogs, build, errdefs.Denied},
		"no such operation":     {tok, "", build, errdefs.Denied},
		"child":                 {child, OpSignal, build, ""},
		"child widens agents":   {child, OpSignal, db, errdefs.Denied},
		"child widens ops":      {child, OpImage, nil, errdefs.Denied},
		"child drops ops":       {child, OpList, build, errdefs.Denied},
		"no agents":             {nobody, OpList, build, errdefs.Denied},
		"no agents, none meant": {nobody, OpList, nil, ""},
		"no ops":                {nothing, OpList, build, errdefs.Denied},
		"own: the child's":      {own, OpSignal, childs, ""},
		"own: the parent's":     {own, OpSignal, mine, errdefs.Denied},
		"everything":            {everything, OpDaemon, nil, ""},
		"everything, an agent":  {everything, OpAttach, db, ""},
		"bare":                  {bare, OpList, nil, errdefs.Denied},
	} {
		wantCode(t, name, authority(t, tc.t).Allow(tc.op, tc.agent), tc.want)
	}
	live := func(n int) func(ID) int { return func(ID) int { return n } }
	wantCode(t, "spawn", authority(t, tok).AllowSpawn("anything", nil, live(4)), "")
	wantCode(t, "spawn too many", authority(t, tok).AllowSpawn("anything", nil, live(5)), errdefs.AgentLimit)
	fewer := attenuate(t, tok, Restriction{MaxAgents: 2})
	wantCode(t, "spawn too many of the child", authority(t, fewer).AllowSpawn("a", nil, func(id ID) int {
		if id == fewer.ID() {
			return 2
		}
		return 3
	}), errdefs.AgentLimit)
	wantCode(t, "spawn nothing", authority(t, nothing).AllowSpawn("a", nil, live(0)), errdefs.Denied)
}

func TestAllowGrants(t *testing.T) {
	tok := issue(t, claims(t))
	child := attenuate(t, tok, Restriction{Grants: specs(t, "fs:/data/in:ro", "fs:/etc:rw", "mem:self,bytes=600M", "svc:*,badge=7,sealed,lease=1m")})
	svc := issue(t, Claims{Subject: "x", Audience: []string{"*"}, Expires: start.Add(time.Hour), Grants: specs(t, "svc:*,badge=7,sealed,lease=1m", "mem:self,bytes=1G,count=100")})
	none := attenuate(t, tok, Restriction{Grants: []capability.Spec{}})
	idle := issue(t, Claims{Subject: "x", Audience: []string{"*"}, Expires: start.Add(time.Hour), Grants: specs(t, "cpu:self,reserve=0.2,priority=30,idle=1")})
	for name, tc := range map[string]struct {
		t    Token
		ask  []string
		want errdefs.Code
	}{
		"nothing":            {tok, nil, ""},
		"the same":           {tok, []string{"fs:/data:rw,quota=1G"}, ""},
		"a part":             {tok, []string{"fs:/data/x:read+write,quota=1M,inodes=5"}, ""},
		"elsewhere":          {tok, []string{"fs:/data/x:ro,at=/y"}, ""},
		"read only":          {tok, []string{"fs:/data:ro"}, ""},
		"all at once":        {tok, []string{"fs:/data:ro", "mem:self,bytes=1M", "net:loopback:connect", "cpu:self,weight=50"}, ""},
		"another path":       {tok, []string{"fs:/database:ro"}, errdefs.RightsExceed},
		"above":              {tok, []string{"fs:/:ro"}, errdefs.RightsExceed},
		"no quota":           {tok, []string{"fs:/data:rw"}, errdefs.RightsExceed},
		"more quota":         {tok, []string{"fs:/data:rw,quota=2G"}, errdefs.RightsExceed},
		"another class":      {tok, []string{"sys:namespace"}, errdefs.RightsExceed},
		"wider network":      {tok, []string{"net:*"}, errdefs.RightsExceed},
		"two that fit":       {tok, []string{"mem:self,bytes=256M", "mem:self,bytes=256M"}, ""},
		"two that do not":    {tok, []string{"mem:self,bytes=300M", "mem:self,bytes=300M"}, errdefs.RightsExceed},
		"weights do not add": {tok, []string{"cpu:self,weight=100", "cpu:self,weight=100"}, ""},
		"more weight":        {tok, []string{"cpu:self,weight=101"}, errdefs.RightsExceed},
		"a promise":          {tok, []string{"cpu:self,weight=50,reserve=0.1"}, errdefs.RightsExceed},
		"a rank":             {tok, []string{"cpu:self,weight=50,priority=21"}, errdefs.RightsExceed},
		"the usual rank":     {tok, []string{"cpu:self,weight=50,priority=20,idle=1"}, ""},
		"savings":            {tok, []string{"cpu:self,weight=50,burst=1ms"}, errdefs.RightsExceed},
		"promised":           {idle, []string{"cpu:self,reserve=0.1,every=10ms,priority=30,idle=1", "cpu:self,reserve=0.1,idle=1"}, ""},
		"promised too often": {idle, []string{"cpu:self,reserve=0.2,idle=1", "cpu:self,reserve=0.1,idle=1"}, errdefs.RightsExceed},
		"not idle":           {idle, []string{"cpu:self,reserve=0.1"}, errdefs.RightsExceed},
		"child":              {child, []string{"fs:/data/in:ro", "mem:self,bytes=512M"}, ""},
		"child, parent's":    {child, []string{"fs:/data:ro"}, errdefs.RightsExceed},
		"child widens":       {child, []string{"fs:/etc:ro"}, errdefs.RightsExceed},
		"child's own limit":  {child, []string{"mem:self,bytes=600M"}, errdefs.RightsExceed},
		"child adds":         {child, []string{"svc:db,badge=7,sealed,lease=1m"}, errdefs.RightsExceed},
		"none":               {none, []string{"net:loopback"}, errdefs.RightsExceed},
		"badge":              {svc, []string{"svc:db,badge=7,sealed,lease=30s"}, ""},
		"another badge":      {svc, []string{"svc:db,badge=8,sealed,lease=30s"}, errdefs.RightsExceed},
		"not sealed":         {svc, []string{"svc:db,badge=7,lease=30s"}, errdefs.RightsExceed},
		"no lease":           {svc, []string{"svc:db,badge=7,sealed"}, errdefs.RightsExceed},
		"longer lease":       {svc, []string{"svc:db,badge=7,sealed,lease=61s"}, errdefs.RightsExceed},
		"one limit missing":  {svc, []string{"mem:self,bytes=1M"}, errdefs.RightsExceed},
	} {
		wantCode(t, name, authority(t, tc.t).AllowGrants(specs(t, tc.ask...)...), tc.want)
	}
}

func TestSeal(t *testing.T) {
	tok := attenuate(t, issue(t, claims(t)), Restriction{Ops: []string{OpList}})
	sealed, err := Seal(tok)
	must(t, err)
	a := authority(t, sealed)
	if !a.Sealed || a.ID != tok.ID() {
		t.Errorf("sealed: %+v", a)
	}
	wantCode(t, "list", a.Allow(OpList, &Agent{Name: "build-1"}), "")
	_, err = Attenuate(sealed, Restriction{})
	wantCode(t, "attenuate", err, errdefs.Sealed)
	_, err = Seal(sealed)
	wantCode(t, "seal again", err, errdefs.Sealed)
	_, err = Seal(Token{})
	wantCode(t, "seal none", err, errdefs.InvalidArgument)
}

func TestAttenuateIsBounded(t *testing.T) {
	tok := issue(t, claims(t))
	for len(tok.Blocks()) < MaxBlocks {
		tok = attenuate(t, tok, Restriction{MaxAgents: 1})
	}
	authority(t, tok)
	_, err := Attenuate(tok, Restriction{})
	wantCode(t, "a 17th block", err, errdefs.InvalidArgument)
	_, err = Attenuate(issue(t, claims(t)), Restriction{Agents: manyNames(200)})
	wantCode(t, "too long", err, errdefs.InvalidArgument)
	_, err = Attenuate(issue(t, claims(t)), Restriction{Grants: []capability.Spec{{}}})
	if err == nil {
		t.Error("a spec of nothing was accepted")
	}
}

func TestPatterns(t *testing.T) {
	for text, want := range map[string]string{
		"*": "*", "own": "own", "a0123456789ab": "id:a0123456789ab", "worker-*": "name:worker-*", "label:a/b=": "label:a/b=",
		"id:worker": "", "": "", "name:": "", "label:=x": "", "label:a=\n": "", "who:x": "", "name:a:b": "",
	} {
		got, err := ParsePattern(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParsePattern(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for _, tc := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"a", "a", true}, {"a", "b", false}, {"a*", "abc", true}, {"*c", "abc", true},
		{"a*c", "abbc", true}, {"a*c", "ab", false}, {"a*b*c", "aXbYc", true}, {"a*b*c", "aXcYb", false}, {"**", "x", true},
		{"a", "ab", false}, {"ab", "a", false}, {"*a*", "bab", true}, {"a*a", "a", false},
	} {
		if got := glob(tc.pattern, tc.s); got != tc.want {
			t.Errorf("glob(%q, %q) = %v", tc.pattern, tc.s, got)
		}
	}
	for _, o := range Ops() {
		if !validOp(o.Name) || o.Meaning == "" {
			t.Errorf("operation %+v", o)
		}
	}
}
