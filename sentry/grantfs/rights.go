package grantfs

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// changes are the rights to make anything different.
const changes = abi.FSWrite | abi.FSCreate | abi.FSDelete

// anyRight is what operations need that every grant allows while it lives, whatever
// its rights: to look up, to stat, to lock.
const anyRight abi.Rights = 0

// allows reports whether an operation that needs these rights may be done now,
// as nil or the error that a program gets.
//
// EACCES is what programs take for "you may not"; they print it and go on.
// EROFS, where nothing may be changed at all, is what they expect of a
// read-only mount: many ask for a writable file first and, on EROFS, content
// themselves with less.
func (fs *FS) allows(need abi.Rights) error {
	s := fs.state.Load()
	if s&dead != 0 || s == 0 || (fs.live != nil && !fs.live()) {
		return linuxerr.EACCES
	}
	have := abi.Rights(s)
	switch {
	case have.Has(need):
		return nil
	case need&changes != 0 && have&changes == 0:
		return linuxerr.EROFS
	default:
		return linuxerr.EACCES
	}
}

// refuse tells of a refusal, and returns err.
func (fs *FS) refuse(op string, inner *vfs.Dentry, name string, need abi.Rights, err error) error {
	if fs.deny == nil {
		return err
	}
	if fs.gone() {
		need = anyRight // No other right would help.
	}
	if e, ok := err.(*errors.Error); ok {
		fs.deny(op, fs.pathOf(inner, name), need, unix.Errno(e.Errno()))
	}
	return err
}

// gone reports whether fs is revoked, or its lease is over.
func (fs *FS) gone() bool { return fs.allows(anyRight) != nil }

// privileged reports whether a file of that mode would give those who execute
// it more than they have. No agent may make such files: on the host, outside the
// kernel, their bits would be honoured.
func privileged(mode linux.FileMode, dir bool) bool {
	return !dir && mode&(linux.ModeSetUID|linux.ModeSetGID) != 0
}
