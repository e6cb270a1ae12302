// Reads clocks, in a place where the system calls for it are refused: what
// succeeds did not enter the kernel. Right after a kernel has started it may have
// to; then this waits.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int main(void) {
	struct timespec t, last = {0, 0}, first, end;
	struct timeval v;
	clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC};
	if (syscall(SYS_clock_gettime, CLOCK_REALTIME, &t) != -1 || errno != EPERM) return puts("the call is not refused"), 1;
	for (int i = 0; clock_gettime(CLOCK_REALTIME, &t) || clock_gettime(CLOCK_MONOTONIC, &t); i++) {
		if (i == 300) return puts("a clock cannot be read without a call"), 1;
		usleep(100000);
	}
	for (int c = 0; c < 2; c++) {
		last.tv_sec = 0;
		for (int i = 0; i < 1000000; i++) {
			if (clock_gettime(clocks[c], &t)) return printf("clock %d: read %d failed\n", clocks[c], i), 1;
			if (clocks[c] == CLOCK_MONOTONIC && (t.tv_sec < last.tv_sec || t.tv_sec == last.tv_sec && t.tv_nsec < last.tv_nsec))
				return printf("time ran backwards in read %d\n", i), 1;
			last = t;
		}
	}
	if (gettimeofday(&v, 0)) return puts("gettimeofday"), 1;
	// A second is a second.
	clock_gettime(CLOCK_MONOTONIC, &first);
	usleep(1000000);
	clock_gettime(CLOCK_MONOTONIC, &end);
	double took = end.tv_sec - first.tv_sec + (end.tv_nsec - first.tv_nsec) / 1e9;
	if (took < 1 || took > 3) return printf("a second took %f s\n", took), 1;
	printf("%ld\n", (long)v.tv_sec);
	return 0;
}
