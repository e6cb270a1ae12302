package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// from runs an agent that begins from a template, with text as its input.
func (in *install) from(t *testing.T, template, input string, args ...string) result {
	t.Helper()
	return in.runWith(t, strings.NewReader(input), append([]string{"run", "--from", template}, args...)...)
}

func (in *install) template(t *testing.T, args ...string) string {
	t.Helper()
	return strings.TrimSpace(string(in.ok(t, append([]string{"template", "create", "--platform", in.platform}, args...)...)))
}

// The examples of docs/templates.md.
func TestTemplates(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		id := in.template(t, "py", "--", "python3", "-c", "import json, asyncio, urllib.request, sys; exec(sys.stdin.read())")
		for _, word := range []string{"one", "two"} {
			r := in.from(t, "py", `print(json.dumps([w, __import__("os").uname().nodename])) if (w := open("/aios/self/job").read()) else 0; sys.exit(3)`, "--name", word, "-e", "A=b", "--", word)
			if want := `["{\"args\":[\"` + word + `\"],\"env\":{\"A\":\"b\"}}\n", "` + word + "\"]\n"; r.status != 3 || string(r.stdout) != want {
				t.Errorf("%s, want %s", r, want)
			}
		}
		// It is no agent.
		if got := string(in.ok(t, "ps", "-q")); got != "" {
			t.Errorf("these run: %s", got)
		}
		if got := string(in.ok(t, "ps", "-a")); !strings.Contains(got, "template") {
			t.Errorf("ps -a: %s", got)
		}
		for _, args := range [][]string{{"exec", "py", "true"}, {"kill", "py"}, {"kill", "-s", "TERM", "py"}, {"pause", "py"}, {"resume", "py"}, {"attach", "py"}, {"clone", "py"}, {"rm", "py"}} {
			if r := in.run(t, args...); r.status == 0 {
				t.Errorf("%v: %s", args, r)
			}
		}
		// It survives the daemon.
		kill9(t, in.process(t, "serve"))
		if r := in.from(t, "py", "print(6*7)"); r.status != 0 || string(r.stdout) != "42\n" {
			t.Errorf("with another daemon: %s", r)
		}
		ids := strings.Fields(string(in.ok(t, "spawn", "--from", "py", "-i", "--name", "many", "-n", "3")))
		var list []struct {
			ID, Name, State string
			Agents          int
			Memory          uint64 `json:"memory_bytes"`
		}
		must(t, json.Unmarshal(in.ok(t, "template", "ls", "-o", "json"), &list))
		if len(list) != 1 || list[0].ID != id || list[0].State != "ready" || list[0].Agents != 3 || list[0].Memory == 0 || len(ids) != 3 {
			t.Errorf("%+v, %v", list, ids)
		}
		in.ok(t, "template", "rm", "py")
		if got := string(in.ok(t, "ps", "-q")); len(strings.Fields(got)) != 3 {
			t.Errorf("the agents did not outlive the template: %s", got)
		}
		if r := in.from(t, "py", ""); r.status != 125 || !strings.Contains(string(r.stderr), "no template has that ID or name") {
			t.Errorf("of one that is gone: %s", r)
		}
		// Its name is free.
		for _, x := range []struct{ want, script string }{{"it wrote:\nTraceback", "import no_such_module"}, {"was not warm after 200ms", "import time; time.sleep(100)"}} {
			r := in.run(t, "template", "create", "--platform", in.platform, "--timeout", "200ms", "py", "--", "python3", "-c", x.script)
			if strings.Contains(x.want, "Traceback") { // However slow the host is.
				r = in.run(t, "template", "create", "--platform", in.platform, "py", "--", "python3", "-c", x.script)
			}
			if r.status == 0 || !strings.Contains(string(r.stderr), x.want) {
				t.Errorf("%s: %s", x.script, r)
			}
		}
		in.template(t, "py", "--", "cat")
		in.ok(t, "domain", "stop", "--force", "default")
		if got := string(in.ok(t, "template", "ls", "-o", "json")); strings.TrimSpace(got) != "[]" {
			t.Errorf("it outlives its domain: %s", got)
		}
	})
}

// A program that says that it is warm, in every language that there is a module for,
// gets its job in each copy, and random numbers of its own.
func TestTemplateModules(t *testing.T) {
	need(t, "python3")
	built := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(built, "warm"), "./testdata/template/warm").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	onOne(t, func(t *testing.T, in *install) {
		in.template(t, "python", "--mount", absolute(t, "testdata/template")+":/p", "-e", "PYTHONPATH=/aios/lib", "--", "python3", "/p/warm.py")
		in.template(t, "go", "--mount", built+":/built", "--", "/built/warm")
		for _, name := range []string{"python", "go"} {
			seen := make(map[string]bool)
			for _, job := range []string{"first", "second", "third"} {
				r := in.from(t, name, "input of "+job, "-e", "JOB="+job, "-w", "/tmp", "--mount", built+":/built", "--", job, "x y")
				lines := strings.SplitN(string(r.stdout), "\n", 2)
				if want := name + " " + job + " x y " + job + " /tmp 1 input of " + job; r.status != 7 || len(lines) != 2 || lines[0] != want {
					t.Fatalf("%s, want %q", r, want)
				}
				seen[lines[1]] = true
			}
			if len(seen) != 3 {
				t.Errorf("%s: copies draw the same: %v", name, seen)
			}
		}
		if r := in.agent(t, "--mount", absolute(t, "testdata/template")+":/p", "-e", "PYTHONPATH=/aios/lib", "-e", "JOB=own", "--", "python3", "/p/warm.py", "one", "two"); r.status != 7 || !strings.HasPrefix(string(r.stdout), "None one two own / 0 ") {
			t.Errorf("without a template: %s", r)
		}
	})
}

// What a copy of a template may do is what its own command says.
func TestTemplateAuthority(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"data": []byte(strings.Repeat("secret ", 1000))})
		in.template(t, "holds", "--mount", dir+":/d", "--", "python3", "-c", `import sys, mmap
with open("/d/data") as f:
    m = mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
print("warm", flush=True); exec(sys.stdin.read())`)
		if r := in.from(t, "holds", "print(1)"); r.status != 125 || !strings.Contains(string(r.stderr), "/d/data") {
			t.Errorf("without the directory: %s", r)
		}
		if r := in.from(t, "holds", "print(m[:6].decode())", "--mount", dir+":/d"); r.status != 0 || string(r.stdout) != "secret\n" {
			t.Errorf("with it: %s", r)
		}
		in.template(t, "net", "--grant", "net:loopback", "--", "python3", "-c", "import socket, sys; exec(sys.stdin.read())")
		listen := `s = socket.socket(); s.bind(("127.0.0.1", 0)); print("bound")`
		if r := in.from(t, "net", listen); r.status == 0 || strings.Contains(string(r.stdout), "bound") {
			t.Errorf("a copy has the template's network: %s", r)
		}
		if r := in.from(t, "net", listen, "--grant", "net:loopback"); r.status != 0 || string(r.stdout) != "bound\n" {
			t.Errorf("with a grant of its own: %s", r)
		}
		if r := in.from(t, "net", `b = bytearray(200 << 20); print("had it")`, "--memory", "64M"); strings.Contains(string(r.stdout), "had it") {
			t.Errorf("its memory is not bounded: %s", r)
		}
		// A bearer needs to be allowed the template, too.
		address := in.listen(t)
		text, _ := in.issue(t, "--op", "spawn,attach,wait", "--agent", "mine*")
		if r := in.bearing(address, text).run(t, "spawn", "--from", "net", "--name", "mine"); r.status == 0 {
			t.Errorf("a bearer began from a template that is not among its agents: %s", r)
		}
		text, _ = in.issue(t, "--op", "spawn,pause,attach,wait", "--agent", "*")
		if r := in.bearing(address, text).run(t, "spawn", "--from", "net", "--name", "mine"); r.status != 0 {
			t.Errorf("one that may: %s", r)
		}
	})
}

// An agent that began from a template is started again from it.
func TestRestartFromTemplate(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.template(t, "flaky", "--", "sh", "-c", `echo warmed; echo ready > /aios/self/template; echo began; exit 3`)
		f := in.follow(t)
		agent := in.spawn(t, "--from", "flaky", "--name", "again", "--restart", "on-failure:2")
		f.wait(t, "agent.restart", about(agent, "attempt", "2", "from", "template"))
		eventually(t, "it began three times", patience, func() (bool, string) {
			out := string(in.ok(t, "logs", "again"))
			return out == strings.Repeat("began\n", 3), out
		})
		in.ok(t, "template", "rm", "flaky")
	})
}

// A program in a copy hears that it is one, and draws other numbers than the original.
func TestCopiesReseed(t *testing.T) {
	need(t, "python3")
	onOne(t, func(t *testing.T, in *install) {
		original := in.spawn(t, "--mount", absolute(t, "testdata/template")+":/p", "-e", "PYTHONPATH=/aios/lib", "--", "python3", "/p/reseed.py")
		eventually(t, "it runs", patience, func() (bool, string) {
			out := string(in.ok(t, "logs", original))
			return strings.HasPrefix(out, "begun\n"), out
		})
		copies := strings.Fields(string(in.ok(t, "clone", "-n", "2", original)))
		drawn := make(map[string]bool)
		for i, id := range append(copies, original) {
			in.ok(t, "exec", id, "touch", "/tmp/go")
			if r := in.run(t, "wait", id); r.status != 0 {
				t.Errorf("wait: %s", r)
			}
			out := strings.Fields(strings.TrimPrefix(string(in.ok(t, "logs", id)), "begun\n"))
			want := "copy:1 " + original
			if i == len(copies) {
				want = ""
			}
			if len(out) == 0 || strings.Join(out[:len(out)-1], " ") != want {
				t.Fatalf("%s wrote %q, want %q and a number", id, out, want)
			}
			drawn[out[len(out)-1]] = true
		}
		if len(drawn) != 3 {
			t.Errorf("they drew %v", drawn)
		}
	})
}
