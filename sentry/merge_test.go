package sentry

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// mergeImage makes the image "merge" known, once: with more in it to delete.
var mergeImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-merge")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "merge", func(root string) error {
		for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "opt/a/b", "srv/x", "media", "var/empty", "home/u"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		for _, f := range []string{"etc/passwd", "etc/group", "etc/hosts", "opt/a/b/f", "opt/g", "srv/x/f", "srv/g", "media/f", "home/u/f"} {
			if err := os.WriteFile(filepath.Join(root, f), []byte("root:x:0:0::/root:/bin/sh\n"), 0o644); err != nil {
				return err
			}
		}
		bb, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), bb, 0o755); err != nil {
			return err
		}
		for l := range strings.FieldsSeq("sh cat touch find") {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", l)); err != nil {
				return err
			}
		}
		if _, err := exec.LookPath("gcc"); err != nil {
			return nil
		}
		out, err := exec.Command("gcc", "-O1", "-static", "-o", filepath.Join(root, "bin", "mapped"), "testdata/mapped.c").CombinedOutput()
		if err != nil {
			return fmt.Errorf("gcc: %w: %s", err, out)
		}
		return nil
	})
})

// original spawns an agent that stays until it is told to end.
func original(t *testing.T, opts ...func(*control.SpawnRequest)) *spawned {
	t.Helper()
	if err := mergeImage(); err != nil {
		t.Fatal(err)
	}
	s := spawn(t, standing, append(opts, func(r *control.SpawnRequest) { r.Root.Base = "merge" })...)
	s.expect("ready\n")
	return s
}

// standing is a program that ends when it is told to.
var standing = sh("echo ready; until [ -e /end ]; do usleep 5000; done")

// do runs a script in an agent and returns what it says.
func (s *spawned) do(script string) string {
	s.t.Helper()
	out, errout, e := s.execIn(sh(script)).output()
	if e.Code != 0 {
		s.t.Fatalf("%s: %+v %s%s", script, e, out, errout)
	}
	return out
}

// merge folds a copy into its original.
func (s *spawned) merge(conflicts string) control.MergeReply {
	s.t.Helper()
	r, err := theKernel.Merge(control.MergeRequest{ID: s.id, Conflicts: conflicts})
	if err != nil {
		s.t.Fatalf("merge: %v", err)
	}
	s.t.Logf("%d changes, pause %v", r.ChangeCount, r.Pause)
	return r
}

func (s *spawned) dryMerge() control.MergeReply {
	s.t.Helper()
	r, err := theKernel.Merge(control.MergeRequest{ID: s.id, DryRun: true})
	if err != nil {
		s.t.Fatalf("merge: %v", err)
	}
	return r
}

func listed1(r control.MergeReply) string {
	var b strings.Builder
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "%s %s\n", c.Change, c.Path)
	}
	for _, c := range r.Conflicts {
		fmt.Fprintf(&b, "! %s %s\n", c.Kind, c.Path)
	}
	return b.String()
}

// wholeTree lists an agent's files: kind, mode, owner, links, size, time, content.
const wholeTree = `{ find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /aios -o -path /bin -o -path /lib -o -path /end \) -prune \
	-o -type l -exec stat -c '%N' {} + -o -type d -exec stat -c '%n %A %u:%g %Y' {} + -o -type p -exec stat -c '%n %A' {} + \
	-o -exec stat -c '%n %A %u:%g %h %s %Y' {} + -exec md5sum {} +
	find /tmp -type f -exec stat -c '%n %A %s %Y' {} + -exec md5sum {} +; } | sort`

// differing returns the lines that only one text has.
func differing(got, want string) string {
	var b strings.Builder
	for _, x := range []struct{ mark, text, other string }{{"+", got, want}, {"-", want, got}} {
		for l := range strings.Lines(x.text) {
			if !strings.Contains("\n"+x.other, "\n"+l) {
				b.WriteString(x.mark + l)
			}
		}
	}
	return b.String()
}

// before is done in the original before it is copied, changing in the copy.
const (
	before   = `mkdir -p /w/sub /w/gone/deep /tmp/t; for i in 1 2 3 4; do echo $i > /w/f$i; echo t$i > /tmp/t/f$i; done; echo x > /w/gone/deep/x; ln -s f1 /w/link; ln /w/f3 /w/f3b; echo s > /w/sub/s; touch -d '2020-01-02 03:04:05' /w/sub/s /w/sub; chmod 700 /w/sub; mkdir /w/swap; echo in > /w/swap/in; echo file > /w/file; mkfifo /w/fifo`
	changing = `cd /w; echo more >> f1; rm f2; chmod 640 f4; chown 5:6 f4; rm -r gone; ln -sf f4 link; echo both >> f3; ln f3 f3c; echo new > new; ln new new2; mkdir -p made/a/b; echo m > made/a/b/m; ln -s nowhere made/l; touch -d '2021-02-03 04:05:06' made/a/b/m made/a/b;
		rm -r swap; echo now a file > swap; rm file; mkdir file; echo in > file/in; mv sub moved; rm fifo; mkfifo -m 600 fifo2; chmod 1777 made; dd if=/dev/zero of=sparse bs=1 count=1 seek=50000000 2>/dev/null; echo changed > /tmp/t/f1; rm /tmp/t/f2; echo n > /tmp/t/new; mkdir /tmp/d; echo d > /tmp/d/d;
		echo edited >> /etc/passwd; rm /etc/group; rm -r /opt; mkdir /opt; echo o > /opt/o; mv /srv /srv2; rm -r /media; touch -d '2019-01-01 00:00:00' new`
)

func TestMergeFiles(t *testing.T) {
	s := original(t)
	s.do(before)
	c := s.clone(1)[0]
	if r := c.dryMerge(); r.ChangeCount+r.ConflictCount != 0 || r.Merged {
		t.Errorf("of a copy that has changed nothing: %s", listed1(r))
	}
	c.do(changing)
	want := c.do(wholeTree)
	untouched := s.do(wholeTree)
	r := c.dryMerge()
	if len(r.Changes) == 0 || r.ConflictCount > 0 {
		t.Fatalf("a dry run lists\n%s", listed1(r))
	}
	if got := s.do(wholeTree); got != untouched {
		t.Errorf("a dry run has changed\n%s", differing(got, untouched))
	}
	if r = c.merge(""); !r.Merged || r.Into != s.id {
		t.Errorf("%+v", r)
	}
	t.Log(listed1(r))
	if got := s.do(wholeTree); got != want {
		t.Errorf("it differs:\n%s", differing(got, want))
	}
	if e := c.wait(); e.Signal != 9 || !strings.Contains(e.Reason, "merged into") {
		t.Errorf("the copy ended with %+v", e)
	}
	if out := s.do("echo on > /w/on; rm -r /w /tmp/t /tmp/d; ls -a / | grep merge || echo none"); out != "none\n" {
		t.Errorf("it says %q", out)
	}
	_, err := theKernel.Merge(control.MergeRequest{ID: c.id})
	if code := errdefs.CodeOf(err); code != errdefs.AgentNotRunning && code != errdefs.AgentNotFound && code != errdefs.WrongState {
		t.Errorf("merging it again: %v", err)
	}
}

// Whichever step fails, nothing was merged.
func TestMergeIsUndone(t *testing.T) {
	s := original(t)
	s.do(before + "; rm /etc/hosts; chmod 711 /w; rm -r /var/empty; mkdir /home/own")
	s.do("exec 3>/w/held; sleep 1000 & echo 1 > /w/held")
	c := s.clone(1)[0]
	c.do(changing + "; rm -r /home; chmod 755 /w; mkdir /var/empty")
	want := s.do(wholeTree)
	broken := errors.New("broken")
	defer func() { theKernel.failMerge = nil }()
	n := 1
	for ; ; n++ {
		failed := false
		theKernel.failMerge = func(step int) error {
			if step == n {
				failed = true
				return broken
			}
			return nil
		}
		r, err := theKernel.Merge(control.MergeRequest{ID: c.id})
		if !failed {
			if err != nil || !r.Merged {
				t.Fatalf("%+v, %v", r, err)
			}
			break
		}
		if !errors.Is(err, broken) || r.Merged {
			t.Fatalf("step %d: %+v, %v", n, r, err)
		}
		if n%3 != 0 {
			continue // What is not undone is there later, too.
		}
		if got := s.do(wholeTree); got != want {
			t.Fatalf("after step %d has failed:\n%s", n, differing(got, want))
		}
	}
	if n < 20 {
		t.Errorf("it has %d steps", n)
	}
	if got := s.do("cat /w/f1 /opt/o; ls -d /home 2>/dev/null || echo gone"); got != "1\nmore\no\ngone\n" {
		t.Errorf("it says %q", got)
	}
}

func TestMergeConflicts(t *testing.T) {
	for _, side := range []string{"", "ours", "theirs"} {
		t.Run("side "+side, func(t *testing.T) {
			s := original(t)
			s.do("mkdir -p /w/d /w/e /w/k; for i in 1 2 3 4 5 6; do echo $i > /w/f$i; done; echo e > /w/e/e")
			c := s.clone(1)[0]
			s.do("cd /w; echo ours > f1; rm f2; echo ours > f3; rm f4; mkdir f4; echo same > f5; chmod 600 f6; echo ours > d/new; rm -r e; chmod 700 k; echo only ours > a")
			c.do("cd /w; echo theirs > f1; echo theirs > f2; rm f3; echo theirs > f4; echo same > f5; chmod 640 f6; rm -r d; echo theirs > e/e; chmod 750 k; echo only theirs > b")
			want := `added /w/b
! modified here, deleted in the copy /w/d
! deleted here, modified in the copy /w/e
! both modified /w/f1
! deleted here, modified in the copy /w/f2
! modified here, deleted in the copy /w/f3
! type changed /w/f4
! mode, owner or attributes /w/f6
! mode, owner or attributes /w/k
`
			before := s.do(wholeTree)
			r := c.merge(side)
			if side == "theirs" {
				want = "" // The changes say it.
			}
			if got := listed1(r); want != "" && got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if r.ConflictCount != 8 || r.Merged != (side != "") {
				t.Fatalf("%+v", r)
			}
			look := "cd /w; for f in a b f1 f2 f3 f4 f5 d/new e/e; do echo $f $(cat $f 2>/dev/null || ls -d $f 2>/dev/null); done; stat -c '%a' f6 k"
			switch side {
			case "":
				if got := s.do(wholeTree); got != before {
					t.Errorf("it was changed:\n%s", differing(got, before))
				}
				if got := c.do("cat /w/f1"); got != "theirs\n" {
					t.Errorf("the copy says %q", got)
				}
			case "ours":
				if got := s.do(look); got != "a only ours\nb only theirs\nf1 ours\nf2\nf3 ours\nf4 f4\nf5 same\nd/new ours\ne/e\n600\n700\n" {
					t.Errorf("it has %q", got)
				}
			case "theirs":
				if got := s.do(look); got != "a only ours\nb only theirs\nf1 theirs\nf2 theirs\nf3\nf4 theirs\nf5 same\nd/new\ne/e theirs\n640\n750\n" {
					t.Errorf("it has %q", got)
				}
			}
		})
	}
}

// A file that was written to through a mapping has no new times. Of one that was
// mapped by both since before the copy was made it is not known who has changed it.
func TestMergeOfMappedFiles(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	s := original(t)
	s.do("echo seen > /seen; echo aaaa > /old; echo aaaa > /new; echo aaaa > /both")
	holder := s.execIn([]string{"/bin/mapped", "/old", "hold"})
	holder.expect("mapped\n")
	c := s.clone(1)[0]
	c.do("/bin/mapped /etc/hosts look; /bin/mapped /seen look; cp /bin/mapped /b; /b /seen look")
	c.do("kill -USR1 $(pidof mapped); until grep -q b /old; do usleep 1000; done")
	c.do("/bin/mapped" + " /new write; " + "/bin/mapped" + " /both write")
	s.do("/bin/mapped" + " /both write; printf c | dd of=/both conv=notrunc bs=1 2>/dev/null")
	r := c.merge("")
	if got := listed1(r); got != "added /b\nmodified /new\n! both modified /both\n! both modified /old\n" {
		t.Fatalf("got\n%s", got)
	}
	if r = c.merge("theirs"); !r.Merged {
		t.Fatalf("%+v", r)
	}
	if got := s.do("cat /old /new /both"); got != "baaa\nbaaa\nbaaa\n" {
		t.Errorf("it has %q", got)
	}
}

// What there is no room for is not merged.
func TestMergeWithoutRoom(t *testing.T) {
	s := original(t, func(r *control.SpawnRequest) { r.DiskBytes = 16 << 20 },
		granted("mem:self:map+exec,bytes=96M", "proc:self:spawn+exec+signal,count=64", "cpu:self", "io:self"))
	s.do("dd if=/dev/urandom of=/big bs=1M count=6 2>/dev/null; echo one > /f")
	c := s.clone(1)[0]
	s.do("dd if=/dev/urandom of=/own bs=1M count=5 2>/dev/null")
	c.do("echo two > /f; dd if=/dev/urandom of=/big bs=1M count=6 2>/dev/null")
	_, err := theKernel.Merge(control.MergeRequest{ID: c.id})
	wantCode(t, err, errdefs.QuotaExceeded)
	if got := s.do("cat /f; ls -a / | grep merge || echo none"); got != "one\nnone\n" {
		t.Errorf("it says %q", got)
	}
	s.do("rm /own")
	if r := c.merge(""); !r.Merged {
		t.Errorf("%+v", r)
	}
	if got := s.do("cat /f"); got != "two\n" {
		t.Errorf("it says %q", got)
	}
}

// What the copy had of the original's budget is the original's again.
func TestMergeGivesBack(t *testing.T) {
	s := original(t, granted("mem:self:map+exec,bytes=256M", "proc:self:spawn+exec+signal,count=64", "cpu:self,cpu=1", "io:self"))
	a := theKernel.findAgent(s.id)
	left := func() (all []uint64) {
		for _, x := range theKernel.space.List(s.id) {
			for _, k := range []capability.Kind{capability.KindBytes, capability.KindCount, capability.KindMilliCPU} {
				v, _ := x.Left(k)
				all = append(all, v)
			}
		}
		return append(all, a.memoryLimit(), a.taskLimit())
	}
	had := left()
	c := s.clone(1)[0]
	if got := left(); fmt.Sprint(got) == fmt.Sprint(had) {
		t.Fatalf("the copy has no part of %v", had)
	}
	c.do("echo x > /x")
	c.merge("")
	if got := left(); fmt.Sprint(got) != fmt.Sprint(had) {
		t.Errorf("it has %v of %v", got, had)
	}
	if n := len(theKernel.space.List(c.id)); n != 0 {
		t.Errorf("the copy has %d capabilities", n)
	}
}

// Paused agents are merged, and the original stays paused.
func TestMergeOfThePaused(t *testing.T) {
	s := original(t)
	c := s.clone(1)[0]
	c.do("echo x > /x")
	s.pause()
	c.pause()
	c.merge("")
	if st := inspect(t, s.id); st.State != string(abi.StatePaused) {
		t.Errorf("the original is %s", st.State)
	}
	s.resume()
	if got := s.do("cat /x"); got != "x\n" {
		t.Errorf("it has %q", got)
	}
}

func TestMergeRefused(t *testing.T) {
	s := original(t)
	_, err := theKernel.Merge(control.MergeRequest{ID: s.id})
	wantCode(t, err, errdefs.WrongState)
	c := s.clone(1)[0]
	d := c.clone(1)[0]
	_, err = theKernel.Merge(control.MergeRequest{ID: d.id, Into: s.id})
	wantCode(t, err, errdefs.InvalidArgument)
	d.do("echo d > /d")
	d.merge("")
	if got := c.do("cat /d"); got != "d\n" {
		t.Errorf("it has %q", got)
	}
	s.do("touch /end")
	s.wait()
	_, err = theKernel.Merge(control.MergeRequest{ID: c.id})
	wantCode(t, err, errdefs.AgentNotRunning)
	if got := c.do("cat /d"); got != "d\n" {
		t.Errorf("it has %q", got)
	}
}

// A program that has a file open keeps what it has opened.
func TestMergeUnderOpenFiles(t *testing.T) {
	s := spawn(t, sh("echo one > /f; exec 3< /f; cd /; echo ready; until [ -e /go ]; do usleep 2000; done; read x <&3; echo \"$x $(cat /f)\"; cat /d/x"))
	s.expect("ready\n")
	c := s.clone(1)[0]
	c.do("echo two > /f; mkdir /d; echo x > /d/x; touch /go")
	c.merge("")
	if out, _, e := s.output(); out != "one two\nx\n" || e.Code != 0 {
		t.Errorf("it wrote %q and ended with %+v", out, e)
	}
}

// TestMergeRegion merges a region that the copy has forked, with the files: what
// each has changed, and what both have.
func TestMergeRegion(t *testing.T) {
	a := original(t)
	regionOf(t, control.FabricRequest{Name: "merged", Agent: a.id, Size: 1 << 20})
	r, err := theKernel.fabric.Lookup("merged")
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, page int64, text string) {
		t.Helper()
		r, err := theKernel.fabric.Lookup(name)
		if err == nil {
			_, err = r.WriteAt([]byte(text), uint64(page)<<12)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func(page int64) string {
		p := make([]byte, 4)
		r.ReadAt(p, uint64(page)<<12)
		return strings.TrimRight(string(p), "\x00")
	}
	put("merged", 0, "base")
	c := a.clone(1)[0]
	put("merged", 1, "both") // It is one region.
	v := fab(t, control.FabricRequest{Op: control.FabricSnapshot, Name: "merged"}).Versions[0].Number
	fab(t, control.FabricRequest{Op: control.FabricFork, Name: "merged", Version: v, As: "own", Agent: c.id})
	put("own", 2, "copy")
	put("own", 3, "copy")
	put("merged", 3, "ours")
	c.do("echo new >/note")
	ask := control.MergeRequest{ID: c.id, Regions: []string{"merged"}}
	if _, err := theKernel.Merge(ask); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("a region that both share: %v", err)
	}
	ask.Regions = []string{"own"}
	reply, err := theKernel.Merge(ask)
	if err != nil || reply.Merged || reply.ConflictCount != 1 || reply.Conflicts[0].Path != "/aios/fabric/merged 0x3000-0x4000" {
		t.Fatalf("a conflict: %+v, %v", reply, err)
	}
	if get(2) != "" {
		t.Error("it was merged in spite of a conflict")
	}
	ask.Conflicts = "theirs"
	reply, err = theKernel.Merge(ask)
	if err != nil || !reply.Merged || reply.ChangeCount != 2 || reply.Changes[0].Bytes != 2<<12 {
		t.Fatalf("theirs: %+v, %v", reply, err)
	}
	if got := []string{get(0), get(1), get(2), get(3)}; strings.Join(got, " ") != "base both copy copy" {
		t.Errorf("the region holds %q", got)
	}
	if out := a.do("cat /note"); out != "new\n" {
		t.Errorf("the file says %q", out)
	}
	if _, err := theKernel.fabric.Lookup("own"); err == nil {
		t.Error("the copy's region has outlived it")
	}
	a.do("touch /end")
}
