// A program that does to a region of memory what it is told on its standard
// input, and says what came of it: 0, an errno, or a signal made negative.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static int fd = -1;
static char *mem;
static size_t size;

static void on_fault(int sig) { siglongjmp(back, sig); }

static int err(int failed) { return failed ? errno : 0; }

static int open_(const char *path, const char *how)
{
	struct stat st;
	if (fd >= 0)
		close(fd);
	fd = open(path, !strcmp(how, "rw") ? O_RDWR : !strcmp(how, "w") ? O_WRONLY : O_RDONLY);
	if (fd < 0)
		return errno;
	size = fstat(fd, &st) ? 0 : st.st_size;
	return 0;
}

static int map(const char *how)
{
	int prot = PROT_READ | (strchr(how, 'w') ? PROT_WRITE : 0) | (strchr(how, 'x') ? PROT_EXEC : 0);
	char *p = mmap(NULL, size, prot, strchr(how, 'p') ? MAP_PRIVATE : MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return errno;
	mem = p;
	return 0;
}

static int procmem(unsigned long off, int byte)
{
	char c = byte;
	int m = open("/proc/self/mem", O_RDWR), e;
	if (m < 0)
		return errno;
	e = err(pwrite(m, &c, 1, (off_t)(mem + off)) != 1);
	close(m);
	return e;
}

static int vmwrite(unsigned long off, int byte)
{
	char c = byte;
	struct iovec l = {&c, 1}, r = {mem + off, 1};
	return err(process_vm_writev(getpid(), &l, 1, &r, 1, 0) != 1);
}

// poketext has a traced child's memory written.
static int poketext(unsigned long off, int byte)
{
	int st, e;
	pid_t p = fork();
	if (p == 0) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(p, &st, 0);
	errno = 0;
	e = err(ptrace(PTRACE_POKEDATA, p, mem + off, (long)byte) != 0);
	kill(p, SIGKILL);
	waitpid(p, &st, 0);
	return e;
}

// readinto has the kernel write to the region.
static int readinto(unsigned long off)
{
	int p[2], e;
	if (pipe(p) || write(p[1], "k", 1) != 1)
		return -1;
	e = err(read(p[0], mem + off, 1) != 1);
	close(p[0]);
	close(p[1]);
	return e;
}

// child looks at the region in a process that was forked.
static int child(unsigned long off)
{
	int st;
	pid_t p = fork();
	if (p == 0) {
		signal(SIGBUS, SIG_DFL);
		_exit(((volatile char *)mem)[off]);
	}
	waitpid(p, &st, 0);
	return WIFSIGNALED(st) ? -WTERMSIG(st) : 1000 + WEXITSTATUS(st);
}

static int does(const char *line)
{
	char a[300], b[32];
	unsigned long off = 0;
	int byte = 0, sig;
	if ((sig = sigsetjmp(back, 1)))
		return -sig;
	if (sscanf(line, "open %299s %31s", a, b) == 2)
		return open_(a, b);
	if (sscanf(line, "map %31s", b) == 1)
		return map(b);
	if (sscanf(line, "poke %lu %d", &off, &byte) == 2)
		return ((volatile char *)mem)[off] = byte, 0;
	if (sscanf(line, "peek %lu", &off) == 1)
		return 1000 + ((volatile char *)mem)[off];
	if (sscanf(line, "protect %31s", b) == 1)
		return err(mprotect(mem, size, PROT_READ | PROT_WRITE | (strchr(b, 'x') ? PROT_EXEC : 0)));
	if (sscanf(line, "procmem %lu %d", &off, &byte) == 2)
		return procmem(off, byte);
	if (sscanf(line, "vmwrite %lu %d", &off, &byte) == 2)
		return vmwrite(off, byte);
	if (sscanf(line, "poketext %lu %d", &off, &byte) == 2)
		return poketext(off, byte);
	if (sscanf(line, "readinto %lu", &off) == 1)
		return readinto(off);
	if (sscanf(line, "child %lu", &off) == 1)
		return child(off);
	if (sscanf(line, "pwrite %lu %d", &off, &byte) == 2)
		return err(pwrite(fd, &(char){byte}, 1, off) != 1);
	if (sscanf(line, "pread %lu", &off) == 1) {
		unsigned char c;
		return pread(fd, &c, 1, off) != 1 ? errno : 1000 + c;
	}
	if (sscanf(line, "truncate %lu", &off) == 1)
		return err(ftruncate(fd, off));
	if (sscanf(line, "link %299s %31s", a, b) == 2)
		return err(link(a, b));
	if (sscanf(line, "rename %299s %31s", a, b) == 2)
		return err(rename(a, b));
	if (sscanf(line, "unlink %299s", a) == 1)
		return err(unlink(a));
	if (sscanf(line, "length %lu %d", &off, &byte) == 2) // a mapping of byte pages at off
		return err(mmap(NULL, (size_t)byte * 4096, PROT_READ, MAP_SHARED, fd, off) == MAP_FAILED);
	if (!strncmp(line, "addr", 4))
		return (int)((unsigned long)mem >> 21);
	if (!strncmp(line, "reopen", 6)) { // by the link in /proc
		snprintf(a, sizeof a, "/proc/self/fd/%d", fd);
		int n = open(a, O_RDWR), e = errno;
		if (n < 0)
			return e;
		close(n);
		return 0;
	}
	if (!strncmp(line, "exec", 4)) {
		snprintf(a, sizeof a, "/proc/self/fd/%d", fd);
		execl(a, a, NULL);
		return errno;
	}
	return -1000;
}

int main(void)
{
	char line[400], what[32];
	struct sigaction sa = {.sa_handler = on_fault};
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		int r = does(line);
		if (sscanf(line, "%31s", what) == 1)
			printf("%s: %d\n", what, r);
		fflush(stdout);
	}
	return 0;
}
