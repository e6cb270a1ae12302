package profile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

func vars() map[string]string { return map[string]string{"PWD": "/work/dir", "HOME": "/home/me"} }

func TestBuiltinProfilesAreValid(t *testing.T) {
	names := Names(Options{})
	for _, want := range []string{"none", "compute", "coder", "service", "host-dev"} {
		if !slices.Contains(names, want) {
			t.Errorf("no profile %s", want)
		}
	}
	for _, n := range names {
		p, err := Load(n, Options{Vars: vars()})
		if err != nil {
			t.Errorf("%s: %v", n, err)
		}
		if p.About == "" || p.File != "" {
			t.Errorf("%s: about %q, file %q", n, p.About, p.File)
		}
		for _, g := range p.Grants {
			if s, err := capability.ParseSpec(g); err != nil || s.String() != g {
				t.Errorf("%s: %q is not canonical: %v", n, g, err)
			}
		}
	}
	if p, _ := Load("none", Options{}); len(p.Grants) != 0 {
		t.Errorf("none gives %v", p.Grants)
	}
	p, err := Load("coder", Options{Vars: vars()})
	if err != nil || !slices.ContainsFunc(p.Grants, func(g string) bool { return strings.HasPrefix(g, "fs:/work/dir:") }) {
		t.Errorf("coder gives %v, %v", p.Grants, err)
	}
}

func TestFilesComeFirst(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("compute", "# Mine.\n\n net:loopback:connect \nnet:loopback:connect\n")
	write("twice", "include compute\ninclude compute\n")
	write("loop", "include pool")
	write("pool", "include loop")
	write("bad", "# ok\nfs:relative:ro\n")
	write("var", "fs:${NOPE}:ro")
	write("open", "fs:${PWD:ro")
	write("big", strings.Repeat("#", maxSize+1))
	o := Options{Dirs: []string{filepath.Join(dir, "none"), dir}, Vars: vars()}
	p, err := Load("compute", o)
	if err != nil || p.About != "Mine." || !slices.Equal(p.Grants, []string{"net:loopback:connect"}) || p.File == "" {
		t.Errorf("got %+v, %v", p, err)
	}
	if p, err := Load("twice", o); err != nil || len(p.Grants) != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
	for name, want := range map[string]struct {
		code errdefs.Code
		says string
	}{
		"loop":    {errdefs.ProfileInvalid, "includes itself"},
		"bad":     {"", "bad.profile:2"},
		"var":     {errdefs.ProfileInvalid, "${NOPE}"},
		"open":    {errdefs.ProfileInvalid, "no variable"},
		"big":     {errdefs.ProfileInvalid, "larger"},
		"missing": {errdefs.ProfileNotFound, "no such profile"},
		"../etc":  {errdefs.InvalidArgument, "name"},
	} {
		_, err := Load(name, o)
		if err == nil || want.code != "" && errdefs.CodeOf(err) != want.code || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: %v (%s)", name, err, errdefs.CodeOf(err))
		}
	}
	o.Vars["PWD"] = "/a,b"
	if _, err := Load("coder", o); err == nil || !strings.Contains(errdefs.FixOf(err), "--mount") {
		t.Errorf("a directory with a comma: %v", err)
	}
}
