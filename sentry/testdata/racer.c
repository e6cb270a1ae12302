// A program that uses a grant of files in every way it knows, while the grant
// is taken back, and tells which uses succeeded too late.
//
//	racer DIR SHARED WORKERS MAILBOX PEER
//	racer yes           exits with 42
//	racer spin SHARED ROUND
//	racer hold DIR      uses DIR in the ways that standard input asks for
//
// DIR is where the grant appears, SHARED a file outside of it that both the
// program and whoever revokes have before their eyes; see struct shared. The
// order of things is what the verdict rests on: a worker reads shared.revoked
// before it begins an operation. If that named this round already, then the
// revocation had returned before the operation began, and its success is a
// fault. Objects, such as open files and mappings, are gathered before and kept.
//
// MAILBOX and PEER are names of Unix sockets, for descriptors to be sent from
// one such program to the other.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/openat2.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, OPS = 112, NAME = 16, RING = 12 };

struct shared {
	_Atomic uint32_t round;    // there is a grant for this round
	_Atomic uint32_t narrowed; // it cannot be written any more
	_Atomic uint32_t revoked;  // it is revoked
	_Atomic uint32_t quit;
	uint32_t nops;
	uint32_t pad[59];
	char names[OPS][NAME];
};

struct worker { // one on each page behind shared
	_Atomic uint32_t done; // with this round
	uint32_t pad[15];
	_Atomic uint32_t good[OPS], bad[OPS];
};

static struct shared *sh;
static struct worker *me;
static const char *dir, *peer;
static unsigned id, seed;
static uint32_t now; // the round
static int mail, tmp, aio_ok;
static aio_context_t aio;

// What was gathered in this round.
static int fds[RING], nfds;        // of DIR/f or its like, for reading and writing
static char *maps[RING], *wmaps[RING]; // the latter shared and writable
static int nmaps, nwmaps;
static int top = -1, prog = -1, watch = -1, dgram = -1, bound = -1, stream = -1;
static int cwd; // it is in the grant
static pid_t spinner;
static char name[32], other[32];
static unsigned cur; // the object that an operation is to use

static sigjmp_buf bus;

static int caught; // the signal

static void on_bus(int sig)
{
	caught = sig;
	siglongjmp(bus, sig);
}

static unsigned rnd(unsigned n)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % n;
}

static int keep(int fd)
{
	if (fd < 0)
		return 0;
	if (nfds == RING) {
		unsigned i = rnd(RING);
		close(fds[i]);
		fds[i] = fd;
	} else
		fds[nfds++] = fd;
	return 1;
}

static int fd_(void) { return nfds ? fds[cur % nfds] : -1; }

static int keep_map(char **ring, int *n, void *p)
{
	if (p == MAP_FAILED)
		return 0;
	if (*n == RING) {
		unsigned i = rnd(RING);
		munmap(ring[i], PAGE);
		ring[i] = p;
	} else
		ring[(*n)++] = p;
	return 1;
}

static char *map_(void) { return nmaps ? maps[cur % nmaps] : NULL; }
static char *wmap_(void) { return nwmaps ? wmaps[cur % nwmaps] : NULL; }

static int touch(volatile char *p, int write)
{
	if (!p || sigsetjmp(bus, 1))
		return 0;
	char c = *p;
	if (write)
		*p = c;
	return 1;
}

static int drop(int fd)
{
	if (fd < 0)
		return 0;
	close(fd);
	return 1;
}

// Runs what in a child, which succeeds by exiting with 0.
static int in_child(int (*what)(void))
{
	pid_t pid = fork();
	int st;
	if (pid == 0)
		_exit(what() ? 0 : 1);
	while (pid > 0 && waitpid(pid, &st, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && WIFEXITED(st) && WEXITSTATUS(st) == 0;
}

static const char *path(const char *rest)
{
	static char p[256];
	snprintf(p, sizeof p, "%s/%s", dir, rest);
	return p;
}

static const char *proc(const char *what, int fd, const char *rest)
{
	static char p[256];
	snprintf(p, sizeof p, "/proc/self/%s/%d%s", what, fd, rest);
	return p;
}

// Operations, by what right they need. Each returns whether it succeeded.

static char buf[8192];
static struct stat st;

// Any right.
static int do_stat(void) { return stat(path("f"), &st) == 0; }
static int do_statat(void) { return fstatat(top, "f", &st, 0) == 0; }
static int do_statcwd(void) { return cwd && stat("f", &st) == 0; }
static int do_fstat(void) { return fstat(fd_(), &st) == 0; }
static int do_fstatdir(void) { return fstat(top, &st) == 0; }
static int do_statx(void) { struct statx sx; return statx(top, "f", 0, STATX_ALL, &sx) == 0; }
static int do_statfs(void) { struct statfs s; return fstatfs(fd_(), &s) == 0; }
static int do_access(void) { return faccessat(top, "f", F_OK, 0) == 0; }
static int do_lseek(void) { return lseek(fd_(), 0, SEEK_SET) == 0; }
static int do_opath(void) { return drop(openat(top, "f", O_PATH)); }
static int do_fchdir(void) { return top >= 0 && fchdir(top) == 0; }
static int do_chdir(void) { return cwd && chdir("sub/..") == 0; }
static int do_flock(void) { return flock(fd_(), LOCK_EX | LOCK_NB) == 0 && flock(fd_(), LOCK_UN) == 0; }
static int do_flockw(void) { return flock(fd_(), LOCK_EX) == 0 && flock(fd_(), LOCK_UN) == 0; }
static int lock(int cmd)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = id, .l_len = 1};
	if (fcntl(fd_(), cmd, &l) != 0)
		return 0;
	l.l_type = F_UNLCK;
	fcntl(fd_(), cmd, &l);
	return 1;
}
static int do_setlk(void) { return lock(F_SETLK); }
static int do_setlkw(void) { return lock(F_SETLKW); }
static int do_ofdlk(void) { return lock(F_OFD_SETLK); }
static int do_getlk(void)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
	return fcntl(fd_(), F_GETLK, &l) == 0;
}
static int do_inotify(void)
{
	int wd = inotify_add_watch(watch, proc("fd", fd_(), ""), IN_MODIFY);
	if (wd >= 0)
		inotify_rm_watch(watch, wd);
	return wd >= 0;
}
static int do_watchdir(void)
{
	int wd = cwd ? inotify_add_watch(watch, ".", IN_CREATE) : -1;
	if (wd >= 0)
		inotify_rm_watch(watch, wd);
	return wd >= 0;
}

// Reading.
static int do_open(void) { return keep(open(path("f"), O_RDONLY)); }
static int do_openat(void) { return keep(openat(top, "f", O_RDONLY)); }
static int do_opencwd(void) { return cwd && keep(open("f", O_RDONLY)); }
static int do_openup(void) { return keep(openat(top, "sub/../f", O_RDONLY)); }
static int do_openlink(void) { return keep(openat(top, "l", O_RDONLY)); }
static int do_opendir(void) { return drop(openat(top, "sub", O_RDONLY | O_DIRECTORY)); }
static int do_openat2(void)
{
	struct open_how how = {.flags = O_RDONLY, .resolve = RESOLVE_BENEATH};
	return keep(syscall(SYS_openat2, top, "f", &how, sizeof how));
}
static int do_reopen(void) { return nfds && keep(open(proc("fd", fd_(), ""), O_RDONLY)); }
static int do_viadirfd(void) { return top >= 0 && keep(open(proc("fd", top, "/f"), O_RDONLY)); }
static int do_viacwd(void) { return cwd && keep(open("/proc/self/cwd/f", O_RDONLY)); }
static int do_read(void) { return read(fd_(), buf, 1) >= 0; }
static int do_readbig(void) { return read(fd_(), buf, sizeof buf) >= 0; }
static int do_pread(void) { return pread(fd_(), buf, 16, 0) > 0; }
static int do_preadv2(void)
{
	struct iovec v[2] = {{buf, 4}, {buf + 8, 4}};
	return preadv2(fd_(), v, 2, 0, 0) > 0;
}
static int do_readlink(void) { return readlinkat(top, "l", buf, sizeof buf) > 0; }
static int do_getdents(void) { return top >= 0 && lseek(top, 0, SEEK_SET) == 0 && syscall(SYS_getdents64, top, buf, sizeof buf) >= 0; }
static int do_sendfile(void) { off_t off = 0; return sendfile(tmp, fd_(), &off, 16) > 0; }
static int do_splice(void)
{
	int p[2];
	if (pipe(p))
		return 0;
	loff_t off = 0;
	int ok = splice(fd_(), &off, p[1], NULL, 16, 0) > 0;
	close(p[0]);
	close(p[1]);
	return ok;
}
static int do_copyfrom(void) { loff_t a = 0, b = 0; return copy_file_range(fd_(), &a, tmp, &b, 16, 0) > 0; }
static int do_map(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd_(), 0);
	return keep_map(maps, &nmaps, p) && touch(p, 0);
}
static int do_mappriv(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd_(), 0);
	return keep_map(maps, &nmaps, p) && touch(p, 1);
}
static int do_touch(void) { return touch(map_(), 0); }
static int do_touchs(void) { return touch(wmap_(), 0); }
static int do_remap(void)
{
	char *p = map_(), *q;
	if (!p || (q = mremap(p, PAGE, 2 * PAGE, MREMAP_MAYMOVE)) == MAP_FAILED)
		return 0;
	munmap(q + PAGE, PAGE);
	for (int i = 0; i < nmaps; i++)
		if (maps[i] == p)
			maps[i] = q;
	return touch(q, 0);
}
static int do_vmread(void)
{
	struct iovec a = {buf, 8}, b = {map_(), 8};
	return b.iov_base && process_vm_readv(getpid(), &a, 1, &b, 1, 0) > 0;
}
static int do_writefrom(void) { return map_() && pwrite(tmp, map_(), 8, 0) > 0; }
static int aio_one(int op, int fd)
{
	struct iocb cb = {.aio_lio_opcode = op, .aio_fildes = fd, .aio_buf = (uintptr_t)buf, .aio_nbytes = 16}, *p = &cb;
	struct io_event ev;
	if (!aio_ok || fd < 0 || syscall(SYS_io_submit, aio, 1, &p) != 1)
		return 0;
	while (syscall(SYS_io_getevents, aio, 1, 1, &ev, NULL) != 1)
		if (errno != EINTR)
			return 0;
	return (int64_t)ev.res > 0;
}
static int do_aioread(void) { return aio_one(IOCB_CMD_PREAD, fd_()); }
static int do_dup(void) { int d = dup(fd_()); int ok = d >= 0 && pread(d, buf, 1, 0) > 0; keep(d); return ok; }
static int do_dup2(void) { int d = nfds ? dup2(fd_(), 500) : -1; return d >= 0 && pread(d, buf, 1, 0) > 0; }
static int do_dupfd(void) { int d = fcntl(fd_(), F_DUPFD_CLOEXEC, 600); int ok = d >= 0 && pread(d, buf, 1, 0) > 0; keep(d); return ok; }
static int child_reads(void) { return do_pread() || do_touch() || do_statcwd(); }
static int do_fork(void) { return in_child(child_reads); }
static int child_opens(void) { return do_openat() || do_opencwd() || do_open(); }
static int do_forkopen(void) { return in_child(child_opens); }
static int do_receive(void)
{
	char c, ctl[CMSG_SPACE(4 * sizeof(int))];
	struct iovec v = {&c, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
	if (recvmsg(mail, &m, MSG_DONTWAIT) < 0)
		return 0;
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (!h || h->cmsg_type != SCM_RIGHTS)
		return 0;
	int fd = *(int *)CMSG_DATA(h);
	int ok = pread(fd, buf, 1, 0) > 0;
	keep(fd);
	return ok;
}
static void post(void)
{
	char ctl[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {"x", 1};
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", peer);
	struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(h) = fd_();
	sendmsg(mail, &m, MSG_DONTWAIT);
}
static int do_mailed(void) { post(); return do_receive(); }

// Executing.
static int runs(void)
{
	char *argv[] = {"racer", "yes", NULL}, *env[] = {NULL};
	syscall(SYS_execveat, prog, "", argv, env, AT_EMPTY_PATH);
	if (cwd)
		execve("./prog", argv, env);
	return 0;
}
static int do_exec(void)
{
	pid_t pid = fork();
	int st;
	if (pid == 0)
		_exit(runs());
	while (pid > 0 && waitpid(pid, &st, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && WIFEXITED(st) && WEXITSTATUS(st) == 42;
}
static int do_mapexec(void)
{
	volatile char *p = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, prog, 0);
	if (p == MAP_FAILED)
		return 0;
	int ok = touch(p, 0);
	munmap((void *)p, PAGE);
	return ok;
}
static int do_spin(void) { return 0; } // Counted by the spinner itself.

// Changing.
static int do_openw(void) { return keep(open(path("f"), O_RDWR)); }
static int do_openwat(void) { return keep(openat(top, "f", O_RDWR)); }
static int do_opentrunc(void) { return drop(openat(top, name, O_RDWR | O_TRUNC | O_CREAT, 0644)); }
static int do_reopenw(void) { return nfds && keep(open(proc("fd", fd_(), ""), O_RDWR)); }
static int do_write(void) { return write(fd_(), "x", 1) > 0; }
static int do_pwrite(void) { return pwrite(fd_(), "xyz", 3, 100) > 0; }
static int do_pwritev2(void)
{
	struct iovec v[2] = {{"ab", 2}, {"cd", 2}};
	return pwritev2(fd_(), v, 2, 200, 0) > 0;
}
static int do_aiowrite(void) { return aio_one(IOCB_CMD_PWRITE, fd_()); }
static int do_sendto(void) { off_t off = 0; lseek(fd_(), 0, SEEK_SET); return sendfile(fd_(), tmp, &off, 16) > 0; }
static int do_splicein(void)
{
	int p[2];
	if (pipe(p))
		return 0;
	loff_t off = 0;
	int ok = write(p[1], "abcd", 4) == 4 && splice(p[0], NULL, fd_(), &off, 4, 0) > 0;
	close(p[0]);
	close(p[1]);
	return ok;
}
static int do_copyto(void) { loff_t a = 0, b = 0; return copy_file_range(tmp, &a, fd_(), &b, 16, 0) > 0; }
static int do_ftruncate(void) { return ftruncate(fd_(), 8192 + 4096 * rnd(2)) == 0; }
static int do_truncate(void) { return cwd && truncate("f", 8192) == 0; }
static int do_fallocate(void) { return fallocate(fd_(), 0, 0, 8192) == 0; }
static int do_fchmod(void) { return fchmod(fd_(), 0644) == 0; }
static int do_chmod(void) { return fchmodat(top, "f", 0644, 0) == 0; }
static int do_chown(void) { return fchownat(top, "f", 0, 0, 0) == 0; }
static int do_utimes(void) { return utimensat(top, "f", NULL, 0) == 0; }
static int do_mapw(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd_(), 0);
	return keep_map(wmaps, &nwmaps, p) && touch(p, 1);
}
static int do_touchw(void) { return touch(wmap_(), 1); }
static int do_readinto(void) { return wmap_() && pread(tmp, wmap_() + 64, 8, 0) > 0; }
static int do_unprotect(void) { return wmap_() && mprotect(wmap_(), PAGE, PROT_READ) == 0 && mprotect(wmap_(), PAGE, PROT_READ | PROT_WRITE) == 0 && touch(wmap_(), 1); }
static int do_msync(void) { return wmap_() && msync(wmap_(), PAGE, MS_SYNC) == 0; }
static int do_create(void) { return drop(openat(top, name, O_WRONLY | O_CREAT, 0644)); }
static int do_createcwd(void) { return cwd && drop(open(name, O_WRONLY | O_CREAT, 0644)); }
static int do_rename(void) { return renameat2(top, name, top, other, 0) == 0; }
static int do_renamecwd(void) { return cwd && rename(other, name) == 0; }
static int do_link(void) { return linkat(top, name, top, other, 0) == 0; }
static int do_linkfd(void) { return linkat(AT_FDCWD, proc("fd", fd_(), ""), top, other, AT_SYMLINK_FOLLOW) == 0; }
static int do_unlink(void) { return unlinkat(top, other, 0) == 0; }
static int do_unlinkcwd(void) { return cwd && unlink(name) == 0; }
static int do_mkdir(void) { snprintf(buf, 64, "d%s", name); return mkdirat(top, buf, 0755) == 0; }
static int do_rmdir(void) { snprintf(buf, 64, "d%s", name); return unlinkat(top, buf, AT_REMOVEDIR) == 0; }
static int do_symlink(void) { snprintf(buf, 64, "l%s", name); return symlinkat("f", top, buf) == 0; }
static int do_unsymlink(void) { snprintf(buf, 64, "l%s", name); return unlinkat(top, buf, 0) == 0; }
static int do_mkfifo(void) { snprintf(buf, 64, "p%s", name); return mknodat(top, buf, S_IFIFO | 0644, 0) == 0; }
static int do_unfifo(void) { snprintf(buf, 64, "p%s", name); return unlinkat(top, buf, 0) == 0; }
static int do_dgram(void) { return send(dgram, "x", 1, MSG_DONTWAIT) > 0 && recv(bound, buf, 1, MSG_DONTWAIT) > 0; }
static int do_sendname(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "s%s", name);
	return cwd && bound >= 0 && sendto(mail, "x", 1, MSG_DONTWAIT, (void *)&a, sizeof a) > 0 && recv(bound, buf, 1, MSG_DONTWAIT) > 0;
}
static int do_bind(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "b%s", name);
	int s = socket(AF_UNIX, SOCK_DGRAM, 0);
	int ok = cwd && bind(s, (void *)&a, sizeof a) == 0;
	close(s);
	if (ok)
		unlink(a.sun_path);
	return ok;
}

static const struct op {
	const char *name;
	int (*f)(void);
	int changes; // it needs the right to write, create or delete
	unsigned rare; // it is tried once in so many times
	int each;      // afterwards it is tried with all that was gathered
} ops[] = {
	{"spin", do_spin}, // the first: its number is an argument of the spinner
	{"stat", do_stat}, {"statat", do_statat}, {"statcwd", do_statcwd}, {"fstat", do_fstat, .each = 1}, {"fstatdir", do_fstatdir}, {"statx", do_statx},
	{"statfs", do_statfs}, {"access", do_access}, {"lseek", do_lseek}, {"opath", do_opath}, {"fchdir", do_fchdir}, {"chdir", do_chdir},
	{"flock", do_flock}, {"flockw", do_flockw}, {"setlk", do_setlk}, {"setlkw", do_setlkw}, {"ofdlk", do_ofdlk}, {"getlk", do_getlk},
	{"inotify", do_inotify}, {"watchdir", do_watchdir},
	{"open", do_open}, {"openat", do_openat}, {"opencwd", do_opencwd}, {"openup", do_openup}, {"openlink", do_openlink}, {"opendir", do_opendir},
	{"openat2", do_openat2}, {"reopen", do_reopen, .each = 1}, {"viadirfd", do_viadirfd}, {"viacwd", do_viacwd},
	{"read", do_read}, {"readbig", do_readbig}, {"pread", do_pread, .each = 1}, {"preadv2", do_preadv2}, {"readlink", do_readlink}, {"getdents", do_getdents},
	{"sendfile", do_sendfile}, {"splice", do_splice}, {"copyfrom", do_copyfrom},
	{"map", do_map}, {"mappriv", do_mappriv}, {"touch", do_touch, .each = 1}, {"touchs", do_touchs, .each = 1}, {"remap", do_remap}, {"vmread", do_vmread}, {"writefrom", do_writefrom},
	{"aioread", do_aioread}, {"dup", do_dup}, {"dup2", do_dup2}, {"dupfd", do_dupfd},
	{"fork", do_fork, 0, 8}, {"forkopen", do_forkopen, 0, 8}, {"mailed", do_mailed}, {"receive", do_receive, .each = 1},
	{"exec", do_exec, 0, 16}, {"mapexec", do_mapexec},
	{"openw", do_openw, 1}, {"openwat", do_openwat, 1}, {"opentrunc", do_opentrunc, 1}, {"reopenw", do_reopenw, 1},
	{"write", do_write, 1}, {"pwrite", do_pwrite, 1, .each = 1}, {"pwritev2", do_pwritev2, 1}, {"aiowrite", do_aiowrite, 1},
	{"sendto", do_sendto, 1}, {"splicein", do_splicein, 1}, {"copyto", do_copyto, 1},
	{"ftruncate", do_ftruncate, 1}, {"truncate", do_truncate, 1}, {"fallocate", do_fallocate, 1},
	{"fchmod", do_fchmod, 1}, {"chmod", do_chmod, 1}, {"chown", do_chown, 1}, {"utimes", do_utimes, 1},
	{"mapw", do_mapw, 1}, {"touchw", do_touchw, 1, .each = 1}, {"readinto", do_readinto, 1}, {"unprotect", do_unprotect, 1}, {"msync", do_msync}, {"create", do_create, 1}, {"createcwd", do_createcwd, 1},
	{"rename", do_rename, 1}, {"renamecwd", do_renamecwd, 1}, {"link", do_link, 1}, {"linkfd", do_linkfd, 1}, {"unlink", do_unlink, 1}, {"unlinkcwd", do_unlinkcwd, 1},
	{"mkdir", do_mkdir, 1}, {"rmdir", do_rmdir, 1}, {"symlink", do_symlink, 1}, {"unsymlink", do_unsymlink, 1},
	{"mkfifo", do_mkfifo, 1}, {"unfifo", do_unfifo, 1},
	{"dgram", do_dgram, 1}, {"sendname", do_sendname, 1}, {"bind", do_bind, 1},
};
enum { NOPS = sizeof ops / sizeof *ops };

static void try(unsigned i)
{
	int late = sh->revoked >= now || (ops[i].changes && sh->narrowed >= now); // First.
	if (ops[i].f())
		(late ? me->bad : me->good)[i]++;
}

static void gather(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char round[16];
	nfds = nmaps = nwmaps = 0;
	top = open(dir, O_RDONLY | O_DIRECTORY);
	if (top >= 0 && fstatat(top, "f", &st, 0) != 0) { // It is what the mount covered.
		close(top);
		top = -1;
	}
	cwd = chdir(dir) == 0 && stat("f", &st) == 0;
	if (!cwd)
		chdir("/");
	keep(openat(top, "f", O_RDWR));
	for (int i = 0; i < 3; i++) {
		do_mapw();
		do_mappriv();
	}
	prog = openat(top, "prog", O_RDONLY);
	watch = inotify_init1(IN_NONBLOCK);
	bound = socket(AF_UNIX, SOCK_DGRAM, 0);
	dgram = socket(AF_UNIX, SOCK_DGRAM, 0);
	snprintf(a.sun_path, sizeof a.sun_path, "s%s", name);
	if (cwd) {
		unlink(a.sun_path);
		bind(bound, (void *)&a, sizeof a);
		connect(dgram, (void *)&a, sizeof a);
	}
	spinner = id == 0 && cwd ? fork() : -1;
	if (spinner == 0) {
		snprintf(round, sizeof round, "%u", now);
		execl("./prog", "racer", "spin", getenv("SHARED"), round, NULL);
		_exit(1);
	}
}

static void release(void)
{
	chdir("/");
	while (nfds)
		close(fds[--nfds]);
	while (nmaps)
		munmap(maps[--nmaps], PAGE);
	while (nwmaps)
		munmap(wmaps[--nwmaps], PAGE);
	close(500);
	close(top);
	close(prog);
	close(watch);
	close(bound);
	close(dgram);
	if (spinner > 0)
		while (waitpid(spinner, NULL, 0) < 0 && errno == EINTR)
			;
}

// Once the grant is gone, everything is tried, and with all that is left what
// each was gathered for.
static void afterwards(void)
{
	for (unsigned i = 0; i < NOPS; i++) {
		if (ops[i].rare && rnd(ops[i].rare))
			continue;
		cur = rnd(RING);
		try(i);
	}
	for (cur = 0; cur < RING; cur++)
		for (unsigned i = 0; i < NOPS; i++)
			if (ops[i].each)
				try(i);
}

static void work(void)
{
	snprintf(name, sizeof name, "%c%u", getenv("WHO")[0], id);
	snprintf(other, sizeof other, "o%s", name);
	seed = getpid() * 7919 + id;
	aio_ok = syscall(SYS_io_setup, 8, &aio) == 0;
	tmp = open("/tmp", O_RDWR | O_TMPFILE, 0600);
	if (tmp < 0) {
		snprintf(buf, 64, "/tmp/racer%u", id);
		tmp = open(buf, O_RDWR | O_CREAT, 0600);
	}
	memset(buf, 'z', sizeof buf);
	write(tmp, buf, 4096);
	for (now = 1;; now++) {
		while (sh->round < now) {
			if (sh->quit)
				_exit(0);
			usleep(100);
		}
		now = sh->round;
		gather();
		while (sh->revoked < now) {
			unsigned i = rnd(NOPS);
			if (ops[i].rare && rnd(ops[i].rare))
				continue;
			cur = rnd(RING);
			try(i);
		}
		afterwards();
		release();
		me->done = now;
	}
}

static void *see(const char *file, size_t size)
{
	int fd = open(file, O_RDWR);
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || p == MAP_FAILED) {
		perror(file);
		exit(1);
	}
	close(fd);
	return p;
}

static int spin(const char *file, uint32_t round)
{
	struct timespec t = {.tv_nsec = 50000};
	sh = see(file, 2 * PAGE);
	me = (void *)((char *)sh + PAGE);
	for (;;) {
		int late = sh->revoked >= round;
		(late ? me->bad : me->good)[0]++; // What comes after the look is too late.
		if (late)
			return 0;
		nanosleep(&t, NULL);
	}
}

// held does one thing with what hold has open, and returns 0 or what came of it.
static int held(const char *what)
{
	errno = caught = 0;
	for (unsigned i = 0; i < NOPS; i++)
		if (!strcmp(ops[i].name, what))
			return ops[i].f() ? 0 : caught ? -caught : errno;
	return -1000;
}

// waiting blocks in a child until it is let go, and says why that was.
static void waiting(const char *what)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
	int r = -1;
	if (fork())
		return;
	int fd = open("f", O_RDWR), in = inotify_init(), ep = epoll_create1(0);
	struct epoll_event e = {.events = EPOLLIN};
	inotify_add_watch(in, "f", IN_DELETE_SELF);
	epoll_ctl(ep, EPOLL_CTL_ADD, in, &e);
	puts("waits");
	fflush(stdout);
	errno = 0;
	if (!strcmp(what, "flock"))
		r = flock(fd, LOCK_EX);
	else if (!strcmp(what, "setlkw"))
		r = fcntl(fd, F_SETLKW, &l);
	else if (!strcmp(what, "ofdlkw"))
		r = fcntl(fd, F_OFD_SETLKW, &l);
	else if (!strcmp(what, "inotify"))
		r = read(in, buf, sizeof buf) > 0 && (((struct inotify_event *)buf)->mask & IN_IGNORED) ? 0 : -1;
	else if (!strcmp(what, "epoll"))
		r = epoll_wait(ep, &e, 1, -1) == 1 ? 0 : -1;
	else if (!strcmp(what, "recv"))
		r = recv(stream, buf, 1, 0) > 0 ? -1 : 0; // The end, or an error: both let it go.
	printf("%s let go: %d\n", what, r == 0 ? 0 : errno);
	fflush(stdout);
	_exit(0);
}

static int hold(const char *where)
{
	char line[64], what[32];
	struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "stream"};
	dir = where;
	strcpy(name, "held");
	strcpy(other, "oheld");
	id = 1; // It has no spinner.
	aio_ok = syscall(SYS_io_setup, 8, &aio) == 0;
	tmp = open("/tmp/held", O_RDWR | O_CREAT, 0600);
	memset(buf, 'z', sizeof buf);
	write(tmp, buf, 4096);
	mail = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	gather();
	stream = socket(AF_UNIX, SOCK_STREAM, 0);
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	if (unlink(a.sun_path) && errno == EACCES)
		; // It may not make one either.
	else if (bind(l, (void *)&a, sizeof a) || listen(l, 1) || connect(stream, (void *)&a, sizeof a))
		perror("stream");
	puts("holds");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "wait %31s", what) == 1)
			waiting(what);
		else if (sscanf(line, "lock %31s", what) == 1) {
			struct flock k = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
			printf("locked %d %d\n", flock(fd_(), LOCK_EX), fcntl(fd_(), F_OFD_SETLK, &k));
		} else if (sscanf(line, "%31s", what) == 1)
			printf("%s: %d\n", what, held(what));
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_bus};
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(argv[1], "hold"))
		return hold(argv[2]);
	if (argc == 2 && !strcmp(argv[1], "yes"))
		return 42;
	if (argc == 4 && !strcmp(argv[1], "spin"))
		return spin(argv[2], strtoul(argv[3], NULL, 10));
	if (argc != 6)
		return 2;
	unsigned n = strtoul(argv[3], NULL, 10);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	dir = argv[1];
	peer = argv[5];
	setenv("SHARED", argv[2], 1);
	sh = see(argv[2], (1 + n) * PAGE);
	for (unsigned i = 0; i < NOPS; i++)
		strcpy(sh->names[i], ops[i].name);
	sh->nops = NOPS;
	mail = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof a.sun_path, "%s", argv[4]);
	unlink(argv[4]);
	if (mail < 0 || bind(mail, (void *)&a, sizeof a)) {
		perror(argv[4]);
		return 1;
	}
	for (id = 0; id < n; id++) {
		me = (void *)((char *)sh + (1 + id) * PAGE);
		if (fork() == 0)
			work();
	}
	puts("ready");
	fflush(stdout);
	while (wait(NULL) > 0)
		;
	return 0;
}
