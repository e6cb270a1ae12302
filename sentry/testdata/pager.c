// What the tests of memory have touch it. Each argument is done in turn:
//
//	fresh:N   touches N areas of 2 MiB that were never touched, one page each
//	copy:N    the same, and again by a child that writes to them
//	refused:N reads N times what is mapped without access
//	nothing:N reads N times what is not mapped
//	code      maps memory that is writable and executable
//	wait      waits for ever
//	say       prints what getrusage(2), /proc/self/stat and /proc/thread-self/stat
//	          say of page faults: minor and major of each
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { area = 2 << 20 };

static sigjmp_buf out;

static void caught(int sig) { siglongjmp(out, 1); }

static char *map(long n, int prot) {
	// Aligned, so that no area shares what the kernel maps at once.
	char *p = mmap(0, (n + 1) * area, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) exit(10);
	return (char *)(((unsigned long)p + area - 1) & -(unsigned long)area);
}

static char *fresh(long n) {
	char *p = map(n, PROT_READ | PROT_WRITE);
	for (long i = 0; i < n; i++) p[i * area] = 1;
	return p;
}

static void copy(long n) {
	char *p = fresh(n);
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		for (long i = 0; i < n; i++) p[i * area] = 2;
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid || status) exit(11);
	for (long i = 0; i < n; i++)
		if (p[i * area] != 1) exit(12);
}

static void fail(volatile char *p, long n) {
	signal(SIGSEGV, caught);
	for (volatile long i = 0; i < n; i++)
		if (!sigsetjmp(out, 1)) {
			(void)*p;
			exit(13);
		}
	signal(SIGSEGV, SIG_DFL);
}

static void stat_faults(const char *path) {
	char buf[4096];
	int fd = open(path, O_RDONLY);
	long n = read(fd, buf, sizeof buf - 1);
	unsigned long minor, major;
	if (n <= 0) exit(14);
	buf[n] = 0;
	close(fd);
	if (sscanf(strrchr(buf, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %lu %*u %lu", &minor, &major) != 2) exit(15);
	printf("%lu %lu ", minor, major);
}

static void say(void) {
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	printf("%ld %ld ", r.ru_minflt, r.ru_majflt);
	stat_faults("/proc/self/stat");
	stat_faults("/proc/thread-self/stat");
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		char *colon = strchr(argv[i], ':');
		long n = colon ? atol(colon + 1) : 0;
		if (colon) *colon = 0;
		if (!strcmp(argv[i], "fresh")) fresh(n);
		else if (!strcmp(argv[i], "copy")) copy(n);
		else if (!strcmp(argv[i], "refused")) fail(map(1, PROT_NONE), n);
		else if (!strcmp(argv[i], "nothing")) fail((char *)4096, n);
		else if (!strcmp(argv[i], "say")) say();
		else if (!strcmp(argv[i], "code")) map(1, PROT_READ | PROT_WRITE | PROT_EXEC);
		else if (!strcmp(argv[i], "wait")) for (;;) pause();
		else return 16;
	}
	return 0;
}
