package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

// host is a made-up host: an environment and who owns which directory.
func host(uid int, env map[string]string, owners map[string]int) Host {
	return Host{
		UID:    uid,
		Getenv: func(k string) string { return env[k] },
		Owner: func(p string) (int, error) {
			if uid, ok := owners[p]; ok {
				return uid, nil
			}
			return 0, errors.New("no such directory")
		},
	}
}

func TestResolve(t *testing.T) {
	for _, tc := range []struct {
		name          string
		host          Host
		flag          string
		state, socket string
		explicit      bool
	}{
		{"root", host(0, map[string]string{"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0"}, map[string]int{"/run/user/0": 0}),
			"", "/var/lib/aios", "/run/aios/aios.sock", false},
		{"user", host(7, map[string]string{"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}, map[string]int{"/run/user/7": 7}),
			"", "/home/u/.local/state/aios", "/run/user/7/aios/aios.sock", false},
		{"user without runtime directory", host(7, map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "/s"}, nil),
			"", "/s/aios", "/s/aios/run/aios.sock", false},
		{"runtime directory of another user, as after su", host(7, map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/0"}, map[string]int{"/run/user/0": 0}),
			"", "/h/.local/state/aios", "/h/.local/state/aios/run/aios.sock", false},
		{"relative XDG_STATE_HOME is ignored", host(7, map[string]string{"HOME": "/h", "XDG_STATE_HOME": "s"}, nil),
			"", "/h/.local/state/aios", "/h/.local/state/aios/run/aios.sock", false},
		{"environment", host(0, map[string]string{StateDirEnv: "/srv/aios/"}, nil),
			"", "/srv/aios", "/srv/aios/run/aios.sock", true},
		{"flag before environment", host(7, map[string]string{StateDirEnv: "/srv/aios"}, nil),
			"/tmp/x/../y", "/tmp/y", "/tmp/y/run/aios.sock", true},
	} {
		p, err := tc.host.Resolve(tc.flag)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if p.StateDir != tc.state || p.Socket != tc.socket || p.Explicit != tc.explicit {
			t.Errorf("%s: state %s, socket %s, explicit %v", tc.name, p.StateDir, p.Socket, p.Explicit)
		}
		for _, sub := range []string{p.Images, p.Domains, p.Agents, p.LogFile, p.LockFile} {
			if filepath.Dir(sub) != p.StateDir {
				t.Errorf("%s: %s is not in the state directory", tc.name, sub)
			}
		}
	}
}

func TestRelativeStateDirIsAnchored(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	p, err := host(0, nil, nil).Resolve("state")
	if err != nil || p.StateDir != filepath.Join(dir, "state") {
		t.Errorf("%s, %v", p.StateDir, err)
	}
}

func TestResolveRefusals(t *testing.T) {
	long := "/" + strings.Repeat("x", 100)
	for _, tc := range []struct {
		name string
		host Host
		flag string
		code errdefs.Code
		fix  string
	}{
		{"long flag", host(0, nil, nil), long, errdefs.InvalidArgument, "shorter --state-dir"},
		{"long environment", host(0, map[string]string{StateDirEnv: long}, nil), "", errdefs.InvalidArgument, "shorter " + StateDirEnv},
		{"long home", host(7, map[string]string{"HOME": long}, nil), "", errdefs.InvalidArgument, "--state-dir"},
		{"no home", host(7, nil, nil), "", errdefs.ConfigInvalid, "set HOME"},
	} {
		_, err := tc.host.Resolve(tc.flag)
		if errdefs.CodeOf(err) != tc.code || !strings.Contains(errdefs.FixOf(err), tc.fix) {
			t.Errorf("%s: %v; fix: %s", tc.name, err, errdefs.FixOf(err))
		}
	}
	// The longest path that fits is accepted.
	fits := "/" + strings.Repeat("x", maxSocketPath-len("//run/aios.sock"))
	if p, err := host(0, nil, nil).Resolve(fits); err != nil || len(p.Socket) != maxSocketPath {
		t.Errorf("socket of %d bytes: %v", len(p.Socket), err)
	}
}

func TestPrepare(t *testing.T) {
	p, err := Resolve(filepath.Join(t.TempDir(), "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{p.StateDir, p.Images, p.Domains, p.Agents, filepath.Dir(p.Socket)} {
		fi, err := os.Stat(d)
		if err != nil || fi.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", d, fi, err)
		}
	}

	if err := os.Chmod(p.Agents, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := p.Prepare(); errdefs.CodeOf(err) != errdefs.Denied || !strings.Contains(errdefs.FixOf(err), "chmod go-w "+p.Agents) {
		t.Errorf("a directory that all can write to: %v; fix: %s", err, errdefs.FixOf(err))
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(p.Agents, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(p.Agents, 64123, -1); err != nil {
			t.Fatal(err)
		}
		if err := p.Prepare(); errdefs.CodeOf(err) != errdefs.Denied || !strings.Contains(errdefs.FixOf(err), "chown 0") {
			t.Errorf("a directory of another user: %v; fix: %s", err, errdefs.FixOf(err))
		}
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Paths{StateDir: file}).Prepare(); errdefs.CodeOf(err) != errdefs.HostIO || errdefs.FixOf(err) == "" {
		t.Errorf("a file as state directory: %v", err)
	}
}

func TestOwnerOf(t *testing.T) {
	if uid, err := ownerOf(t.TempDir()); err != nil || uid != os.Geteuid() {
		t.Errorf("owner %d, %v", uid, err)
	}
	if _, err := ownerOf("/proc/self/exe"); err == nil {
		t.Error("a file passes as a directory")
	}
}
