package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// memoryClient is what a program needs to use semantic memory without a module.
const memoryClient = `
import http.client, json, socket, sys, os, time
class Memory(http.client.HTTPConnection):
    def __init__(self, sock=None):
        super().__init__("aios")
        self.given = sock
    def connect(self):
        self.sock = self.given or socket.socket(socket.AF_UNIX)
        if not self.given: self.sock.connect("/aios/semantic.sock")
    def ask(self, op, **params):
        self.request("POST", "/v1/" + op, json.dumps(params))
        r = self.getresponse()
        out = json.loads(r.read())
        return out if r.status == 200 else out["error"]["code"]
m = Memory()
`

type memoryHit struct {
	ID, Namespace, Text, Agent string
	AgentName                  string `json:"agent_name"`
	Tags                       []string
	Score                      float64
}

func (in *install) remembered(t testing.TB, args ...string) (out []memoryHit) {
	t.Helper()
	raw := in.ok(t, append([]string{"memory"}, args...)...)
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return out
}

// TestSemanticMemory has agents remember and recall; each sees what its
// capabilities show, and what it wrote outlives it, the daemon and the service.
func TestSemanticMemory(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{
			"write.py": []byte(memoryClient + `
print(m.ask("put", namespace="notes", id="cat", text="the cat sleeps on the keyboard", vector=[1, 0, 0], tags=["animals"])["id"])
print(m.ask("put", namespace="notes", id="rain", text="rain is expected in the evening", vector=[0, 1, 0])["id"])
print(m.ask("put", namespace="secrets", text="x"))
print([h["id"] for h in m.ask("search", namespace="notes", text="sleeping cat", vector=[0.9, 0.1, 0])["hits"]])
print(m.ask("put", namespace="notes", id="cat", text="no", if_version=1))
print(m.ask("stats")["usage"]["items"])
`),
			"read.py": []byte(memoryClient + `
print([h["id"] for h in m.ask("search", text="cat rain")["hits"]])
print(m.ask("put", namespace="notes", text="x"))
print(m.ask("get", namespace="notes", ids=["cat", "rain"])["items"][0]["provenance"]["name"])
`),
			"none.py": []byte(memoryClient + `print(m.ask("get", namespace="notes", ids=["cat"]))`),
		})
		got := string(in.ok(t, "run", "--name", "writer", "--grant", "semantic:notes", "--mount", dir+":/d", "--", "python3", "/d/write.py"))
		if want := "cat\nrain\nCAPABILITY_DENIED\n['cat', 'rain']\nVERSION_CONFLICT\n2\n"; got != want {
			t.Errorf("the writer says %q, want %q", got, want)
		}
		// The writer has ended; another one sees what bears a tag.
		got = string(in.ok(t, "run", "--name", "reader", "--grant", "semantic:notes@animals:read", "--mount", dir+":/d", "--", "python3", "/d/read.py"))
		if want := "['cat']\nCAPABILITY_DENIED\nwriter\n"; got != want {
			t.Errorf("the reader says %q, want %q", got, want)
		}
		// One that was given nothing is told so, and finds nothing.
		got = string(in.ok(t, "run", "--mount", dir+":/d", "--", "python3", "/d/none.py"))
		if !strings.HasPrefix(got, "CAPABILITY_DENIED") {
			t.Errorf("one without a capability says %q", got)
		}
		if hits := in.remembered(t, "search", "notes", "cat", "-o", "json"); len(hits) != 1 || hits[0].AgentName != "writer" || !slices.Equal(hits[0].Tags, []string{"animals"}) {
			t.Errorf("an operator finds %+v", hits)
		}
		denials := in.audit(t, "--op", "denied")
		if !slices.ContainsFunc(denials, func(e auditEntry) bool {
			return strings.Contains(e.Target, "memory put") && strings.Contains(e.Target, "semantic:secrets")
		}) {
			t.Errorf("the refusal is not in the audit trail: %+v", denials)
		}
		if uses := in.audit(t, "--op", "use"); !slices.ContainsFunc(uses, func(e auditEntry) bool { return e.Spec == "semantic:notes" }) {
			t.Errorf("the use is not in the audit trail: %+v", uses)
		}
	})
}

// TestSemanticMemoryIsTakenBack revokes under an open connection, and kills the
// service under one.
func TestSemanticMemoryIsTakenBack(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		in.ok(t, "memory", "put", "notes", "the cat sleeps", "--id", "cat")
		dir := in.share(t, map[string][]byte{"ask.py": []byte(memoryClient + `
for line in open("/tmp/in"):
    try:
        got = m.ask("get", namespace="notes", ids=["cat"])
        print(got if isinstance(got, str) else got["items"][0]["text"], flush=True)
    except Exception as e:
        print("failed", e, flush=True)
        m = Memory()
`)})
		in.spawn(t, "--name", "asker", "--grant", "semantic:notes:read", "--mount", dir+":/d", "--", "sh", "-c", "mkfifo /tmp/in; exec 3<>/tmp/in; exec python3 /d/ask.py")
		lines := 0
		ask := func() string {
			t.Helper()
			lines++
			in.ok(t, "exec", "asker", "--", "sh", "-c", "until [ -p /tmp/in ]; do sleep 0.1; done; echo >/tmp/in")
			var last string
			eventually(t, "an answer", 30*time.Second, func() (bool, string) {
				all := strings.Split(strings.TrimSpace(string(in.ok(t, "logs", "asker"))), "\n")
				last = all[len(all)-1]
				return len(all) >= lines && all[0] != "", strings.Join(all, "|")
			})
			return last
		}
		if got := ask(); got != "the cat sleeps" {
			t.Fatalf("it answers %q", got)
		}
		// kill -9 of the service: it is started anew, and nothing is lost.
		pid := in.semanticd(t)
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil || !strings.Contains(string(status), "\nSeccomp:\t2\n") {
			t.Errorf("the service has no seccomp program: %v\n%s", err, status)
		}
		kill9(t, pid)
		eventually(t, "the service runs again", 30*time.Second, func() (bool, string) {
			got := ask()
			return got == "the cat sleeps", got
		})
		in.ok(t, "cap", "revoke", in.capOf(t, "asker", "semantic:").ID)
		if got := ask(); got != "CAPABILITY_REVOKED" {
			t.Errorf("after the revocation it answers %q", got)
		}
		if got := ask(); got != "CAPABILITY_DENIED" {
			t.Errorf("and then %q", got)
		}
		in.ok(t, "cap", "grant", "asker", "semantic:notes:read,lease=1s")
		eventually(t, "the lease ends", 30*time.Second, func() (bool, string) {
			got := ask()
			return got == "LEASE_EXPIRED" || got == "CAPABILITY_DENIED", got
		})
	})
}

// semanticd is the process of the service.
func (in *install) semanticd(t testing.TB) int {
	t.Helper()
	for _, p := range in.processes() {
		if len(p.args) > 1 && p.args[1] == "semanticd" {
			return p.pid
		}
	}
	t.Fatal("semantic memory has no process")
	return 0
}
