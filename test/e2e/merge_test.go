package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mergeResult is what `aiosctl merge -o json` says.
type mergeResult struct {
	Merged        bool
	Changes       []struct{ Path, Change string }
	Conflicts     []struct{ Path, Kind string }
	ChangeCount   int `json:"change_count"`
	ConflictCount int `json:"conflict_count"`
}

func (in *install) merge(t *testing.T, status int, args ...string) (m mergeResult) {
	t.Helper()
	r := in.run(t, append([]string{"merge", "-o", "json"}, args...)...)
	if r.status != status {
		t.Fatalf("merge %v: %s", args, r)
	}
	if err := json.Unmarshal(r.stdout, &m); err != nil {
		t.Fatalf("%s: %v", r, err)
	}
	return m
}

// Repositories and trees that both sides work on are one again.
func TestMerge(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		need(t, "git")
		need(t, "python3")
		in.spawn(t, "--name", "worker", "--", "sleep", "1000")
		do := func(who, script string) string {
			t.Helper()
			return string(in.ok(t, "exec", who, "--", "bash", "-ec", "export HOME=/root GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@a; "+script))
		}
		do("worker", `mkdir -p /w && cd /w && git init -q -b main repo && cd repo && for i in $(seq 20); do echo $i > f$i; done && git add . && git commit -qm one && git init -q -b main /w/other && echo own > /w/own`)
		in.ok(t, "clone", "--name", "trial", "worker")
		if m := in.merge(t, 0, "--dry-run", "trial"); m.ChangeCount+m.ConflictCount != 0 {
			t.Errorf("a copy that has changed nothing: %+v", m)
		}
		if got := do("trial", "cd /w/repo && git status --porcelain"); got != "" {
			t.Errorf("git says in the copy: %s", got)
		}
		do("trial", `cd /w/repo && echo more >> f1 && git mv f2 moved && git rm -q f3 && git commit -qam two && git gc -q && python3 - <<'X'
import os
for d in range(10):
    os.makedirs(f"/w/tree/{d}/x")
    for i in range(50):
        with open(f"/w/tree/{d}/{i}", "w") as f: f.write(f"{d} {i}\n" * i)
os.symlink("../own", "/w/tree/link")
os.setxattr("/w/tree/0/1", "user.made", b"by python")
X`)
		do("worker", `cd /w/other && echo x > x && git add x && git commit -qm ours && echo more >> /w/own`)
		m := in.merge(t, 0, "--into", "worker", "trial")
		if !m.Merged || m.ConflictCount > 0 {
			t.Errorf("%+v", m)
		}
		if got := do("worker", `cd /w/repo && git fsck --strict 2>&1 && git log --format=%s && git status --porcelain && ls && cd /w/other && git log --format=%s && cat /w/own /w/tree/link && find /w/tree -type f | wc -l && cat /w/tree/9/3 && python3 -c 'import os; print(os.getxattr("/w/tree/0/1", "user.made"))'`); got !=
			"two\none\nf1\nf10\nf11\nf12\nf13\nf14\nf15\nf16\nf17\nf18\nf19\nf20\nf4\nf5\nf6\nf7\nf8\nf9\nmoved\nours\nown\nmore\nown\nmore\n500\n9 3\n9 3\n9 3\nb'by python'\n" {
			t.Errorf("the agent has\n%s", got)
		}
		eventually(t, "the copy has ended", 10*time.Second, func() (bool, string) {
			r := in.run(t, "inspect", "trial")
			return strings.Contains(string(r.stdout), "merged into worker"), r.String()
		})
		if l := in.audit(t, "--op", "merge"); len(l) != 1 {
			t.Errorf("the trail has %+v", l)
		}
	})
}

// Conflicts end a merge, unless it is said who is right.
func TestMergeConflicts(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := t.TempDir()
		in.spawn(t, "--name", "worker", "--memory", "512M", "--grant", "fs:"+dir+":rw,at=/shared", "--", "sleep", "1000")
		in.ok(t, "exec", "worker", "--", "sh", "-c", "echo 1 > /etc/f; echo 1 > /tmp/g")
		had := in.capOf(t, "worker", "mem:")
		in.ok(t, "clone", "--name", "trial", "worker")
		in.ok(t, "clone", "--name", "deeper", "trial")
		in.ok(t, "exec", "worker", "--", "sh", "-c", "echo ours > /etc/f")
		in.ok(t, "exec", "trial", "--", "sh", "-c", "echo theirs > /etc/f; rm /tmp/g; echo host > /shared/h")
		r := in.run(t, "merge", "--into", "worker", "deeper")
		if r.status == 0 || !strings.Contains(string(r.stderr), "it is a copy of trial") {
			t.Errorf("of a copy of a copy: %s", r)
		}
		r = in.run(t, "merge", "worker")
		if r.status == 0 || !strings.Contains(string(r.stderr), "is no copy") {
			t.Errorf("of what is no copy: %s", r)
		}
		m := in.merge(t, 125, "trial")
		if len(m.Conflicts) != 1 || m.Conflicts[0].Path != "/etc/f" || m.Conflicts[0].Kind != "both modified" || m.Merged {
			t.Errorf("%+v", m)
		}
		r = in.run(t, "merge", "--abort", "trial")
		if r.status == 0 || !strings.Contains(string(r.stderr), "1 conflict; nothing was merged") || !strings.Contains(string(r.stdout), "/etc/f") {
			t.Errorf("%s", r)
		}
		if got := string(in.ok(t, "exec", "worker", "--", "cat", "/etc/f", "/tmp/g")); got != "ours\n1\n" {
			t.Errorf("it has %q", got)
		}
		if r := in.run(t, "merge", "--ours", "--theirs", "trial"); r.status == 0 {
			t.Errorf("%s", r)
		}
		in.merge(t, 0, "--theirs", "trial")
		if r := in.run(t, "exec", "worker", "--", "sh", "-c", "cat /etc/f; ls /tmp/g"); !strings.HasPrefix(string(r.stdout), "theirs\n") || r.status == 0 {
			t.Errorf("%s", r)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "h")); err != nil || string(got) != "host\n" {
			t.Errorf("the granted directory has %q, %v", got, err)
		}
		r = in.run(t, "merge", "deeper")
		if r.status == 0 || !strings.Contains(string(r.stderr), "has ended") {
			t.Errorf("whose original has ended: %s", r)
		}
		in.ok(t, "rm", "-f", "deeper")
		if got := in.capOf(t, "worker", "mem:"); got.Left != had.Left {
			t.Errorf("of its memory %v is left, of %v", got.Left, had.Left)
		}
	})
}
