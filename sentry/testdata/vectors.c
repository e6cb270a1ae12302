// Vector registers across page faults and preemption: threads fill theirs, fault
// in a page by storing one, and look at what arrived.
//
//	vectors SECONDS THREADS
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static double end;
static volatile long bad, done;

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

// store fills two registers and stores them.
static inline void store(uint64_t *to, uint64_t x) {
	uint64_t in[4] = {x, ~x, x * 3, x * 5};
	__asm__ volatile("movups (%1), %%xmm7\n\tmovups 16(%1), %%xmm13\n\t"
			 "movups %%xmm7, (%0)\n\tmovups %%xmm13, 16(%0)"
			 : : "r"(to), "r"(in) : "xmm7", "xmm13", "memory");
}

static void *work(void *arg) {
	enum { PAGES = 64, PAGE = 4096 };
	char *m = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t x = (uint64_t)arg << 48;

	while (now() < end) {
		for (int i = 0; i < PAGES; i++) {
			uint64_t *p = (uint64_t *)(m + i * PAGE);
			store(p, ++x);
			if (p[0] != x || p[1] != ~x || p[2] != x * 3 || p[3] != x * 5) {
				fprintf(stderr, "stored %lx, %lx, %lx and %lx of %lx\n", p[0], p[1], p[2], p[3], x);
				__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
			}
		}
		__atomic_fetch_add(&done, PAGES, __ATOMIC_RELAXED);
		madvise(m, PAGES * PAGE, MADV_DONTNEED);
	}
	return NULL;
}

int main(int argc, char **argv) {
	int n = atoi(argv[2]);
	pthread_t t[64];

	end = now() + atof(argv[1]);
	for (long i = 0; i < n; i++)
		pthread_create(&t[i], NULL, work, (void *)(i + 1));
	for (int i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	printf("%ld\n", done);
	return bad != 0;
}
