package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// TestBadTokens shows tokens that are no good, each of which has its own entry
// in the trail.
func TestBadTokens(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1_700_000_000, 0))
	b := newDoorBench(t, clock)
	good := b.issue(t, nil)
	forged, err := token.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.d.keyring()
	if err != nil {
		t.Fatal(err)
	}
	claims := token.Claims{Subject: "mallory", Audience: []string{k.audience}, Ops: []string{"*"}, Agents: []string{"*"}, Expires: clock.Now().Add(time.Hour)}
	stranger, err := token.Issue(forged, claims, clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	away := b.issue(t, func(c *token.Claims) { c.Audience = []string{"elsewhere"} })
	short := b.issue(t, func(c *token.Claims) { c.Expires = clock.Now().Add(time.Minute) })
	revoked := b.issue(t, nil)
	child, err := token.Attenuate(revoked, token.Restriction{Ops: []string{"list"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.revoked.Revoke(revoked.ID(), time.Time{}); err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * time.Minute)
	flipped := []byte(good.Text())
	flipped[len(flipped)/2] ^= 1
	for name, tc := range map[string]struct {
		text         string
		code, inside errdefs.Code
	}{
		"garbage":              {"x", errdefs.TokenInvalid, errdefs.TokenInvalid},
		"changed":              {string(flipped), errdefs.TokenInvalid, errdefs.TokenInvalid},
		"another key":          {stranger.Text(), errdefs.TokenInvalid, errdefs.TokenInvalid},
		"expired":              {short.Text(), errdefs.TokenExpired, errdefs.TokenExpired},
		"another audience":     {away.Text(), errdefs.TokenInvalid, errdefs.AudienceMismatch},
		"revoked":              {revoked.Text(), errdefs.TokenInvalid, errdefs.TokenRevoked},
		"its parent revoked":   {child.Text(), errdefs.TokenInvalid, errdefs.TokenRevoked},
		"too long":             {strings.Repeat("a", token.MaxText+1), errdefs.TokenInvalid, errdefs.TokenInvalid},
		"the key, not a token": {token.FormatPublic(k.key.Public()), errdefs.TokenInvalid, errdefs.TokenInvalid},
	} {
		before := len(b.trail(t, audit.OpDenied))
		_, err := b.bearing(t, tc.text).List(soon(t), &apiv1.ListRequest{})
		if errdefs.CodeOf(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
		if e, ok := err.(*errdefs.Error); ok && tc.code == errdefs.TokenInvalid && e.Resource != "" {
			t.Errorf("%s: the bearer hears of %s", name, e.Resource)
		}
		clock.Advance(2 * time.Second) // What repeats is counted for a while.
		all := b.trail(t, audit.OpDenied)
		if len(all) <= before || all[len(all)-1].Code != string(tc.inside) {
			t.Errorf("%s: the trail has %d entries, then %d", name, before, len(all))
			continue
		}
		if e := all[len(all)-1]; strings.Contains(e.Line, tc.text) && len(tc.text) > 10 {
			t.Errorf("%s: the trail has a token: %s", name, e.Line)
		}
	}
	if _, err := b.bearing(t, good.Text()).List(soon(t), &apiv1.ListRequest{}); err != nil {
		t.Errorf("a good token: %v", err)
	}
	for _, r := range b.d.recent.List() {
		if strings.Contains(r.Message+r.Fix, "mallory") {
			t.Errorf("recent errors: %+v", r)
		}
	}
}

// TestCallsEndWithTheirToken has calls wait while their token is revoked,
// expires, or loses its issuer.
func TestCallsEndWithTheirToken(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1_700_000_000, 0))
	b := newDoorBench(t, clock)
	b.agent(t, "mine", nil)
	other, err := token.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.d.keyring()
	if err != nil {
		t.Fatal(err)
	}
	foreign := func() token.Token {
		if _, err := k.trust.Add(other.Public()); err != nil {
			t.Fatal(err)
		}
		tok, err := token.Issue(other, token.Claims{
			Subject: "guest", Audience: []string{k.audience}, Ops: []string{"*"}, Agents: []string{"*"}, Expires: clock.Now().Add(time.Hour),
		}, clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	calls := map[string]func(apiv1.ControlClient) error{
		"wait": func(c apiv1.ControlClient) error { return second(c.Wait(soon(t), &apiv1.WaitRequest{Agent: "mine"})) },
		"logs": func(c apiv1.ControlClient) error {
			s, err := c.Logs(soon(t), &apiv1.LogsRequest{Agent: "mine", Follow: true})
			for err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"attach": func(c apiv1.ControlClient) error {
			s, err := c.Attach(soon(t))
			if err == nil {
				err = s.Send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Target{Target: &apiv1.AttachTarget{Agent: "mine"}}})
			}
			for err == nil {
				_, err = s.Recv()
			}
			return err
		},
	}
	for name, tc := range map[string]struct {
		tok  func() token.Token
		end  func(token.Token) int
		code errdefs.Code
	}{
		"revoked": {func() token.Token { return b.issue(t, nil) }, func(tok token.Token) int {
			resp, err := b.d.TokenRevoke(context.Background(), &apiv1.TokenRevokeRequest{Id: tok.ID().String(), Reason: "test"})
			if err != nil {
				t.Error(err)
			}
			return int(resp.GetEnded())
		}, errdefs.TokenInvalid},
		"expired": {func() token.Token { return b.issue(t, nil) }, func(token.Token) int {
			clock.Advance(2 * time.Hour)
			return len(calls)
		}, errdefs.TokenExpired},
		"no longer trusted": {foreign, func(token.Token) int {
			if _, err := b.d.TokenTrust(context.Background(), &apiv1.TokenTrustRequest{Key: other.ID().String(), Remove: true}); err != nil {
				t.Error(err)
			}
			return len(calls)
		}, errdefs.TokenInvalid},
	} {
		tok := tc.tok()
		narrow, err := token.Attenuate(tok, token.Restriction{Ops: []string{"wait", "logs", "attach"}})
		if err != nil {
			t.Fatal(err)
		}
		bystander := b.issue(t, func(c *token.Claims) { c.Expires = clock.Now().Add(24 * time.Hour) })
		stays := make(chan error, 1)
		ctx, cancel := context.WithCancel(soon(t))
		go func() {
			stays <- second(b.bearing(t, bystander.Text()).Wait(ctx, &apiv1.WaitRequest{Agent: "mine"}))
		}()
		ended := make(chan string, len(calls))
		for what, call := range calls {
			go func() {
				err := call(b.bearing(t, narrow.Text()))
				ended <- fmt.Sprintf("%s %s", what, errdefs.CodeOf(err))
			}()
		}
		eventually(t, "the calls are under way", func() bool {
			b.d.uses.mu.Lock()
			defer b.d.uses.mu.Unlock()
			return len(b.d.uses.live) == len(calls)+1
		})
		if n := tc.end(tok); n != len(calls) {
			t.Errorf("%s: %d calls are said to have ended", name, n)
		}
		for range calls {
			select {
			case got := <-ended:
				if !strings.HasSuffix(got, " "+string(tc.code)) {
					t.Errorf("%s: %s, want %s", name, got, tc.code)
				}
			case <-time.After(patience):
				t.Fatalf("%s: a call goes on", name)
			}
		}
		select {
		case err := <-stays:
			t.Errorf("%s: a bystander's call ended: %v", name, err)
		default:
		}
		cancel()
		<-stays
		eventually(t, "no call is left", func() bool {
			b.d.uses.mu.Lock()
			defer b.d.uses.mu.Unlock()
			return len(b.d.uses.live) == 0
		})
	}
}

// TestSignalsWithinAStream need the operation, whatever the stream was opened
// with.
func TestSignalsWithinAStream(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	for _, allowed := range []bool{false, true} {
		ops := []string{"attach"}
		if allowed {
			ops = append(ops, "signal")
		}
		tok := b.issue(t, func(c *token.Claims) { c.Ops, c.Agents = ops, []string{"own"} })
		mine := b.agent(t, "", func(r *record) { r.tokens = []token.ID{tok.ID()} })
		s, err := b.bearing(t, tok.Text()).Attach(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		kill := &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Signal{Signal: 9}}
		for _, m := range []*apiv1.AttachRequest{
			{Msg: &apiv1.AttachRequest_Target{Target: &apiv1.AttachTarget{Agent: mine.id}}},
			{Msg: &apiv1.AttachRequest_Stdin{Stdin: []byte("x")}},
		} {
			if err := s.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Recv(); err != nil { // Before the refusal, which ends the stream.
			t.Fatal(err)
		}
		if err := s.Send(kill); err != nil {
			t.Fatal(err)
		}
		if allowed {
			eventually(t, "the signal arrives", func() bool { return proto.Equal(b.last(), kill) })
			continue
		}
		if _, err := s.Recv(); errdefs.CodeOf(err) != errdefs.Denied {
			t.Errorf("%v", err)
		}
		if proto.Equal(b.last(), kill) || len(b.trail(t, audit.OpDenied)) != 1 {
			t.Errorf("the handler got %v; the trail has %v", b.last(), b.trail(t, audit.OpDenied))
		}
		s, err = b.bearing(t, tok.Text()).Attach(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(kill); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); errdefs.CodeOf(err) != errdefs.InvalidArgument {
			t.Errorf("a stream that begins with a signal: %v", err)
		}
	}
}

// TestUsesAreCounted floods the trail, or tries to.
func TestUsesAreCounted(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1_700_000_000, 0))
	b := newDoorBench(t, clock)
	tok := b.issue(t, nil)
	c := b.bearing(t, tok.Text())
	const n = 50
	for range n {
		if _, err := c.List(soon(t), &apiv1.ListRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	for range n { // Each has an ID of its own.
		child, err := token.Attenuate(tok, token.Restriction{Ops: []string{"list"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.bearing(t, child.Text()).List(soon(t), &apiv1.ListRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(b.trail(t, opTokenUse)); got > tallyKinds {
		t.Errorf("%d entries for %d uses", got, 2*n)
	}
	clock.Advance(tallyWindow)
	total, entries := uint64(0), b.trail(t, opTokenUse)
	for _, e := range entries {
		total += max(e.Count, 1)
		if e.Actor != "token:tester" || e.Cap != tok.ID().String() && e.Parent != tok.ID().String() {
			t.Errorf("%+v", e)
		}
	}
	if total != 2*n || len(entries) > 2*tallyKinds {
		t.Errorf("%d uses are counted in %d entries, of %d", total, len(entries), 2*n)
	}
	// Refusals likewise: each of these has a reason of its own.
	only := b.issue(t, func(c *token.Claims) { c.Ops = []string{"list"} })
	for range 3 * tallyKinds {
		child, err := token.Attenuate(only, token.Restriction{Ops: []string{"list"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.bearing(t, child.Text()).Doctor(soon(t), &apiv1.DoctorRequest{}); errdefs.CodeOf(err) != errdefs.Denied {
			t.Fatal(err)
		}
	}
	if got := len(b.trail(t, audit.OpDenied)); got > tallyKinds+10 {
		t.Errorf("%d entries for refusals", got)
	}
}

// TestADamagedListAcceptsNobody: a token that was revoked would work again.
func TestADamagedListAcceptsNobody(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	tok := b.issue(t, nil)
	if err := replaceFile(filepath.Join(b.d.paths.Tokens, "revoked"), "garbage\n"); err != nil {
		t.Fatal(err)
	}
	b.d.keys.Store(nil) // As after a restart.
	_, err := b.bearing(t, tok.Text()).List(soon(t), &apiv1.ListRequest{})
	if errdefs.CodeOf(err) != errdefs.HostIO || strings.Contains(err.Error(), b.d.paths.Tokens) {
		t.Errorf("%v", err)
	}
}

func TestIssue(t *testing.T) {
	b := newDoorBench(t, ktime.Real)
	worker := b.agent(t, "worker", nil)
	ctx := context.Background()
	for want, req := range map[string]*apiv1.TokenIssueRequest{
		"no operation": {Subject: "x", LifetimeNano: 1e12},
		"no agent":     {Subject: "x", LifetimeNano: 1e12, Operations: []string{"list"}},
		"expiry":       {Subject: "x", Operations: []string{"domain"}},
		"subject":      {LifetimeNano: 1e12, Operations: []string{"domain"}},
		"nobody":       {Subject: "x", LifetimeNano: 1e12, Operations: []string{"domain"}, Grants: []string{"agent:nobody"}},
		"366 days":     {Subject: "x", LifetimeNano: int64(400 * 24 * time.Hour), Operations: []string{"domain"}},
	} {
		if resp, err := b.d.TokenIssue(ctx, req); err == nil || !strings.Contains(err.Error(), want) || errdefs.FixOf(err) == "" {
			t.Errorf("%s: %v, %v", want, resp, err)
		}
	}
	resp, err := b.d.TokenIssue(ctx, &apiv1.TokenIssueRequest{
		Subject: "x", LifetimeNano: 1, Operations: []string{"spawn"}, Agents: []string{"own"}, Grants: []string{"agent:worker:signal"}, MaxAgents: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := token.Parse(resp.GetToken())
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.d.keyring()
	if err != nil {
		t.Fatal(err)
	}
	block := tok.Blocks()[0]
	if !slices.Equal(block.Grants, []string{"agent:" + worker.id + ":signal"}) || !slices.Equal(block.Audience, []string{k.audience}) ||
		block.MaxAgents != 2 || !block.Expires.After(b.d.clock.Now().Add(-time.Second)) || !slices.Equal(resp.GetAudience(), block.Audience) {
		t.Errorf("%+v", block)
	}
	all := b.trail(t, opTokenIssue)
	if len(all) != 1 || all[0].Cap != resp.GetId() || all[0].Target != "x" || !strings.Contains(all[0].Spec, "max-agents=2") {
		raw, _ := json.Marshal(all)
		t.Errorf("%s", raw)
	}
}
