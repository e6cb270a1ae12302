package e2e

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/abi"
)

// The escape suite: programs inside agents try to get at what they were not
// given, one attempt per row of a table. A door must refuse each with the errno
// that programs expect, and the refusal must be in the audit trail. A few rows
// try what has no door, because what they want cannot be named inside an agent;
// they say so.
//
//	escape_calls_test.go       system calls, memory, signals, sockets
//	escape_files_test.go       around the rights and the quota of a grant of files
//	escape_revoked_test.go     what was kept from before a revocation
//	escape_control_test.go     handles, IDs and structures, forged and replayed
//	escape_neighbour_test.go   other agents
//	escape_token_test.go       tokens, from outside
//
// testdata/attack.py is the program that carries them out.

// attempt is one row.
type attempt struct {
	name string
	// code is Python text, run by attack.py; want is what comes of it: the name
	// of an errno, and of the code of AIOS where the door tells it; the name of
	// a signal; or the value of the last expression.
	code, want string
	// trail is the target of the record of the refusal, whose errno is that of
	// want. $DIR in it is the directory of the theme; with … at its end it is how
	// the target begins. Without it, why says why no door is asked.
	trail, why string
	// before is run while it is still allowed, in the tables of what is revoked.
	before string
	// errno is that of the record, where the program does not see it.
	errno string
}

// escapeTheme is a table and how to run it.
type escapeTheme struct {
	name string
	rows []attempt
	run  func(t *testing.T, e *escape)
}

var escapeThemes = []escapeTheme{
	{"calls", escapeCalls, runEscapeCalls},
	{"files", escapeFiles, runEscapeFiles},
	{"revoked", slices.Concat(escapeRevoked, escapeNarrowed, escapeLost), runEscapeRevoked},
	{"control", escapeControl, runEscapeControl},
	{"neighbour", escapeNeighbour, runEscapeNeighbour},
}

// enoughEscapes is how many attempts must be refused by a door.
const enoughEscapes = 60

//go:embed testdata/attack.py
var attackProgram string

// TestEscape makes every attempt, on every platform.
func TestEscape(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "neighbour", "--", "sh", "-c", counter)
		for _, theme := range escapeThemes {
			t.Run(theme.name, func(t *testing.T) {
				e := newEscape(t, in, theme)
				theme.run(t, e)
				e.verify(t)
			})
		}
	})
}

// TestEscapeTables checks that the rows say what they must, and that there are
// enough.
func TestEscapeTables(t *testing.T) {
	refused := 0
	for _, theme := range escapeThemes {
		seen := make(map[string]bool)
		for _, a := range theme.rows {
			switch {
			case seen[a.name]:
				t.Errorf("%s: %q is there twice", theme.name, a.name)
			case a.code == "" || a.want == "" || (a.trail == "") == (a.why == ""):
				t.Errorf("%s: %q is not complete", theme.name, a.name)
			}
			seen[a.name] = true
			if a.trail != "" {
				refused++
			}
		}
	}
	if refused < enoughEscapes {
		t.Errorf("%d attempts are refused by a door, there must be %d", refused, enoughEscapes)
	}
}

// escape is one theme at work.
type escape struct {
	in     *install
	theme  escapeTheme
	dir    string // what is granted is below it
	agents []*hostile
	// names are what stands for something in the column trail.
	names map[string]string

	// canary is a file beside what is granted; secret is what it holds.
	canary, secret string
	kept           os.FileInfo
}

func newEscape(t *testing.T, in *install, theme escapeTheme) *escape {
	t.Helper()
	e := &escape{in: in, theme: theme, dir: filepath.Join(in.dir, theme.name), secret: fmt.Sprintf("secret-%x", noise(11, 16))}
	e.names = map[string]string{"$DIR": e.dir}
	e.canary = filepath.Join(e.dir, "outside", "canary")
	must(t, os.MkdirAll(filepath.Dir(e.canary), 0o755))
	must(t, os.WriteFile(e.canary, []byte(e.secret), 0o644))
	var err error
	e.kept, err = os.Stat(e.canary)
	must(t, err)
	return e
}

// share makes a directory of files beside the canary, for grants.
func (e *escape) share(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(e.dir, name)
	must(t, os.MkdirAll(dir, 0o755))
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	return dir
}

// hostile is an agent that attacks on request.
type hostile struct {
	*command
	name, id string
}

// hostile starts one. names are variables of its attacks.
func (e *escape) hostile(t *testing.T, name string, names map[string]string, flags ...string) *hostile {
	t.Helper()
	given := struct {
		Calls  map[string]int    `json:"calls"`
		Ioctls map[string][2]int `json:"ioctls"`
		Names  map[string]string `json:"names"`
	}{map[string]int{}, map[string][2]int{}, map[string]string{"canary": e.canary, "host": e.dir}}
	for _, c := range abi.Syscalls() {
		given.Calls[c.Name] = int(c.Nr)
	}
	for _, c := range abi.DeviceCalls() {
		given.Ioctls[c.Name] = [2]int{int(c.Request()), c.Size()}
	}
	for k, v := range names {
		given.Names[k] = v
	}
	numbers, err := json.Marshal(given)
	must(t, err)
	args := append([]string{"-q", "--keep", "--name", name}, flags...)
	c := e.in.startAgent(t, append(args, "--", "python3", "-u", "-c", attackProgram, string(numbers))...)
	h := &hostile{command: c, name: name}
	h.do(t, "start", "1")
	h.id = e.in.inspect(t, name).ID
	e.agents = append(e.agents, h)
	return h
}

// do runs code, of the attempt of that name, and returns what came of it.
func (h *hostile) do(t *testing.T, name, code string) string {
	t.Helper()
	line, err := json.Marshal(map[string]string{"name": name, "code": code})
	must(t, err)
	h.write(string(line) + "\n")
	h.answer(t, name, "= ")
	text := h.answer(t, name, "\n")
	var got string
	must(t, json.Unmarshal([]byte(text), &got))
	return got
}

// answer waits for text, for as long as the agent is there.
func (h *hostile) answer(t *testing.T, name, text string) string {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		before, found := h.stdout.within(100*time.Millisecond, text)
		if found {
			return before
		}
		select {
		case <-h.ended:
		default:
			if time.Now().Before(end) {
				continue
			}
		}
		t.Fatalf("%s: no answer\nstdout: %s\nstderr: %s", name, h.stdout, h.stderr)
	}
}

// try makes the attempts of a table.
func (h *hostile) try(t *testing.T, rows []attempt) {
	t.Helper()
	for _, a := range rows {
		h.attack(t, a)
	}
}

func (h *hostile) attack(t *testing.T, a attempt) {
	t.Helper()
	if got := h.do(t, a.name, a.code); got != a.want {
		t.Errorf("%s: %q, want %q", a.name, got, a.want)
	}
}

// refusals returns what the doors refused the agents of the theme.
func (e *escape) refusals(t *testing.T) []auditEntry {
	t.Helper()
	var out []auditEntry
	for _, h := range e.agents {
		out = append(out, e.in.audit(t, "--op", "denied", "--agent", h.id)...)
	}
	return out
}

// expected is what the records of some attempts look like. Attempts that look
// alike there make one record, which counts them.
type expected struct{ target, errno string }

// missing returns the attempts whose refusal the trail does not hold.
func (e *escape) missing(t *testing.T) []string {
	t.Helper()
	records := e.refusals(t)
	want := make(map[expected][]string)
	for _, a := range e.theme.rows {
		if a.trail == "" {
			continue
		}
		errno, _, _ := strings.Cut(a.want, " ")
		if a.errno != "" {
			errno = a.errno
		}
		for name, is := range e.names {
			a.trail = strings.ReplaceAll(a.trail, name, is)
		}
		k := expected{a.trail, errno}
		want[k] = append(want[k], a.name)
	}
	var out []string
	for k, names := range want {
		n := uint64(0)
		for _, r := range records {
			if r.Errno == k.errno && (r.Target == k.target || strings.HasSuffix(k.target, "…") && strings.HasPrefix(r.Target, strings.TrimSuffix(k.target, "…"))) {
				n += r.Count
			}
		}
		if n < uint64(len(names)) {
			out = append(out, fmt.Sprintf("%q %s is there %d times, for %q", k.target, k.errno, n, names))
		}
	}
	slices.Sort(out)
	return out
}

// verify checks the trail, and that nothing leaked.
func (e *escape) verify(t *testing.T) {
	t.Helper()
	// Refusals are told once a second.
	var missing []string
	for end := time.Now().Add(6 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if missing = e.missing(t); len(missing) == 0 || time.Now().After(end) {
			break
		}
	}
	for _, m := range missing {
		t.Errorf("the trail: %s", m)
	}
	if t.Failed() {
		for _, r := range e.refusals(t) {
			t.Logf("%q %s ×%d", r.Target, r.Errno, r.Count)
		}
	}
	raw, err := os.ReadFile(e.canary)
	must(t, err)
	now, err := os.Stat(e.canary)
	must(t, err)
	if string(raw) != e.secret || now.Mode() != e.kept.Mode() || !now.ModTime().Equal(e.kept.ModTime()) {
		t.Errorf("the canary was changed: %q %v", raw, now.Mode())
	}
	entries, err := os.ReadDir(filepath.Dir(e.canary))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the canary: %v %v", entries, err)
	}
	for _, h := range e.agents {
		if strings.Contains(h.stdout.String()+h.stderr.String(), e.secret) {
			t.Errorf("%s has read the canary", h.name)
		}
		h.stdin.Close()
		if r := h.wait(); r.status != 0 {
			t.Errorf("%s ended badly: %s", h.name, r)
		}
		e.in.ok(t, "rm", "-f", h.name)
	}
	e.in.countsOn(t, "neighbour")
	if n := e.in.inspect(t, "neighbour").State; n != "running" {
		t.Errorf("the neighbour is %s", n)
	}
}
