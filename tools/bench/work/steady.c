// Does the same short piece of work over and over: a byte through a pipe, and
// a page mapped, touched and given back. Each line of standard input says for
// how many milliseconds, and is answered with how often it was done and with
// the 50th and 99th percentile of how long it took, in nanoseconds.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 22, PAGE = 4096 };

static unsigned took[MOST];

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return (x > y) - (x < y);
}

int main(void)
{
	int ends[2];
	long ms;

	if (pipe(ends) < 0)
		return 1;
	while (scanf("%ld", &ms) == 1) {
		long count = 0, last = now(), end = last + ms * 1000000;

		while (last < end && count < MOST) {
			char byte = 0;
			char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

			if (page == MAP_FAILED || write(ends[1], &byte, 1) != 1 || read(ends[0], page, 1) != 1)
				return 1;
			munmap(page, PAGE);
			long t = now();
			took[count++] = t - last;
			last = t;
		}
		qsort(took, count, sizeof *took, compare);
		printf("%ld %u %u\n", count, took[(count - 1) / 2], took[(count * 99 + 99) / 100 - 1]);
		fflush(stdout);
	}
	return 0;
}
