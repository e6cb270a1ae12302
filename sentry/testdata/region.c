// A program that does to a region of memory what it is told on its standard
// input, and says what came of it: 0, an errno, or a signal made negative.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>
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

// What is asked of the kernel of the words in a region.
struct arg {
	uint64_t offset, deadline, expect, new;
	uint32_t id, count, flags, pad;
};
enum { JOIN, LEAVE, ALIVE, WAIT, WAKE, LOCK, UNLOCK, CAS, COMMIT, MAP };
#define CALL(n) _IOC(_IOC_READ | _IOC_WRITE, 'A', 64 + (n), sizeof(struct arg))

static uint32_t id;

static uint64_t in_ms(int ms)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return ms ? t.tv_sec * 1000000000ull + t.tv_nsec + ms * 1000000ull : 0;
}

static int call(int n, struct arg a)
{
	int e = err(ioctl(fd, CALL(n), &a));
	if (n == JOIN && !e)
		id = a.id;
	if (n == WAKE && !e)
		return 1000 + a.count;
	if (n == CAS && !e)
		return 1000 + a.expect;
	return e;
}

// A thread that takes a lock and ends with it.
static void *taker(void *off)
{
	int e = call(JOIN, (struct arg){0});
	return (void *)(long)(e ? e : call(LOCK, (struct arg){.offset = (long)off, .id = id, .deadline = in_ms(5000)}));
}

static int thread_lock(unsigned long off)
{
	pthread_t t;
	void *e;
	pthread_create(&t, NULL, taker, (void *)off);
	pthread_join(t, &e);
	return (int)(long)e;
}

static int synchronise(const char *line)
{
	unsigned long off, v, at;
	int ms;
	uint32_t n;
	if (sscanf(line, "mapcall %u %lu %lu %lu", &n, &off, &v, &at) == 4) { // with these flags, so many bytes from there, at that address
		struct arg a = {.flags = n, .offset = off, .new = v, .expect = at};
		if (ioctl(fd, CALL(MAP), &a))
			return errno;
		mem = (char *)a.expect, size = a.new;
		return at && a.expect != at ? -1 : 0;
	}
	if (!strncmp(line, "join", 4))
		return call(JOIN, (struct arg){.flags = strstr(line, "process") ? 1 : 0});
	if (!strncmp(line, "leave", 5))
		return call(LEAVE, (struct arg){.id = id});
	if (!strncmp(line, "me", 2))
		return 1000 + id;
	if (sscanf(line, "be %u", &n) == 1) // somebody else
		return id = n, 0;
	if (sscanf(line, "alive %u", &n) == 1)
		return call(ALIVE, (struct arg){.id = n});
	if (sscanf(line, "wait %lu %lu %d", &off, &v, &ms) == 3)
		return call(WAIT, (struct arg){.offset = off, .expect = v, .deadline = in_ms(ms)});
	if (sscanf(line, "wake %lu %u", &off, &n) == 2)
		return call(WAKE, (struct arg){.offset = off, .count = n});
	if (sscanf(line, "lock %lu %d", &off, &ms) == 2)
		return call(LOCK, (struct arg){.offset = off, .id = id, .deadline = in_ms(ms)});
	if (sscanf(line, "trylock %lu", &off) == 1)
		return call(LOCK, (struct arg){.offset = off, .id = id, .flags = 2});
	if (sscanf(line, "unlock %lu", &off) == 1)
		return call(UNLOCK, (struct arg){.offset = off, .id = id});
	if (sscanf(line, "threadlock %lu", &off) == 1)
		return thread_lock(off);
	if (sscanf(line, "cas %lu %lu %u", &off, &v, &n) == 3)
		return call(CAS, (struct arg){.offset = off, .expect = v, .new = n});
	if (sscanf(line, "store %lu %u", &off, &n) == 2)
		return __atomic_store_n((uint32_t *)(mem + off), n, __ATOMIC_SEQ_CST), 0;
	if (!strncmp(line, "badcalls", 8)) { // Each of them is wrong in some way.
		struct arg a = {.pad = 1};
		int ok = ioctl(fd, CALL(WAIT), &a) == 0;
		a = (struct arg){.flags = 8};
		ok += ioctl(fd, CALL(LOCK), &a) == 0;
		a = (struct arg){.offset = 1, .deadline = 1};
		ok += ioctl(fd, CALL(WAIT), &a) == 0;
		a = (struct arg){.offset = ~0ull - 3, .deadline = 1};
		ok += ioctl(fd, CALL(WAIT), &a) == 0 || ioctl(fd, CALL(LOCK), &a) == 0 || ioctl(fd, CALL(CAS), &a) == 0;
		ok += ioctl(fd, CALL(CAS + 1), &a) == 0 || ioctl(fd, CALL(WAIT) + (1 << 16), &a) == 0;
		ok += ioctl(fd, CALL(JOIN), NULL) == 0 || ioctl(fd, CALL(JOIN), (void *)1) == 0;
		return ok;
	}
	if (!strncmp(line, "spin", 4)) // for ever, at the words of the region
		for (uint32_t n = 1;; n++)
			__atomic_store_n((uint32_t *)mem + n % 16, n * 2654435761u, __ATOMIC_SEQ_CST);
	if (!strncmp(line, "unmap", 5))
		return err(munmap(mem, size));
	if (!strncmp(line, "again", 5)) // as another program
		return execl("/bin/region", "region", NULL), errno;
	return -1000;
}

// churn has threads map what path is, write to it, fork and unmap it, so often as it
// is told, whatever becomes of their right to it meanwhile.
static char churned[300];
static int rounds;
static __thread sigjmp_buf lost;

static void on_loss(int sig) { siglongjmp(lost, 1); }

static void *churner(void *arg)
{
	for (int i = 0; i < rounds; i++) {
		int f = open(churned, O_RDWR);
		if (f < 0)
			continue;
		struct stat st;
		volatile char *p = fstat(f, &st) ? MAP_FAILED : mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, i % 3 ? MAP_SHARED : MAP_PRIVATE, f, 0);
		close(f);
		if (p == MAP_FAILED)
			continue;
		if (!sigsetjmp(lost, 1))
			for (off_t at = (long)arg * 4096; at < st.st_size; at += 1 << 17)
				p[at]++;
		if (i % 8 == (long)arg) {
			pid_t kid = fork();
			if (kid == 0) {
				signal(SIGBUS, SIG_DFL);
				p[0]++;
				_exit(0);
			}
			waitpid(kid, NULL, 0);
		}
		off_t half = i % 2 ? st.st_size : st.st_size / 2; // What is unmapped may be another thread's at once.
		munmap((void *)p, half);
		if (half < st.st_size)
			munmap((void *)(p + half), st.st_size - half);
	}
	return NULL;
}

static int churn(void)
{
	pthread_t t[4];
	struct sigaction sa = {.sa_handler = on_loss}, was;
	sigaction(SIGBUS, &sa, &was);
	for (long i = 0; i < 4; i++)
		if (pthread_create(&t[i], NULL, churner, (void *)i))
			return errno;
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	sigaction(SIGBUS, &was, NULL);
	return 0;
}

static int does(const char *line)
{
	char a[300], b[32];
	if (!strncmp(line, "mapcall ", 8)) // Else it is read as "map".
		return synchronise(line);
	unsigned long off = 0;
	int byte = 0, sig;
	if ((sig = sigsetjmp(back, 1)))
		return -sig;
	if (sscanf(line, "open %299s %31s", a, b) == 2)
		return open_(a, b);
	if (sscanf(line, "churn %299s %d", churned, &rounds) == 2)
		return churn();
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
	return synchronise(line);
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
