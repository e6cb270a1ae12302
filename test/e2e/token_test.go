package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// doorKey is what `token key -o json` prints.
type doorKey struct {
	Key, Audience, Listen, Failed string
	KeyID                         string `json:"key_id"`
	Trusted                       []struct {
		KeyID string `json:"key_id"`
	}
	Revoked int
}

func (in *install) tokenKey(t testing.TB) doorKey {
	t.Helper()
	var k doorKey
	must(t, json.Unmarshal(in.ok(t, "token", "key", "-o", "json"), &k))
	return k
}

// listen has the daemon serve bearers at a socket, and returns the address.
func (in *install) listen(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(string(in.ok(t, "token", "listen", "unix:"+filepath.Join(in.dir, "door"))))
}

var tokenID = regexp.MustCompile(`^t[0-9a-f]{32}`)

// issue returns a token and its ID.
func (in *install) issue(t testing.TB, flags ...string) (text, id string) {
	t.Helper()
	r := in.run(t, append([]string{"token", "issue", "--subject", "tester"}, flags...)...)
	id = tokenID.FindString(string(r.stderr))
	if r.status != 0 || id == "" || strings.Count(string(r.stdout), "\n") != 1 {
		t.Fatalf("issue: %s", r)
	}
	return strings.TrimSpace(string(r.stdout)), id
}

// bearing is the installation as the bearer of a token knows it: its commands go
// to an address, "" for the daemon's own socket, with the token.
func (in *install) bearing(address, text string) *install {
	b := *in
	b.env = append(append([]string(nil), in.env...), "AIOS_CONNECT="+address, "AIOS_TOKEN="+text)
	return &b
}

// refused runs a command that a token does not allow.
func (in *install) refused(t testing.TB, says string, args ...string) {
	t.Helper()
	if r := in.run(t, args...); r.status != 125 || !strings.Contains(string(r.stderr), says) {
		t.Errorf("aiosctl %s: %s\nwant %q", strings.Join(args, " "), r, says)
	}
}

// What aiosctl says when a token is no good: which way, the bearer is not told.
const notAccepted = "the token is not one that this host accepts"

// TestToken has somebody who is no user of the daemon do what a token allows.
func TestToken(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		data := in.share(t, map[string][]byte{"in/f": []byte("hello\n")})
		in.spawn(t, "--name", "other", "--", "sleep", "1000")
		at := in.listen(t)
		text, id := in.issue(t, "--op", "spawn,attach,list,inspect,logs,exec,wait,signal,remove", "--agent", "own",
			"--grant", "fs:"+data+":ro", "--max-agents", "2")
		b := in.bearing(at, text)
		if os.Getuid() == 0 {
			b.uid = 54321
		}
		if got := b.sh(t, "cat /d/f", "--grant", "fs:"+data+"/in:ro,at=/d"); got != "hello\n" {
			t.Errorf("%q", got)
		}
		first := b.spawn(t, "--name", "mine", "--label", "team=a", "--", "sh", "-c", "echo said; sleep 1000")
		if all := b.ps(t); len(all) != 1 || all[0].ID != first {
			t.Errorf("the bearer sees %+v", all)
		}
		if all := in.ps(t); len(all) != 2 {
			t.Errorf("the operator sees %+v", all)
		}
		if got := string(b.ok(t, "exec", "mine", "--", "echo", "more")); got != "more\n" {
			t.Errorf("%q", got)
		}
		eventually(t, "the log is there", 10*time.Second, func() (bool, string) {
			got := string(b.ok(t, "logs", "mine"))
			return strings.Contains(got, "said\n"), got
		})
		var full []struct{ Tokens []string }
		must(t, json.Unmarshal(in.ok(t, "inspect", "-o", "json", "mine"), &full))
		if len(full) != 1 || len(full[0].Tokens) != 1 || full[0].Tokens[0] != id {
			t.Errorf("inspect says it was spawned with %+v", full)
		}
		for _, args := range [][]string{{"inspect", "other"}, {"kill", "other"}, {"exec", "other", "--", "true"}, {"logs", "other"}, {"rm", "-f", "other"}} {
			b.refused(t, "does not extend to this agent", args...)
		}
		b.refused(t, "does not allow the operation", "pause", "mine")
		b.refused(t, "does not allow the operation", "audit", "tail")
		b.refused(t, "does not give fs:/etc:ro", b.runArgs("--grant", "fs:/etc:ro", "--", "true")...)
		b.spawn(t, "--name", "second", "--", "sleep", "1000")
		b.refused(t, "allows 2 agents at once", b.runArgs("--", "true")...)
		b.ok(t, "kill", "second")
		b.run(t, "wait", "second")
		if got := b.sh(t, "echo again"); got != "again\n" {
			t.Errorf("%q", got)
		}

		// Narrower, without a daemon; and on the ordinary socket it restricts.
		child := strings.TrimSpace(string(in.bearing("unix:/nonexistent/s", text).ok(t, "token", "attenuate", "--op", "list,spawn", "--agent", "own")))
		narrow := in.bearing("", child)
		if all := narrow.ps(t, "-a"); len(all) != 0 {
			t.Errorf("the child has agents of its parent: %+v", all)
		}
		narrow.refused(t, "does not allow the operation", "doctor")
		narrow.refused(t, "restriction 1 does not allow", "kill", "mine")

		// Only the daemon's user may use the ordinary socket, token or not.
		if os.Getuid() == 0 {
			stranger := in.bearing("unix:"+filepath.Join(in.state, "run", "aios.sock"), text)
			stranger.uid = 54321
			if r := stranger.run(t, "ps"); r.status != 125 {
				t.Errorf("%s", r)
			}
		}
		in.bearing(at, "").refused(t, notAccepted, "ps")

		if got := string(in.ok(t, "token", "revoke", id, "--reason", "enough")); got != "revoked "+id+"\n" {
			t.Errorf("%q", got)
		}
		b.refused(t, notAccepted, "ps")
		narrow.refused(t, notAccepted, "ps")
		for op, want := range map[string]string{"token.issue": "agent=own", "token.revoke": "enough", "token.use": "token:tester"} {
			if all := in.audit(t, "--op", op); len(all) == 0 || all[0].Cap != id || !strings.Contains(fmt.Sprint(all[0]), want) {
				t.Errorf("%s: %+v", op, all)
			}
		}
		if len(in.audit(t, "--op", "mint", "--agent", "mine")) == 0 || in.audit(t, "--op", "mint", "--agent", "mine")[0].Actor != "token:tester" {
			t.Errorf("who minted: %+v", in.audit(t, "--op", "mint", "--agent", "mine"))
		}
		if raw := in.ok(t, "audit", "query", "-o", "json"); strings.Contains(string(raw), text) || strings.Contains(string(raw), child) {
			t.Error("the trail has a token")
		}
		in.ok(t, "audit", "verify")
	})
}

// TestRevocationEndsCalls revokes while calls of three kinds are under way.
func TestRevocationEndsCalls(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		text, id := in.issue(t, "--op", "spawn,attach,logs,wait", "--agent", "own")
		b := in.bearing(in.listen(t), text)
		b.spawn(t, "--name", "mine", "--", "sh", "-c", counter)
		calls := []*command{b.start(t, "logs", "-f", "mine"), b.start(t, "attach", "--no-stdin", "mine"), b.start(t, "wait", "mine")}
		for _, c := range calls[:2] {
			c.stdout.expect(t, "\n")
		}
		time.Sleep(300 * time.Millisecond) // wait says nothing until it ends.
		began := time.Now()
		if got := string(in.ok(t, "token", "revoke", id)); !strings.Contains(got, "ended 3 calls") {
			t.Errorf("%q", got)
		}
		took := time.Since(began)
		for _, c := range calls {
			if r := c.wait(); r.status != 125 || !strings.Contains(string(r.stderr), notAccepted) {
				t.Errorf("%s: %s", strings.Join(c.cmd.Args[1:], " "), r)
			}
		}
		t.Logf("a revocation that ends three calls: %v", took.Round(time.Millisecond))
		in.countsOn(t, "mine") // The agent is not the token.
	})
}

// TestTokensOutliveTheDaemon kills the daemon: what was issued, revoked and
// spawned, and where bearers are served, is known to the next.
func TestTokensOutliveTheDaemon(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		at := strings.TrimSpace(string(in.ok(t, "token", "listen", "tcp:127.0.0.1:0")))
		text, _ := in.issue(t, "--op", "spawn,list", "--agent", "own")
		gone, id := in.issue(t, "--op", "list", "--agent", "*")
		b := in.bearing(at, text)
		mine := b.spawn(t, "--", "sleep", "1000")
		in.ok(t, "token", "revoke", id)
		before := in.tokenKey(t)
		kill9(t, in.process(t, "serve"))
		b.refused(t, "connect to daemon", "ps") // No bearer starts a daemon.
		in.ok(t, "daemon", "start")
		if now := in.tokenKey(t); now.Key != before.Key || now.Audience != before.Audience || now.Listen != at || now.Revoked != 1 {
			t.Errorf("before: %+v\nnow: %+v", before, now)
		}
		if all := b.ps(t); len(all) != 1 || all[0].ID != mine {
			t.Errorf("the bearer sees %+v", all)
		}
		in.bearing(at, gone).refused(t, notAccepted, "ps")
		in.ok(t, "token", "listen", "off")
		b.refused(t, "connect to daemon", "ps")
	})
}

// TestTokenForAnotherHost hands authority from one daemon to the bearers of
// another, as between two hosts.
func TestTokenForAnotherHost(t *testing.T) {
	onOne(t, func(t *testing.T, here *install) {
		there := newInstall(t, here.platform)
		data := there.share(t, map[string][]byte{"f": []byte("there\n")})
		mine, theirs := here.tokenKey(t), there.tokenKey(t)
		if mine.Key == theirs.Key || mine.Audience == theirs.Audience {
			t.Fatalf("%+v\n%+v", mine, theirs)
		}
		text, id := here.issue(t, "--op", "spawn,attach,list", "--agent", "own", "--grant", "fs:"+data+":ro", "--audience", theirs.Audience)
		at := there.listen(t)
		b := there.bearing(at, text)
		b.refused(t, notAccepted, "ps") // Nobody there trusts the key.
		if got := strings.TrimSpace(string(there.ok(t, "token", "trust", mine.Key))); got != mine.KeyID {
			t.Errorf("%q", got)
		}
		if got := b.sh(t, "cat "+data+"/f", "--grant", "fs:"+data+":ro"); got != "there\n" {
			t.Errorf("%q", got)
		}
		here.bearing(here.listen(t), text).refused(t, notAccepted, "ps") // It is not for here.
		// What was not issued for there is not accepted there.
		own, _ := here.issue(t, "--op", "list", "--agent", "*")
		there.bearing(at, own).refused(t, notAccepted, "ps")
		// The holder passes a part on; each side revokes for itself.
		part := strings.TrimSpace(string(b.ok(t, "token", "attenuate", "--op", "list")))
		there.bearing(at, part).ok(t, "ps")
		there.bearing(at, part).refused(t, "does not allow the operation", there.runArgs("--", "true")...)
		here.ok(t, "token", "revoke", id)
		b.ok(t, "ps")
		there.ok(t, "token", "revoke", id)
		b.refused(t, notAccepted, "ps")
		there.bearing(at, part).refused(t, notAccepted, "ps")

		again, _ := here.issue(t, "--op", "list", "--agent", "own", "--audience", theirs.Audience)
		there.bearing(at, again).ok(t, "ps")
		there.ok(t, "token", "trust", "--remove", mine.KeyID)
		there.bearing(at, again).refused(t, notAccepted, "ps")
		codes := make(map[string]int)
		for _, e := range there.audit(t, "--op", "denied") {
			codes[e.Code]++
		}
		for _, c := range []string{"TOKEN_INVALID", "AUDIENCE_MISMATCH", "TOKEN_REVOKED", "PERMISSION_DENIED"} {
			// A token of a trusted key for another daemon is the mismatch.
			if codes[c] == 0 {
				t.Errorf("no %s in the trail: %v", c, codes)
			}
		}
	})
}

// TestTokenFiles has tokens come from a file, and go to one.
func TestTokenFiles(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	file := filepath.Join(in.dir, "ci.token")
	in.ok(t, "token", "issue", "--subject", "ci", "--op", "list", "--agent", "*", "--out", file)
	defer os.Remove(file)
	at := in.listen(t)
	in.ok(t, "--connect", at, "--token-file", file, "ps")
	show := string(in.ok(t, "--token-file", file, "token", "show"))
	for _, want := range []string{"ci", "list", "accepted", in.tokenKey(t).Audience} {
		if !strings.Contains(show, want) {
			t.Errorf("without %q: %s", want, show)
		}
	}
	r := in.hostSh(t, "$ctl token attenuate - --op= < ci.token | $ctl token seal - | $ctl token show -")
	if r.status != 0 || !strings.Contains(string(r.stdout), "cannot be narrowed") || !strings.Contains(string(r.stdout), "none") {
		t.Errorf("%s", r)
	}
	must(t, os.Chmod(file, 0o644))
	in.refused(t, "others can read the token", "--token-file", file, "ps")
	if fi, err := os.Stat(filepath.Join(in.dir, "door")); err != nil || fi.Mode().Perm() != 0o666 || fi.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	in.refused(t, "SSH tunnel", "token", "listen", "tcp:0.0.0.0:7070")
}
