package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
)

// tokenAt makes a token as a daemon would, and its public key.
func tokenAt(t *testing.T, change func(*token.Claims)) (tok token.Token, key string) {
	t.Helper()
	k, err := token.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	read, err := capability.ParseSpec("fs:/data:ro")
	if err != nil {
		t.Fatal(err)
	}
	c := token.Claims{
		Subject: "ci", Audience: []string{"here/12345678"}, Ops: []string{"spawn", "list"}, Agents: []string{"own"},
		Grants: []capability.Spec{read}, Expires: clockAt.Add(time.Hour),
	}
	if change != nil {
		change(&c)
	}
	if tok, err = token.Issue(k, c, clockAt); err != nil {
		t.Fatal(err)
	}
	return tok, token.FormatPublic(k.Public())
}

func (r *recorder) TokenIssue(_ context.Context, m *apiv1.TokenIssueRequest) (*apiv1.TokenIssueResponse, error) {
	r.record(m)
	return &apiv1.TokenIssueResponse{
		Token: "aios1.SECRET", Id: "t0123456789abcdef0123456789abcdef", ExpiresUnixNano: clockAt.Add(time.Hour).UnixNano(), Audience: []string{"here/12345678"},
	}, nil
}

func (r *recorder) TokenRevoke(_ context.Context, m *apiv1.TokenRevokeRequest) (*apiv1.TokenRevokeResponse, error) {
	r.record(m)
	return &apiv1.TokenRevokeResponse{Ended: 2}, nil
}

func (r *recorder) TokenTrust(_ context.Context, m *apiv1.TokenTrustRequest) (*apiv1.TokenTrustResponse, error) {
	r.record(m)
	return &apiv1.TokenTrustResponse{KeyId: "k0123456789abcdef"}, nil
}

func (r *recorder) TokenListen(_ context.Context, m *apiv1.TokenListenRequest) (*apiv1.TokenListenResponse, error) {
	r.record(m)
	return &apiv1.TokenListenResponse{Address: "tcp:127.0.0.1:7070"}, nil
}

func (r *recorder) TokenKey(context.Context, *apiv1.TokenKeyRequest) (*apiv1.TokenKeyResponse, error) {
	return &apiv1.TokenKeyResponse{
		Key: "aios1pub.b3du", KeyId: "k0123456789abcdef", Audience: "here/12345678", Listen: "tcp:127.0.0.1:7070", Failed: "the port is taken",
		Trusted: []string{"aios1pub.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, Revoked: 3,
	}, nil
}

func (r *recorder) TokenCheck(_ context.Context, m *apiv1.TokenCheckRequest) (*apiv1.TokenCheckResponse, error) {
	r.record(m)
	if r.refuse != nil {
		return &apiv1.TokenCheckResponse{Code: string(errdefs.CodeOf(r.refuse)), Why: r.refuse.Error()}, nil
	}
	return &apiv1.TokenCheckResponse{}, nil
}

func TestTokenRequests(t *testing.T) {
	tok, key := tokenAt(t, nil)
	for line, want := range map[string]proto.Message{
		"token issue --subject ci --op spawn,list --agent own --agent name:a,b --grant fs:/data:ro --grant fs:/w:rw,quota=1G --for 90m --audience a,b --max-agents 4": &apiv1.TokenIssueRequest{
			Subject: "ci", Operations: []string{"spawn", "list"}, Agents: []string{"own", "name:a,b"}, Grants: []string{"fs:/data:ro", "fs:/w:rw,quota=1G"},
			LifetimeNano: int64(90 * time.Minute), Audience: []string{"a", "b"}, MaxAgents: 4},
		"token issue --subject ci --op domain":                         &apiv1.TokenIssueRequest{Subject: "ci", Operations: []string{"domain"}, LifetimeNano: int64(time.Hour)},
		"token revoke t0123456789abcdef0123456789abcdef --reason lost": &apiv1.TokenRevokeRequest{Id: "t0123456789abcdef0123456789abcdef", Reason: "lost"},
		"token revoke " + tok.Text():                                   &apiv1.TokenRevokeRequest{Id: tok.ID().String()},
		"token trust " + key:                                           &apiv1.TokenTrustRequest{Key: key},
		"token trust --remove k0123456789abcdef":                       &apiv1.TokenTrustRequest{Key: "k0123456789abcdef", Remove: true},
		"token listen off":                                             &apiv1.TokenListenRequest{Address: "off"},
		"token show " + tok.Text():                                     &apiv1.TokenCheckRequest{Token: tok.Text()},
	} {
		b := newBench(t)
		if got := b.run(strings.Fields(line)...); got != 0 {
			t.Errorf("%s: status %d; %s", line, got, b.errOut.String())
			continue
		}
		if got := b.last(t); !proto.Equal(got, want) {
			t.Errorf("%s asked for\n  %v, want\n  %v", line, got, want)
		}
	}
}

func TestTokensAreAloneOnStandardOutput(t *testing.T) {
	b := newBench(t)
	if got := b.run("token", "issue", "--subject", "ci", "--op", "domain"); got != 0 || b.out.String() != "aios1.SECRET\n" {
		t.Errorf("status %d, %q", got, b.out.String())
	}
	if got, want := b.errOut.String(), "t0123456789abcdef0123456789abcdef for ci, until 2026-05-04T13:00:00Z (1h0m), accepted by here/12345678\n"; got != want {
		t.Errorf("standard error %q, want %q", got, want)
	}
	out := filepath.Join(t.TempDir(), "tok")
	for i, want := range []int{0, errdefs.ExitFailure} { // An existing file stays.
		if got := b.run("token", "issue", "--subject", "ci", "--op", "domain", "--out", out); got != want || b.out.Len() > 0 || strings.Contains(b.errOut.String(), "SECRET") {
			t.Errorf("%d: status %d, %q, %q", i, got, b.out.String(), b.errOut.String())
		}
	}
	raw, err := os.ReadFile(out)
	fi, serr := os.Stat(out)
	if err != nil || serr != nil || string(raw) != "aios1.SECRET\n" || fi.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, %v", raw, err, fi)
	}
}

// pipe gives the bench something on standard input.
func (b *bench) pipe(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	b.app.stdin = f
}

func TestNarrowingNeedsNoDaemon(t *testing.T) {
	tok, _ := tokenAt(t, nil)
	b := newBench(t)
	b.app.dial = nil
	for line, want := range map[string]token.Block{
		"--op list": {Ops: []string{"list"}},
		"--op=":     {Ops: []string{}},
		"--agent name:x --agent id:a00000000000f": {Agents: []string{"id:a00000000000f", "name:x"}},
		"--agent=":                       {Agents: []string{}},
		"--grant fs:/data/in:ro":         {Grants: []string{"fs:/data/in:ro"}},
		"--grant=":                       {Grants: []string{}},
		"--audience here/12345678":       {Audience: []string{"here/12345678"}},
		"--max-agents 2":                 {MaxAgents: 2},
		"--expires 10m":                  {Expires: clockAt.Add(10 * time.Minute)},
		"--expires 2026-05-04T12:30:00Z": {Expires: clockAt.Add(30 * time.Minute)},
		"":                               {},
	} {
		b.pipe(t, tok.Text()+"\n")
		if got := b.run(strings.Fields("token attenuate - " + line)...); got != 0 {
			t.Errorf("%s: status %d; %s", line, got, b.errOut.String())
			continue
		}
		made, err := token.Parse(strings.TrimSpace(b.out.String()))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got := b.errOut.String(); got != made.ID().String()+"\n" {
			t.Errorf("%s: standard error %q", line, got)
		}
		got := made.Blocks()[1]
		same := func(x, y []string) bool { return (x == nil) == (y == nil) && slices.Equal(x, y) }
		if !same(got.Ops, want.Ops) || !same(got.Agents, want.Agents) || !same(got.Grants, want.Grants) || !same(got.Audience, want.Audience) ||
			got.MaxAgents != want.MaxAgents || !got.Expires.Equal(want.Expires) {
			t.Errorf("%s made %+v, want %+v", line, got, want)
		}
	}
	b.pipe(t, tok.Text())
	if got := b.run("token", "seal", "-"); got != 0 {
		t.Fatalf("status %d; %s", got, b.errOut.String())
	}
	sealed, err := token.Parse(strings.TrimSpace(b.out.String()))
	if err != nil || !sealed.Sealed() || sealed.ID() != tok.ID() {
		t.Errorf("%v, %v", sealed, err)
	}
	if got := b.run("token", "attenuate", sealed.Text(), "--op", "list"); got != errdefs.ExitFailure || !strings.Contains(b.errOut.String(), "it is sealed") {
		t.Errorf("status %d, %q", got, b.errOut.String())
	}
}

func TestTokenShow(t *testing.T) {
	tok, key := tokenAt(t, nil)
	narrow, err := token.Attenuate(tok, token.Restriction{Ops: []string{}, Expires: clockAt.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	_, other := tokenAt(t, nil)
	b := newBench(t)
	for _, want := range []string{"For:", "ci", "fs:/data:ro", "here/12345678", "Narrowed:", "none", "13:00:00", "12:01:00", narrow.ID().String(), "accepted"} {
		if got := b.run("token", "show", narrow.Text()); got != 0 || !strings.Contains(b.out.String(), want) {
			t.Errorf("status %d, without %q: %s", got, want, b.out.String())
		}
	}
	b.refuse = errdefs.New(errdefs.TokenRevoked, "it was revoked")
	var v tokenView
	if got := b.run("token", "show", "-o", "json", narrow.Text()); got != 0 || json.Unmarshal(b.out.Bytes(), &v) != nil {
		t.Fatalf("status %d, %s", got, b.out.String())
	}
	if len(v.Blocks) != 2 || v.Blocks[1].Agents != nil || v.Blocks[1].Ops == nil || v.Check.State != "refused" || v.Check.Code != "TOKEN_REVOKED" {
		t.Errorf("%+v", v)
	}
	asked := len(b.requests())
	for k, want := range map[string]string{key: "the signatures are right", other: "TOKEN_INVALID"} {
		if got := b.run("token", "show", "--key", k, narrow.Text()); got != 0 || !strings.Contains(b.out.String(), want) {
			t.Errorf("status %d, without %q: %s", got, want, b.out.String())
		}
	}
	if len(b.requests()) != asked {
		t.Error("the daemon was asked although there is a key")
	}
	b.app.dial = b.app.connect // Nobody listens there.
	if got := b.run("token", "show", narrow.Text()); got != 0 || !strings.Contains(b.out.String(), "unchecked: no daemon runs here") {
		t.Errorf("status %d: %s", got, b.out.String())
	}
	if strings.Contains(b.out.String(), token.Prefix) {
		t.Error("the token itself was printed")
	}
}

func TestWhereTokensComeFrom(t *testing.T) {
	tok, _ := tokenAt(t, nil)
	other, _ := tokenAt(t, func(c *token.Claims) { c.Subject = "other" })
	file := filepath.Join(t.TempDir(), "tok")
	if err := os.WriteFile(file, []byte("\n "+tok.Text()+" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	env := map[string]string{"AIOS_TOKEN": " " + other.Text() + "\n"}
	b.app.getenv = func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	for line, want := range map[string]string{"--token-file " + file + " token show": "ci", "token show": "other"} {
		b.app.tokenFile = ""
		if got := b.run(strings.Fields(line)...); got != 0 || !strings.Contains(b.out.String(), want+"\n") {
			t.Errorf("%s: status %d, %s%s", line, got, b.out.String(), b.errOut.String())
		}
	}
	// Nobody else may read the file.
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := b.run("--token-file", file, "token", "show"); got != errdefs.ExitFailure || !strings.Contains(b.errOut.String(), "chmod 600") {
		t.Errorf("status %d, %s", got, b.errOut.String())
	}
}

func TestBadTokenLines(t *testing.T) {
	tok, _ := tokenAt(t, nil)
	for line, want := range map[string]string{
		"token attenuate":                                    "no token is given",
		"token attenuate -":                                  "there is no token",
		"token attenuate aios1.xyz":                          "not base64url",
		"token attenuate x":                                  "does not begin with aios1.",
		"token show x y":                                     "unexpected argument",
		"token revoke":                                       "the ID or the token is missing",
		"token revoke nonsense":                              "not the ID of a token",
		"token trust x":                                      "not a public key",
		"token issue --subject x --grant fs:/x":              "rights to files must be said",
		"token issue --for never":                            "--for",
		"token listen":                                       "the address is missing",
		"token nonsense":                                     "unknown command",
		"--token-file /nonexistent token show":               "no such file",
		"token attenuate --expires soon " + tok.Text():       "neither a duration nor a time",
		"token attenuate --op nonsense! " + tok.Text():       "not an operation",
		"token attenuate --agent what:x " + tok.Text():       "not a pattern",
		"token attenuate --grant agent:worker " + tok.Text(): "nobody knows which agent",
		"token show --key aios1pub.x " + tok.Text():          "not a public key",
		"token show -o yaml " + tok.Text():                   "no such form",
	} {
		b := newBench(t)
		if got := b.run(strings.Fields(line)...); got != errdefs.ExitFailure || !strings.Contains(b.errOut.String(), want) || !strings.Contains(b.errOut.String(), "\nfix: ") {
			t.Errorf("%s: status %d, %q, want %q and a fix", line, got, b.errOut.String(), want)
		}
		if len(b.requests()) != 0 {
			t.Errorf("%s: the daemon was asked %v", line, b.requests())
		}
	}
}

func TestTokenKeyAndLs(t *testing.T) {
	b := newBench(t)
	for line, words := range map[string][]string{
		"token key":         {"aios1pub.b3du", "k0123456789abcdef", "here/12345678", "tcp:127.0.0.1:7070, which failed: the port is taken"},
		"token ls":          {"its own", "trusted", "revoked tokens: 3"},
		"token key -o json": {`"audience": "here/12345678"`, `"revoked": 3`},
	} {
		for _, w := range words {
			if got := b.run(strings.Fields(line)...); got != 0 || !strings.Contains(b.out.String(), w) {
				t.Errorf("%s: status %d, without %q: %s", line, got, w, b.out.String())
			}
		}
	}
}

// TestConnect has commands go elsewhere, and start nothing there.
func TestConnect(t *testing.T) {
	b := newBench(t)
	b.app.dial = b.app.connect
	for _, args := range [][]string{
		{"--connect", "unix:/nonexistent/s", "ps"}, {"--connect", "unix:/nonexistent/s", "daemon", "start"},
	} {
		b.app.connectTo = ""
		if got := b.run(args...); got != errdefs.ExitFailure || !strings.Contains(b.errOut.String(), "/nonexistent/s") {
			t.Errorf("%v: status %d, %s", args, got, b.errOut.String())
		}
	}
	b.app.connectTo = ""
	b.app.getenv = func(k string) (string, bool) { return "tcp:10.1.2.3:4", k == "AIOS_CONNECT" }
	if got := b.run("ps"); got != errdefs.ExitFailure || !strings.Contains(b.errOut.String(), "SSH tunnel") {
		t.Errorf("status %d, %s", got, b.errOut.String())
	}
}
