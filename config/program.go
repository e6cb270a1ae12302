package config

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"aios.dev/aios/errdefs"
)

// Bounds of the programs that the configuration file names.
const (
	// DefaultProgramTime is how long one may take unless it is said otherwise.
	DefaultProgramTime = 10 * time.Second
	maxProgramTime     = 5 * time.Minute
	maxProgramArgs     = 64
	maxProgramArgBytes = 4096
)

// CheckCommand refuses what is no program and its arguments. It does not look
// whether the program is there.
func CheckCommand(argv []string) error {
	if len(argv) == 0 || len(argv) > maxProgramArgs || !filepath.IsAbs(argv[0]) || filepath.Clean(argv[0]) != argv[0] {
		return errdefs.New(errdefs.InvalidArgument, "it is no program and its arguments",
			errdefs.Fix("write a list that begins with an absolute path: [/usr/local/bin/page, --now]"))
	}
	for _, arg := range argv {
		if len(arg) > maxProgramArgBytes {
			return errdefs.New(errdefs.InvalidArgument, "an argument is too long", errdefs.Fix("keep each to %d bytes", maxProgramArgBytes))
		}
	}
	return nil
}

// CheckProgramTime refuses times that no program is given.
func CheckProgramTime(d time.Duration) error {
	if d < time.Millisecond || d > maxProgramTime {
		return errdefs.New(errdefs.InvalidArgument, "no program is given so little, or so much, time",
			errdefs.Fix("write a duration from 1ms to %v", maxProgramTime))
	}
	return nil
}

// CheckProgram refuses a program that is not there, or that others than root and
// the daemon's user can change: the daemon runs it with its own rights.
func CheckProgram(path string) error {
	bad := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("%s %s", path, detail), errdefs.Fix("%s", fix))
	}
	info, err := os.Stat(path)
	if err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "", errdefs.Fix("make the program, or correct the path"))
	}
	st, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return bad("is no program", "name an executable file")
	case info.Mode().Perm()&0o022 != 0:
		return bad("can be changed by others than its owner", "chmod go-w "+path)
	case known && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return bad("belongs to another user", "chown it to root or to the user of the daemon")
	}
	return nil
}
