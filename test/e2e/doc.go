// Package e2e tests AIOS as its users meet it: it builds aiosd and aiosctl
// once, and drives them as commands, each test in an installation of its own
// with its own state directory: on every platform that the host supports what
// platforms do or could break (onEach), on the default one the rest (onOne).
//
// Key types, all in test files:
//
//   - install is one installation. Its cleanup stops it and then fails the test
//     when anything is left behind: a process, a mount, a cgroup, a socket, a
//     temporary file.
//   - command is one aiosctl at work; result is what it came to.
//   - terminal is a pseudo-terminal with an aiosctl on it.
//
// The environment chooses what runs:
//
//	AIOS_TEST_PLATFORM      only this platform: systrap or ptrace
//	AIOS_REQUIRE_PROGRAMS=1 a program that the host lacks fails its test
//	AIOS_SOAK=1             long versions: 10,000 spawns in a row, for example, and
//	                        everything on every platform
//	AIOS_INSTANTS           at how many moments each program is cloned
//
// The binaries are built without cgo and without the race detector also when
// the tests run under it, since systrap needs that. The package must not import
// the kernel's side of AIOS: what it tests is on the other side of a socket.
package e2e
