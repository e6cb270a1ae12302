package command

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]Command{
		"list":                             {Verb: List},
		"  list  ":                         {Verb: List},
		"tree\n":                           {Verb: Tree},
		"inspect 7 agent=worker":           {Verb: Inspect, Handle: 7, Agent: "worker"},
		"seal\t3":                          {Verb: Seal, Handle: 3},
		"revoke 3":                         {Verb: Revoke, Handle: 3},
		"revoke c0123456789ab":             {Verb: Revoke, ID: "c0123456789ab"},
		"revoke-children 3":                {Verb: RevokeChildren, Handle: 3},
		"renew 3 lease=1m":                 {Verb: Renew, Handle: 3, Lease: time.Minute},
		"renew c0123456789ab lease=1h30m":  {Verb: Renew, ID: "c0123456789ab", Lease: 90 * time.Minute},
		"move 3 to=a0123456789ab":          {Verb: Move, Handle: 3, To: "a0123456789ab"},
		"explain open /etc/shadow for=me ": {Verb: Explain, Op: "open /etc/shadow for=me"},
		"signal 4 TERM":                    {Verb: Signal, Handle: 4, Signal: 15},
		"signal 4 sigkill agent=w":         {Verb: Signal, Handle: 4, Signal: 9, Agent: "w"},
		"signal 4 64":                      {Verb: Signal, Handle: 4, Signal: 64},
		"pause 4":                          {Verb: Pause, Handle: 4},
		"resume 18446744073709551615":      {Verb: Resume, Handle: 18446744073709551615},
	} {
		got, err := Parse(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		got.keys = nil
		if got.Verb != want.Verb || got.Handle != want.Handle || got.ID != want.ID || got.To != want.To ||
			got.Agent != want.Agent || got.Signal != want.Signal || got.Lease != want.Lease || got.Op != want.Op {
			t.Errorf("%q: got %+v, want %+v", line, *got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "\n", " ", "rm -rf /", "LIST", "list 3", "seal", "seal 0", "seal -1", "seal x", "seal 3 4", "seal 3 sealed",
		"seal c0123456789ab", "seal 18446744073709551616", "seal 3=4", "revoke", "revoke C0123456789AB", "revoke c0123", "revoke 3 self=1",
		"renew 3", "renew 3 lease=", "renew 3 lease=0s", "renew 3 lease=-1m", "renew 3 lease=soon", "renew 3 lease=1m lease=2m",
		"delegate 3", "delegate to=x", "delegate 3 to=../x", "delegate 3 to= rights=read", "delegate 3 to=x what=ever", "delegate 3 to=x sealed sealed",
		"attenuate 3", "attenuate 3 =x", "attenuate 3 to=x", "explain", "explain  ", "signal 4", "signal 4 NONE", "signal 4 0", "signal 4 65",
		"signal 4 SIG", "pause 4 agent=a/b", "list\nlist", "seal 3\x00", "seal 3\x1b[2J", "seal \xff", strings.Repeat("x", MaxLen+1),
		"attenuate 3 rights=read" + strings.Repeat(" x=y", maxWords),
	} {
		c, err := Parse(line)
		if err == nil {
			t.Errorf("%q is accepted: %+v", line, *c)
			continue
		}
		if errdefs.CodeOf(err) != errdefs.InvalidArgument {
			t.Errorf("%q: code %s", line, errdefs.CodeOf(err))
		}
		if len(err.Error()) > 300 {
			t.Errorf("%q: %d bytes of complaint", line, len(err.Error()))
		}
	}
}

func TestEveryVerbHasHelpAndIsParsed(t *testing.T) {
	help := Help()
	for _, v := range Verbs() {
		if !strings.Contains(help, v.Usage) || v.Meaning == "" {
			t.Errorf("%s is not explained", v.Verb)
		}
		if !strings.HasPrefix(v.Usage, string(v.Verb)) {
			t.Errorf("the usage of %s is %q", v.Verb, v.Usage)
		}
		if _, err := Parse(string(v.Verb)); err != nil && strings.Contains(err.Error(), "there is no command") {
			t.Errorf("%s is not known", v.Verb)
		}
	}
}

func TestChange(t *testing.T) {
	files := capability.Spec{Object: capability.Object{Class: abi.ClassFS, Name: "/data"}, Rights: abi.ClassFS.All(), Limits: capability.Limits{Bytes: 5, Count: 6}}
	cpu := capability.Spec{Object: capability.Object{Class: abi.ClassCPU, Name: "self"}, Rights: abi.CPURun}
	sys := capability.Spec{Object: capability.Object{Class: abi.ClassSys, Name: "namespace"}, Rights: abi.SysUse}
	for _, tc := range []struct {
		line  string
		of    capability.Spec
		check func(capability.Change) bool
	}{
		{"attenuate 3 rights=read", files, func(c capability.Change) bool {
			return *c.Rights == abi.FSRead && c.Object == nil && c.Limits == nil && c.At == nil && c.Lease == nil && c.Badge == nil && !c.Sealed
		}},
		{"attenuate 3 rights=ro", files, func(c capability.Change) bool { return *c.Rights == abi.FSRead|abi.FSExec }},
		{"attenuate 3 sealed", files, func(c capability.Change) bool { return c.Sealed && c.Rights == nil }},
		{"delegate 3 to=w object=/data/my%20files at=/x", files, func(c capability.Change) bool {
			return *c.Object == "/data/my files" && *c.At == "/x" && c.Rights == nil
		}},
		{"delegate 3 to=w object=/data/sub at=/data/sub", files, func(c capability.Change) bool { return *c.At == "/data/sub" }},
		{"delegate 3 to=w object=/a%2Csealed", files, func(c capability.Change) bool { return *c.Object == "/a,sealed" && !c.Sealed }},
		{"delegate 3 to=w quota=1M lease=30s badge=7", files, func(c capability.Change) bool {
			return *c.Limits == capability.Limits{Bytes: 1 << 20} && *c.Lease == 30*time.Second && *c.Badge == 7
		}},
		{"delegate 3 to=w cpu=0.25 weight=5", cpu, func(c capability.Change) bool {
			return *c.Limits == capability.Limits{MilliCPU: 250, Weight: 5}
		}},
		{"delegate 3 to=w badge=0", sys, func(c capability.Change) bool { return *c.Badge == 0 }},
	} {
		cmd, err := Parse(tc.line)
		if err != nil {
			t.Errorf("%s: %v", tc.line, err)
			continue
		}
		change, err := cmd.Change(tc.of)
		if err != nil || !tc.check(change) {
			t.Errorf("%s: %+v, %v", tc.line, change, err)
		}
	}
	for line, of := range map[string]capability.Spec{
		"attenuate 3 rights=map":            files, // of another class
		"attenuate 3 rights=read,sealed":    files,
		"attenuate 3 object=/a,sealed":      files,
		"attenuate 3 object=/a:rw":          files,
		"attenuate 3 object=relative":       files,
		"attenuate 3 object=/a/../b":        files,
		"attenuate 3 quota=1M,inodes=5":     files,
		"attenuate 3 bytes=1M":              files,
		"attenuate 3 quota=0":               files,
		"attenuate 3 quota=-1":              files,
		"attenuate 3 cpu=1000000000000":     cpu,
		"attenuate 3 weight=10001":          cpu,
		"attenuate 3 object=/":              cpu,
		"attenuate 3 lease=99999999999999h": sys,
		"attenuate 3 badge=x":               sys,
		"attenuate 3 at=/x":                 sys,
	} {
		cmd, err := Parse(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if change, err := cmd.Change(of); err == nil {
			t.Errorf("%s of %s is accepted: %+v", line, of, change)
		}
	}
}

func TestLine(t *testing.T) {
	s := capability.NewSpace(capability.Options{})
	defer s.Close()
	for _, h := range []string{"a000000000001", "a000000000002"} {
		if err := s.AddHolder(h); err != nil {
			t.Fatal(err)
		}
	}
	op := capability.Actor{Name: "operator", Privileged: true}
	spec, err := capability.ParseSpec("fs:/my%20work:rw,quota=1G")
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Mint("a000000000001", spec, op)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Line(c, "a000000000001"), "1 "+string(c.ID())+" fs:/my%20work:rw,quota=1G"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	lease := time.Hour
	d, err := s.Delegate(c, "a000000000002", capability.Change{Limits: &capability.Limits{Bytes: 1 << 20}, Lease: &lease, Sealed: true}, false, op)
	if err != nil {
		t.Fatal(err)
	}
	got := Line(d, "a000000000001")
	want := "1 " + string(d.ID()) + " fs:/my%20work:rw,quota=1M,lease=1h0m0s,sealed holder=a000000000002 parent=" + string(c.ID()) + " expires="
	if !strings.HasPrefix(got, want) {
		t.Errorf("got  %s\nwant %s...", got, want)
	}
	if got := Line(c, "a000000000001"); !strings.HasSuffix(got, " rest=bytes:1072693248") {
		t.Errorf("after a part was given away: %s", got)
	}
	if got, want := LimitsText(s.Effective("a000000000002")), "fs bytes=1048576\n"; got != want {
		t.Errorf("limits are %q, want %q", got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range Verbs() {
		f.Add(v.Usage)
	}
	for _, s := range []string{
		"attenuate 3 rights=read", "delegate 3 to=worker rights=read lease=30s quota=1G badge=7 sealed", "revoke c0123456789ab",
		"signal 4 TERM agent=x", "move 1 to=w object=/a%2cb at=/%00", "renew 3 lease=9223372036854775807ns",
	} {
		f.Add(s)
	}
	all := []string{"fs:/data:rw", "net:*", "mem:self,bytes=1G", "cpu:self", "io:self", "proc:self", "agent:*", "sys:namespace", "event:a.*", "svc:*"}
	var specs []capability.Spec
	for _, text := range all {
		s, err := capability.ParseSpec(text)
		if err != nil {
			f.Fatal(err)
		}
		specs = append(specs, s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := Parse(line)
		if err != nil {
			var e *errdefs.Error
			if !errors.As(err, &e) || e.Code != errdefs.InvalidArgument {
				t.Errorf("an error without the right code: %v", err)
			}
			return
		}
		if c.Handle != 0 && c.ID != "" {
			t.Error("both a handle and an ID")
		}
		for _, spec := range specs {
			change, err := c.Change(spec)
			if err != nil {
				continue
			}
			if change.Rights != nil && *change.Rights&^spec.Object.Class.All() != 0 {
				t.Errorf("rights %b of class %s", *change.Rights, spec.Object.Class)
			}
			if change.Lease != nil && *change.Lease <= 0 {
				t.Errorf("lease %v", *change.Lease)
			}
		}
	})
}

var update = flag.Bool("update", false, "write the generated part of docs/inside.md anew")

// The page is generated from the rules: go test ./sentry/ctlfs/command -update.
func TestCommandsAreInTheDocs(t *testing.T) {
	const page, begin, end = "../../../docs/inside.md", "<!-- generated: commands -->\n", "<!-- end -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want := "| command | what it does |\n|---|---|\n"
	for _, v := range Verbs() {
		want += "| `" + strings.ReplaceAll(v.Usage, "|", `\|`) + "` | " + v.Meaning + " |\n"
	}
	head, rest, ok := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	switch {
	case !ok || !ok2:
		t.Fatalf("%s lacks the markers %q and %q", page, begin, end)
	case old == want:
	case !*update:
		t.Fatalf("%s differs from the rules; run: go test ./sentry/ctlfs/command -update", page)
	default:
		if err := os.WriteFile(page, []byte(head+begin+want+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
