package ctlfs

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
	gverrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"

	"aios.dev/aios/errdefs"
)

// errnoOf returns err as a program gets it: the errno of its code, or err
// itself if nobody but gVisor has classified it.
func errnoOf(err error) error {
	var ours *errdefs.Error
	var theirs *gverrors.Error
	if !errors.As(err, &ours) && errors.As(err, &theirs) {
		return theirs
	}
	return linuxerr.ErrorFromUnix(errno(err))
}

// errno is the number of errnoOf for an error of AIOS. gVisor panics on
// numbers that Linux does not have.
func errno(err error) unix.Errno {
	n := errdefs.Errno(err)
	if n == 0 || n > unix.EHWPOISON || unix.ErrnoName(n) == "" {
		return unix.EIO
	}
	return n
}

// errorText is what a program reads of a refusal:
//
//	error CODE: what was refused and why
//	fix: what helps
func errorText(err error) string {
	shown := errdefs.Public(err)
	out := "error " + string(shown.Code) + ": " + oneLine(shown.Error()) + "\n"
	if fix := errdefs.FixOf(shown); fix != "" {
		out += "fix: " + oneLine(fix) + "\n"
	}
	return out
}

// oneLine keeps what others wrote from looking like lines of ours.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
