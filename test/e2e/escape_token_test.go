package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// tokenCall is one request.
type tokenCall func(ctx context.Context, c *client.Client) error

// tokenAttempt tries to get more out of a token than it is.
type tokenAttempt struct {
	name string
	// text is the token that is shown.
	text func(a *tokenAttack) string
	call tokenCall
	// want is the code that is heard; trail the one in the audit trail, when that
	// is another one. "-" is none: it is no refusal.
	want, trail errdefs.Code
}

// tokenAttack is what the attempts have to work with.
type tokenAttack struct {
	t  *testing.T
	in *install
	at string // the address
	k  doorKey
	// worker may do everything to agents of its own that it was given: the
	// directory data to read and work to write, two agents at once.
	worker, workerID string
	data, work       string
	mine, other      string // IDs of agents: the worker's and another's
	theirs           string // a capability of the other
	forger           *token.Key
}

// issue makes a token that allows some operations on every agent.
func (a *tokenAttack) issue(ops string, flags ...string) string {
	text, _ := a.in.issue(a.t, append([]string{"--op", ops, "--agent", "*"}, flags...)...)
	return text
}

func (a *tokenAttack) parse(text string) token.Token {
	a.t.Helper()
	tok, err := token.Parse(text)
	must(a.t, err)
	return tok
}

func (a *tokenAttack) narrow(text string, r token.Restriction) string {
	a.t.Helper()
	tok, err := token.Attenuate(a.parse(text), r)
	must(a.t, err)
	return tok.Text()
}

func (a *tokenAttack) seal(text string) string {
	a.t.Helper()
	tok, err := token.Seal(a.parse(text))
	must(a.t, err)
	return tok.Text()
}

// forge is a token of the attacker's own key that allows everything.
func (a *tokenAttack) forge() string {
	tok, err := token.Issue(a.forger, token.Claims{
		Subject: "root", Audience: []string{a.k.Audience}, Ops: []string{"*"}, Agents: []string{"*"}, Expires: time.Now().Add(time.Hour),
	}, time.Now())
	must(a.t, err)
	return tok.Text()
}

// edit changes the bytes of a token.
func (a *tokenAttack) edit(text string, change func([]byte) []byte) string {
	a.t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, token.Prefix))
	must(a.t, err)
	now := change(slices.Clone(raw))
	if bytes.Equal(raw, now) {
		a.t.Fatal("nothing was changed")
	}
	return token.Prefix + base64.RawURLEncoding.EncodeToString(now)
}

func swap(from, to string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(from), []byte(to), 1) }
}

func (a *tokenAttack) revoke(text string) {
	a.t.Helper()
	a.in.ok(a.t, "token", "revoke", a.parse(text).ID().String())
}

// Requests.

func list(ctx context.Context, c *client.Client) error {
	_, err := c.List(ctx, &apiv1.ListRequest{})
	return err
}

func inspect(agent string) tokenCall {
	return func(ctx context.Context, c *client.Client) error {
		_, err := c.Inspect(ctx, &apiv1.InspectRequest{Agent: agent})
		return err
	}
}

func spawning(change func(*apiv1.SpawnRequest)) tokenCall {
	return func(ctx context.Context, c *client.Client) error {
		r := &apiv1.SpawnRequest{Process: &apiv1.Process{Argv: []string{"sleep", "1000"}}}
		change(r)
		resp, err := c.Spawn(ctx, r)
		if err == nil {
			c.Remove(ctx, &apiv1.RemoveRequest{Agent: resp.GetId(), Force: true})
		}
		return err
	}
}

func granting(grants ...string) tokenCall {
	return spawning(func(r *apiv1.SpawnRequest) { r.Grants = grants })
}

// attaching opens a stream and sends these messages.
func attaching(ms ...*apiv1.AttachRequest) tokenCall {
	return func(ctx context.Context, c *client.Client) error {
		s, err := c.Attach(ctx)
		for _, m := range ms {
			if err == nil {
				err = s.Send(m)
			}
		}
		for err == nil {
			_, err = s.Recv()
		}
		return err
	}
}

// at makes a request out of what the attack has found.
func at(f func(a *tokenAttack) tokenCall) func(a *tokenAttack) tokenCall { return f }

func theWorker(a *tokenAttack) string { return a.worker }

// tokenForgeries show tokens that nobody issued, or that are no longer any good.
var tokenForgeries = []tokenAttempt{
	{"no token", func(*tokenAttack) string { return "" }, list, "TOKEN_INVALID", ""},
	{"garbage", func(*tokenAttack) string { return "aios1.garbage" }, list, "TOKEN_INVALID", ""},
	{"a token cut short", func(a *tokenAttack) string { return a.worker[:len(a.worker)-8] }, list, "TOKEN_INVALID", ""},
	{"a token and more", func(a *tokenAttack) string { return a.worker + "AAAA" }, list, "TOKEN_INVALID", ""},
	{"the public key", func(a *tokenAttack) string { return a.k.Key }, list, "TOKEN_INVALID", ""},
	{"signed with another key", (*tokenAttack).forge, list, "TOKEN_INVALID", ""},
	{"signed with another key, in the daemon's name", func(a *tokenAttack) string {
		id := token.KeyIDOf(a.forger.Public())
		public, err := token.ParsePublic(a.k.Key)
		must(a.t, err)
		own := token.KeyIDOf(public)
		return a.edit(a.forge(), swap(string(id[:]), string(own[:])))
	}, list, "TOKEN_INVALID", ""},
	{"an operation changed", func(a *tokenAttack) string { return a.edit(a.issue("list"), swap("list", "exec")) }, list, "TOKEN_INVALID", ""},
	{"the audience changed", func(a *tokenAttack) string {
		return a.edit(a.issue("list", "--audience", "elsewhere/1234567"), swap("elsewhere/1234567", "elsewhere/7654321"))
	}, list, "TOKEN_INVALID", ""},
	{"the ID changed, after a revocation", func(a *tokenAttack) string {
		text := a.issue("list")
		a.revoke(text)
		id := a.parse(text).ID()
		return a.edit(text, swap(string(id[:]), "0123456789abcdef"))
	}, list, "TOKEN_INVALID", ""},
	{"a restriction removed", func(a *tokenAttack) string {
		parent := a.issue("list,inspect")
		child := a.narrow(parent, token.Restriction{Ops: []string{"list"}})
		// The parent's block, and the secret that the child has.
		block, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(parent, token.Prefix))
		must(a.t, err)
		return a.edit(child, func(b []byte) []byte { return append(block[:len(block)-32], b[len(b)-32:]...) })
	}, list, "TOKEN_INVALID", ""},
	{"a restriction changed", func(a *tokenAttack) string {
		return a.edit(a.narrow(a.issue("list,inspect"), token.Restriction{Ops: []string{"list"}, Agents: []string{"name:aa"}}), swap("name:aa", "name:*b"))
	}, list, "TOKEN_INVALID", ""},
	{"a seal broken", func(a *tokenAttack) string {
		return a.edit(a.seal(a.issue("list")), func(b []byte) []byte {
			return append(append(b[:len(b)-65], 0), bytes.Repeat([]byte{7}, 32)...)
		})
	}, list, "TOKEN_INVALID", ""},
	{"expired", func(a *tokenAttack) string {
		text := a.issue("list", "--for", "1s")
		time.Sleep(2100 * time.Millisecond)
		return text
	}, list, "TOKEN_EXPIRED", ""},
	{"expired, made to last", func(a *tokenAttack) string {
		text := a.issue("list", "--for", "1s")
		longer := a.narrow(text, token.Restriction{Expires: time.Now().Add(time.Hour)})
		time.Sleep(2100 * time.Millisecond)
		return longer
	}, list, "TOKEN_EXPIRED", ""},
	{"for another daemon", func(a *tokenAttack) string { return a.issue("list", "--audience", "elsewhere/12345678") }, list, "TOKEN_INVALID", "AUDIENCE_MISMATCH"},
	{"for another daemon, made for this one", func(a *tokenAttack) string {
		return a.narrow(a.issue("list", "--audience", "elsewhere/12345678"), token.Restriction{Audience: []string{a.k.Audience, "*"}})
	}, list, "TOKEN_INVALID", "AUDIENCE_MISMATCH"},
	{"replayed after it was revoked", func(a *tokenAttack) string {
		text := a.issue("list")
		a.in.bearing(a.at, text).ok(a.t, "ps")
		a.revoke(text)
		return text
	}, list, "TOKEN_INVALID", "TOKEN_REVOKED"},
	{"a child of one that was revoked", func(a *tokenAttack) string {
		text := a.issue("list")
		child := a.narrow(text, token.Restriction{Ops: []string{"list"}})
		a.revoke(text)
		return child
	}, list, "TOKEN_INVALID", "TOKEN_REVOKED"},
	{"one that was revoked, narrowed since", func(a *tokenAttack) string {
		text := a.issue("list")
		a.revoke(text)
		return a.narrow(text, token.Restriction{})
	}, list, "TOKEN_INVALID", "TOKEN_REVOKED"},
	{"one that was revoked, sealed since", func(a *tokenAttack) string {
		text := a.issue("list")
		a.revoke(text)
		return a.seal(text)
	}, list, "TOKEN_INVALID", "TOKEN_REVOKED"},
}

// tokenExcesses show good tokens, and ask for more than they allow.
var tokenExcesses = []struct {
	name string
	text func(a *tokenAttack) string
	call func(a *tokenAttack) tokenCall
	want errdefs.Code
}{
	{"another's agent", theWorker, at(func(a *tokenAttack) tokenCall { return inspect(a.other) }), "PERMISSION_DENIED"},
	{"another's agent, by name", theWorker, at(func(*tokenAttack) tokenCall { return inspect("other") }), "PERMISSION_DENIED"},
	{"an agent that does not exist", theWorker, at(func(*tokenAttack) tokenCall { return inspect("nobody") }), "PERMISSION_DENIED"},
	{"kill another's", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Signal(ctx, &apiv1.SignalRequest{Agent: a.other, Signal: 9})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"remove another's", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Remove(ctx, &apiv1.RemoveRequest{Agent: a.other, Force: true})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"exec in another's", theWorker, at(func(a *tokenAttack) tokenCall {
		return attaching(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Exec{Exec: &apiv1.ExecRequest{Agent: a.other, Process: &apiv1.Process{Argv: []string{"id"}}}}})
	}), "PERMISSION_DENIED"},
	{"attach to another's", theWorker, at(func(a *tokenAttack) tokenCall {
		return attaching(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Target{Target: &apiv1.AttachTarget{Agent: a.other, Stdin: true}}})
	}), "PERMISSION_DENIED"},
	{"another's log", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			s, err := c.Logs(ctx, &apiv1.LogsRequest{Agent: a.other})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}), "PERMISSION_DENIED"},
	{"another's capabilities", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.CapList(ctx, &apiv1.CapListRequest{Agent: a.other})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"revoke another's capability", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.CapRevoke(ctx, &apiv1.CapRevokeRequest{Capability: &apiv1.CapRef{Id: a.theirs}})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"revoke all that another has", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.CapRevoke(ctx, &apiv1.CapRevokeRequest{AllOf: a.other})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"delegate another's capability to one's own agent", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.CapDelegate(ctx, &apiv1.CapDelegateRequest{Capability: &apiv1.CapRef{Id: a.theirs}, To: a.mine})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"a child's agents with a sibling", func(a *tokenAttack) string {
		return a.narrow(a.worker, token.Restriction{Agents: []string{"own"}})
	}, at(func(a *tokenAttack) tokenCall { return inspect(a.mine) }), "PERMISSION_DENIED"},
	{"a child that claims more operations", func(a *tokenAttack) string {
		return a.narrow(a.issue("list"), token.Restriction{Ops: []string{"*"}, Agents: []string{"*"}})
	}, at(func(a *tokenAttack) tokenCall { return inspect(a.other) }), "PERMISSION_DENIED"},
	{"a child that claims more agents", func(a *tokenAttack) string {
		return a.narrow(a.worker, token.Restriction{Agents: []string{"*"}})
	}, at(func(a *tokenAttack) tokenCall { return inspect(a.other) }), "PERMISSION_DENIED"},
	{"a name that was not given", func(a *tokenAttack) string {
		text, _ := a.in.issue(a.t, "--op", "spawn,remove,signal", "--agent", "name:build-*")
		return text
	}, at(func(*tokenAttack) tokenCall { return spawning(func(r *apiv1.SpawnRequest) { r.Name = "web" }) }), "PERMISSION_DENIED"},
	{"a signal within a stream", func(a *tokenAttack) string {
		return a.narrow(a.worker, token.Restriction{Ops: []string{"attach"}})
	}, at(func(a *tokenAttack) tokenCall {
		return attaching(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Target{Target: &apiv1.AttachTarget{Agent: a.mine}}},
			&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Signal{Signal: 9}})
	}), "PERMISSION_DENIED"},
	{"a directory beside", theWorker, at(func(a *tokenAttack) tokenCall { return granting("fs:" + a.data + "-not:ro") }), "RIGHTS_EXCEED"},
	{"a directory above", theWorker, at(func(a *tokenAttack) tokenCall { return granting("fs:" + filepath.Dir(a.data) + ":ro") }), "RIGHTS_EXCEED"},
	{"to write where it may read", theWorker, at(func(a *tokenAttack) tokenCall { return granting("fs:" + a.data + ":rw") }), "RIGHTS_EXCEED"},
	{"a mount through ..", theWorker, at(func(a *tokenAttack) tokenCall {
		return spawning(func(r *apiv1.SpawnRequest) { r.Mounts = []*apiv1.Mount{{Source: a.data + "/../../..", Target: "/x"}} })
	}), "RIGHTS_EXCEED"},
	{"a link that its agent has made", theWorker, at(func(a *tokenAttack) tokenCall { return granting("fs:" + a.work + "/way-out:ro") }), "PERMISSION_DENIED"},
	{"through a link that its agent has made", theWorker, at(func(a *tokenAttack) tokenCall { return granting("fs:" + a.work + "/way-out/etc:ro") }), "PERMISSION_DENIED"},
	{"a link, for an agent that runs", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.CapGrant(ctx, &apiv1.CapGrantRequest{Agent: a.mine, Grants: []string{"fs:" + a.work + "/way-out:ro,at=/x"}})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"the network", theWorker, at(func(*tokenAttack) tokenCall { return granting("net:loopback") }), "RIGHTS_EXCEED"},
	{"namespaces", theWorker, at(func(*tokenAttack) tokenCall { return granting("sys:namespace") }), "RIGHTS_EXCEED"},
	{"another agent", theWorker, at(func(a *tokenAttack) tokenCall { return granting("agent:" + a.other + ":signal") }), "RIGHTS_EXCEED"},
	{"all of the memory", theWorker, at(func(*tokenAttack) tokenCall {
		return spawning(func(r *apiv1.SpawnRequest) { r.Limits = &apiv1.Limits{MemoryBytes: 1 << 50} })
	}), "RIGHTS_EXCEED"},
	{"memory without a limit", theWorker, at(func(*tokenAttack) tokenCall { return granting("mem:self") }), "RIGHTS_EXCEED"},
	{"more for an agent that runs", theWorker, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.CapGrant(ctx, &apiv1.CapGrantRequest{Agent: a.mine, Grants: []string{"fs:/etc:ro,at=/x"}})
			return err
		}
	}), "RIGHTS_EXCEED"},
	{"one agent too many", theWorker, at(func(*tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			// One lives already.
			sleep := &apiv1.SpawnRequest{Process: &apiv1.Process{Argv: []string{"sleep", "1000"}}}
			last, err := c.Spawn(ctx, sleep)
			if err != nil {
				return nil
			}
			defer c.Remove(ctx, &apiv1.RemoveRequest{Agent: last.GetId(), Force: true})
			_, err = c.Spawn(ctx, sleep)
			return err
		}
	}), "AGENT_LIMIT_REACHED"},
	{"an image of the host", func(a *tokenAttack) string { return a.issue("image") }, at(func(*tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			s, err := c.ImageImport(ctx, &apiv1.ImageImportRequest{Name: "stolen", Source: "/etc"})
			for err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}), "RIGHTS_EXCEED"},
	{"a token of everything", func(a *tokenAttack) string { return a.issue("*") }, at(func(*tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.TokenIssue(ctx, &apiv1.TokenIssueRequest{Subject: "me", LifetimeNano: 1e15, Operations: []string{"*"}, Agents: []string{"*"}, Grants: []string{"fs:/:rw"}})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"trust in a key of one's own", func(a *tokenAttack) string { return a.issue("*") }, at(func(a *tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.TokenTrust(ctx, &apiv1.TokenTrustRequest{Key: token.FormatPublic(a.forger.Public())})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"another address", func(a *tokenAttack) string { return a.issue("*") }, at(func(*tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.TokenListen(ctx, &apiv1.TokenListenRequest{Address: "off"})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"the end of the daemon", theWorker, at(func(*tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Shutdown(ctx, &apiv1.ShutdownRequest{StopDomains: true})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"the end of a domain", theWorker, at(func(*tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.DomainStop(ctx, &apiv1.DomainStopRequest{Name: "default", Force: true})
			return err
		}
	}), "PERMISSION_DENIED"},
	{"the audit trail", theWorker, at(func(*tokenAttack) tokenCall {
		return func(ctx context.Context, c *client.Client) error {
			s, err := c.AuditQuery(ctx, &apiv1.AuditQueryRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}), "PERMISSION_DENIED"},
}

// TestTokenEscape makes every attempt.
func TestTokenEscape(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	a := &tokenAttack{t: t, in: in, k: in.tokenKey(t), at: in.listen(t)}
	a.data = in.share(t, map[string][]byte{"f": []byte("data\n")})
	a.work = in.share(t, nil)
	var err error
	a.forger, err = token.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	must(t, err)
	a.other = in.spawn(t, "--name", "other", "--grant", "fs:"+a.data+":rw", "--", "sh", "-c", counter)
	a.theirs = in.capOf(t, "other", "fs:").ID
	a.worker, a.workerID = in.issue(t, "--op", "spawn,attach,exec,list,inspect,logs,wait,signal,remove,grant,revoke", "--agent", "own",
		"--grant", "fs:"+a.data+":ro", "--grant", "fs:"+a.work+":rw", "--max-agents", "2")
	b := in.bearing(a.at, a.worker)
	a.mine = b.spawn(t, "--name", "mine", "--grant", "fs:"+a.work+":rw,at=/w", "--", "sh", "-c", "ln -s / /w/way-out; "+counter)
	eventually(t, "the link is there", 10*time.Second, func() (bool, string) {
		to, err := os.Readlink(filepath.Join(a.work, "way-out"))
		return to == "/", fmt.Sprint(to, err)
	})
	want := make(map[errdefs.Code]uint64)
	try := func(name, text string, call tokenCall, heard, trail errdefs.Code) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := client.Dial(ctx, client.Options{Address: a.at, Token: text})
		if err == nil {
			err = call(ctx, c)
			c.Close()
		}
		if got := errdefs.CodeOf(err); err == nil || got != heard {
			t.Errorf("%s: %v, want %s", name, err, heard)
		}
		want[trail]++
	}
	for _, x := range tokenForgeries {
		if x.trail == "" {
			x.trail = x.want
		}
		try(x.name, x.text(a), x.call, x.want, x.trail)
	}
	for _, x := range tokenExcesses {
		try(x.name, x.text(a), x.call(a), x.want, x.want)
	}
	if n := len(tokenForgeries) + len(tokenExcesses); n < 50 {
		t.Errorf("%d attempts", n)
	}
	// Each refusal is in the trail; what repeats is counted, once a second.
	eventually(t, "the trail has them all", 10*time.Second, func() (bool, string) {
		got := make(map[errdefs.Code]uint64)
		for _, e := range in.audit(t, "--op", "denied") {
			if strings.HasPrefix(e.Actor, "token:") || e.Actor == "bearer" {
				got[errdefs.Code(e.Code)] += max(e.Count, 1)
			}
		}
		for code, n := range want {
			if got[code] < n {
				return false, fmt.Sprintf("%s %d times, not %d; all: %v", code, got[code], n, got)
			}
		}
		return true, ""
	})
	// And nothing came of any.
	in.countsOn(t, "other")
	in.countsOn(t, "mine")
	if all := in.ps(t); len(all) != 2 {
		t.Errorf("agents: %+v", all)
	}
	if k := in.tokenKey(t); len(k.Trusted) != 0 || k.Listen != a.at {
		t.Errorf("%+v", k)
	}
	in.ok(t, "audit", "verify")
}
