// Package unprivileged tests AIOS where it has little: as an ordinary user, and
// in a container like those that Docker makes by default, as root there and as
// an ordinary user. Agents must run in each of these places, what the host
// refuses must be said, and --strict must refuse.
//
// A place is where the commands run; container makes one with runc. Each test
// builds the binaries, as test/e2e does, and uses them as commands; the
// client's side of a daemon is used directly where the code of an error counts.
//
// Making places needs root, and runc for containers. A test skips without, or
// fails with AIOS_REQUIRE_PROGRAMS=1. The package must not import the kernel's
// side of AIOS.
package unprivileged
