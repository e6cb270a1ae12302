// Package config decides where AIOS keeps things on the host, and reads the
// configuration file of the daemon.
//
// Key types:
//
//   - Paths is where state, socket, lock, logs and the configuration file are.
//     The daemon and its clients ask the same function, so that they meet at the
//     same socket. It is resolved from the user, the environment and one flag.
//   - Document is a configuration file that was read. Decode fills a struct from
//     it and refuses whatever the struct does not have, with file, line, column
//     and what to write instead. Who looks closer at a value says with Fail where
//     it stands.
//   - Diff says what is different between two configurations, without secrets.
//
// The package knows no setting: which keys there are is what the struct says
// that is decoded into (see daemon.Config). The file is YAML without anchors,
// aliases and tags, so that what is written is what is meant.
//
// A Paths is a value and is never changed after Resolve returned it. The package
// takes no locks, and imports errdefs and klog.
package config

import (
	"os"
	"path/filepath"

	"aios.dev/aios/errdefs"
)

// StateDirEnv names the environment variable that stands in for --state-dir,
// and FileEnv that which stands in for --config.
const (
	StateDirEnv = "AIOS_STATE_DIR"
	FileEnv     = "AIOS_CONFIG"
)

// fileName is what the configuration file is called.
const fileName = "config.yaml"

// maxSocketPath is the longest path of a Unix socket: sun_path has 108 bytes,
// the last of which is NUL.
const maxSocketPath = 107

// Paths are the places of one installation of AIOS.
type Paths struct {
	StateDir string // everything that outlives the daemon
	Socket   string // where the daemon listens
	Images   string // the image store
	Domains  string // one directory for each domain
	Agents   string // one directory for each agent: record and log
	Audit    string // the audit trail
	AuditKey string // by which its head is authenticated
	Tokens   string // the signing key, revoked tokens, keys that are trusted
	Events   string // the journal of events
	Crashes  string // dumps of agents and of kernel processes
	LogFile  string // what the daemon wrote
	LogRing  string // the last of what the daemon logged, in memory that outlives it
	LockFile string // held by flock while a daemon runs; holds its PID in decimal

	// Config is the configuration file. Unless ConfigNamed it may be missing.
	Config      string
	ConfigNamed bool
	// Explicit is set when the user named the state directory. A daemon
	// started for these paths must then be told the same.
	Explicit bool
}

// Host is what Resolve asks of the host. The zero value asks nothing and is
// of no use; call ThisHost.
type Host struct {
	UID    int
	Getenv func(string) string
	// Owner returns the owner of a directory, or an error when path is not
	// a directory.
	Owner func(path string) (uid int, err error)
}

// ThisHost returns the real host.
func ThisHost() Host {
	return Host{UID: os.Geteuid(), Getenv: os.Getenv, Owner: ownerOf}
}

// Resolve returns the paths for the calling user. stateDir is the value of
// --state-dir, or "". In order of precedence:
//
//   - stateDir or $AIOS_STATE_DIR: everything, the socket too, lives inside it;
//   - root: /var/lib/aios, with the socket in /run/aios;
//   - others: $XDG_STATE_HOME/aios or ~/.local/state/aios, with the socket in
//     $XDG_RUNTIME_DIR/aios, or inside the state directory when
//     $XDG_RUNTIME_DIR is not a directory of the user's own.
//
// The configuration file is the one that $AIOS_CONFIG names, else config.yaml:
// in the state directory when that was named, in /etc/aios for root, and in
// $XDG_CONFIG_HOME/aios or ~/.config/aios for others.
func Resolve(stateDir string) (Paths, error) { return ThisHost().Resolve(stateDir) }

// Resolve is the function Resolve for a given host.
func (h Host) Resolve(stateDir string) (Paths, error) {
	p, err := h.places(stateDir)
	if err != nil {
		return Paths{}, err
	}
	return p.WithConfig(h.Getenv(FileEnv))
}

// WithConfig returns the paths with another configuration file, unless it is
// "".
func (p Paths) WithConfig(file string) (Paths, error) {
	if file == "" {
		return p, nil
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return Paths{}, errdefs.Wrap(err, errdefs.InvalidArgument, "resolve the configuration file", errdefs.Fix("give an absolute path"))
	}
	p.Config, p.ConfigNamed = abs, true
	return p, nil
}

// places are the paths without the environment's configuration file.
func (h Host) places(stateDir string) (Paths, error) {
	from := "--state-dir"
	if stateDir == "" {
		stateDir, from = h.Getenv(StateDirEnv), StateDirEnv
	}
	if stateDir != "" {
		abs, err := filepath.Abs(stateDir)
		if err != nil {
			return Paths{}, errdefs.Wrap(err, errdefs.InvalidArgument, "resolve "+from, errdefs.Fix("give an absolute path"))
		}
		p := layout(abs, filepath.Join(abs, "run"))
		p.Explicit = true
		return p, checkSocket(p.Socket, "choose a shorter %s", from)
	}
	if h.UID == 0 {
		p := layout("/var/lib/aios", "/run/aios")
		p.Config = filepath.Join("/etc/aios", fileName)
		return p, nil
	}
	state := h.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // The XDG specification says to ignore relative paths.
		home := h.Getenv("HOME")
		if !filepath.IsAbs(home) {
			return Paths{}, errdefs.New(errdefs.ConfigInvalid, "neither HOME nor XDG_STATE_HOME is an absolute path",
				errdefs.Op("find the state directory"), errdefs.Fix("set HOME, or name a directory with --state-dir or %s", StateDirEnv))
		}
		state = filepath.Join(home, ".local", "state")
	}
	state = filepath.Join(state, "aios")
	runtime := filepath.Join(state, "run")
	if x := h.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(x) {
		if uid, err := h.Owner(x); err == nil && uid == h.UID {
			runtime = filepath.Join(x, "aios")
		}
	}
	p := layout(state, runtime)
	conf := h.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(conf) {
		conf = filepath.Join(h.Getenv("HOME"), ".config")
	}
	if filepath.IsAbs(conf) {
		p.Config = filepath.Join(conf, "aios", fileName)
	}
	return p, checkSocket(p.Socket, "name a shorter directory with --state-dir or %s", StateDirEnv)
}

func layout(state, runtime string) Paths {
	return Paths{
		StateDir: state,
		Socket:   filepath.Join(runtime, "aios.sock"),
		Images:   filepath.Join(state, "images"),
		Domains:  filepath.Join(state, "domains"),
		Agents:   filepath.Join(state, "agents"),
		LogFile:  filepath.Join(state, "aiosd.log"),
		LogRing:  filepath.Join(state, "aiosd.klog"),
		LockFile: filepath.Join(state, "aiosd.lock"),
		Audit:    filepath.Join(state, "audit"),
		AuditKey: filepath.Join(state, "audit.key"),
		Tokens:   filepath.Join(state, "tokens"),
		Crashes:  filepath.Join(state, "crash"),
		Events:   filepath.Join(state, "events"),
		Config:   filepath.Join(state, fileName),
	}
}

func checkSocket(path, fix string, args ...any) error {
	if len(path) <= maxSocketPath {
		return nil
	}
	return errdefs.New(errdefs.InvalidArgument, "the path of the daemon's socket is too long for a Unix socket",
		errdefs.Resource("%q", path), errdefs.Fix(fix+": the socket's path has %d bytes, at most %d are possible", append(args, len(path), maxSocketPath)...))
}
