// Swapper has memory of every kind, and knows what is in each page of it. It does
// what it is told on standard input, a word a line, and says "ok" or what is wrong.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, MAX = 1 << 15 };

struct area {
	const char *name;
	char *at;
	size_t pages, room;
	uint64_t *want; // of each page; 0: nothing but zeros
};

static struct area areas[16];
static int n_areas;
static uint64_t next = 1;

static uint64_t word(uint64_t seed, int i) {
	if (seed == 0) return 0;
	if (seed % 3 == 0) return seed; // compresses well
	if (seed % 3 == 1 && i > WORDS / 3) return 0;
	uint64_t x = seed * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u;
	x ^= x >> 29;
	return x * 0x94d049bb133111ebu;
}

static void put(struct area *a, size_t page, uint64_t seed) {
	uint64_t *p = (uint64_t *)(a->at + page * PAGE);
	for (int i = 0; i < WORDS; i++) p[i] = word(seed, i);
	a->want[page] = seed;
}

static int right(struct area *a, size_t page) {
	volatile uint64_t *p = (uint64_t *)(a->at + page * PAGE);
	for (int i = 0; i < WORDS; i++)
		if (p[i] != word(a->want[page], i)) {
			printf("WRONG %s page %zu word %d: %lx, want %lx (seed %lu)\n", a->name, page, i, (long)p[i], (long)word(a->want[page], i), (long)a->want[page]);
			return 0;
		}
	return 1;
}

static int check(void) {
	for (int n = 0; n < n_areas; n++)
		for (size_t i = 0; i < areas[n].pages; i++)
			if (!right(&areas[n], i)) return 0;
	return 1;
}

static struct area *add(const char *name, char *at, size_t pages) {
	struct area *a = &areas[n_areas++];
	*a = (struct area){name, at, pages, MAX, calloc(MAX, 8)};
	return a;
}

static void *map(size_t pages, int flags) {
	void *p = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	if (p == MAP_FAILED) { printf("mmap: %s\n", strerror(errno)); exit(1); }
	return p;
}

static void fill(void) {
	struct area *a = add("mapped", map(2048, 0), 2048);
	for (size_t i = 0; i < a->pages; i++) if (i % 5 != 4) put(a, i, next++);
	a = add("heap", sbrk(0), 300);
	a->at = (char *)(((uintptr_t)a->at + PAGE - 1) & -PAGE);
	if (brk(a->at + 300 * PAGE)) { printf("brk\n"); exit(1); }
	for (size_t i = 0; i < a->pages; i++) put(a, i, next++);
	a = add("read-only", map(100, 0), 100);
	for (size_t i = 0; i < a->pages; i++) put(a, i, next++);
	mprotect(a->at, 100 * PAGE, PROT_READ);
	a = add("mixed", map(100, 0), 100);
	for (size_t i = 0; i < a->pages; i++) put(a, i, next++);
	for (size_t i = 0; i < a->pages; i += 10) mprotect(a->at + i * PAGE, PAGE, PROT_READ);
	a = add("shared", mmap(0, 50 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 50);
	for (size_t i = 0; i < a->pages; i++) put(a, i, next++);
	a = add("grows", map(64, 0), 64);
	for (size_t i = 0; i < a->pages; i++) put(a, i, next++);
	a = add("stack-like", map(256, MAP_STACK | MAP_NORESERVE), 256);
	for (size_t i = 200; i < a->pages; i++) put(a, i, next++);
}

static struct area *find(const char *name) {
	for (int n = 0; n < n_areas; n++) if (!strcmp(areas[n].name, name)) return &areas[n];
	return 0;
}

static void touch(int step, int from) {
	struct area *a = find("mapped");
	for (size_t i = from; i < a->pages; i += step) put(a, i, next++);
	a = find("heap");
	for (size_t i = from; i < a->pages; i += step) put(a, i, next++);
	// Single words, which leave the rest of their page.
	a = find("stack-like");
	for (size_t i = 0; i < a->pages; i += step) { volatile char *p = a->at + i * PAGE; *p = *p; }
}

static int dontneed(struct area *a, size_t from, size_t to) {
	if (madvise(a->at + from * PAGE, (to - from) * PAGE, MADV_DONTNEED)) { printf("madvise: %s\n", strerror(errno)); return 0; }
	for (size_t i = from; i < to; i++) a->want[i] = 0;
	return 1;
}

static int resize(struct area *a, size_t pages, int flags) {
	char *p = mremap(a->at, a->pages * PAGE, pages * PAGE, flags);
	if (p == MAP_FAILED) { printf("mremap: %s\n", strerror(errno)); return 0; }
	a->at = p;
	for (size_t i = a->pages; i < pages; i++) a->want[i] = 0;
	a->pages = pages;
	return 1;
}

static int forks(int deep) {
	int to[2];
	if (pipe(to)) return 0;
	pid_t pid = fork();
	if (pid == 0) {
		char c;
		close(to[1]);
		int ok = check();
		touch(3, 1);
		ok = ok && dontneed(find("mapped"), 10, 40) && check();
		read(to[0], &c, 1); // The parent has changed its own.
		ok = ok && check() && (deep == 0 || forks(deep - 1)) && check();
		fflush(stdout);
		_exit(ok ? 0 : 1);
	}
	close(to[0]);
	touch(4, 0);
	int ok = dontneed(find("mapped"), 30, 60) && check();
	write(to[1], "x", 1);
	close(to[1]);
	int st;
	waitpid(pid, &st, 0);
	if (st) printf("the child ended with %d\n", st);
	return ok && st == 0 && check();
}

// A child that stays, and changes nothing: it says what it sees when asked.
static int kid_in[2], kid_out[2];

static int kid(void) {
	if (pipe(kid_in) || pipe(kid_out)) return 0;
	if (fork() == 0) {
		char c;
		close(kid_in[1]);
		while (read(kid_in[0], &c, 1) == 1) {
			if (c == 't') touch(2, 1);
			c = check() ? 'y' : 'n';
			fflush(stdout);
			write(kid_out[1], &c, 1);
		}
		_exit(0);
	}
	close(kid_in[0]);
	return 1;
}

static int ask(char c) {
	write(kid_in[1], &c, 1);
	read(kid_out[0], &c, 1);
	return c == 'y';
}

// Threads that write and verify pages of their own all the time.
static volatile int stop, bad;
static pthread_t threads[8];
static int n_threads;
static volatile long rounds;

static void *worker(void *arg) {
	char name[16] = "worker";
	struct area a = {name, map(512, 0), 512, 512, calloc(512, 8)};
	uint64_t seed = (uint64_t)(uintptr_t)arg << 32 | 1;
	unsigned r = (unsigned)(uintptr_t)arg * 77 + 1;
	while (!stop) {
		for (int k = 0; k < 64; k++) {
			r = r * 1664525 + 1013904223;
			size_t i = (r >> 8) % a.pages;
			if (!right(&a, i)) { bad = 1; return 0; }
			switch (r % 16) {
			case 0: case 1: case 2: case 3: case 4: put(&a, i, seed++); break;
			case 5: {
				size_t to = i + r % 7 + 1;
				if (to > a.pages) to = a.pages;
				if (!dontneed(&a, i, to)) bad = 1;
				break;
			}
			case 6: {
				size_t was = a.pages;
				if (!resize(&a, was == 512 ? 400 : 512, MREMAP_MAYMOVE)) bad = 1;
				break;
			}
			case 7: {
				char *to = map(a.pages, 0);
				char *p = mremap(a.at, a.pages * PAGE, a.pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
				if (p == MAP_FAILED) { printf("move: %s\n", strerror(errno)); bad = 1; } else a.at = p;
				break;
			}
			}
		}
		__sync_fetch_and_add(&rounds, 1);
		usleep(500);
	}
	for (size_t i = 0; i < a.pages; i++) if (!right(&a, i)) bad = 1;
	munmap(a.at, a.pages * PAGE);
	free(a.want);
	return 0;
}

int main(int argc, char **argv) {
	static char line[256];
	setvbuf(stdout, 0, _IOLBF, 0);
	fill();
	printf("ready\n");
	for (int n = 0; argc > 1; n++) { // It verifies all now and then.
		usleep(200000);
		if (!check()) return 1;
		printf("round %d right\n", n);
	}
	while (fgets(line, sizeof line, stdin)) {
		int ok = 1;
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "check")) ok = check();
		else if (!strcmp(line, "touch")) { touch(3, 0); ok = check(); }
		else if (!strcmp(line, "write")) touch(2, 0);
		else if (!strcmp(line, "read-half")) {
			struct area *a = find("mapped");
			for (size_t i = 0; i < a->pages / 2; i++) ok = ok && right(a, i);
		}
		else if (!strcmp(line, "dontneed")) ok = dontneed(find("mapped"), 100, 500) && dontneed(find("heap"), 15, 16) && check();
		else if (!strcmp(line, "lock")) ok = mlock(find("heap")->at, 10 * PAGE) == 0 && check();
		else if (!strcmp(line, "dontneed-locked")) ok = madvise(find("heap")->at, PAGE, MADV_DONTNEED) == -1 && check();
		else if (!strcmp(line, "grow")) ok = resize(find("grows"), 200, MREMAP_MAYMOVE) && check();
		else if (!strcmp(line, "shrink")) ok = resize(find("grows"), 50, 0) && check();
		else if (!strcmp(line, "fork")) ok = forks(1);
		else if (!strcmp(line, "kid")) ok = kid();
		else if (!strcmp(line, "ask")) ok = ask('c');
		else if (!strcmp(line, "ask-touch")) ok = ask('t');
		else if (!strcmp(line, "unmap")) { struct area *a = find("mapped"); munmap(a->at + 2000 * PAGE, 48 * PAGE); a->pages = 2000; ok = check(); }
		else if (!strcmp(line, "brk")) {
			struct area *a = find("heap");
			ok = brk(a->at + 100 * PAGE) == 0 && brk(a->at + 400 * PAGE) == 0;
			for (int i = 100; i < 400; i++) a->want[i] = 0;
			a->pages = 400;
			ok = ok && check();
		}
		else if (!strcmp(line, "threads")) { stop = 0; for (n_threads = 0; n_threads < 4; n_threads++) pthread_create(&threads[n_threads], 0, worker, (void *)(uintptr_t)(n_threads + 1)); }
		else if (!strcmp(line, "join")) { stop = 1; for (int i = 0; i < n_threads; i++) pthread_join(threads[i], 0); ok = !bad && rounds > 0 && check(); printf("rounds %ld\n", rounds); }
		else if (!strcmp(line, "big") || !strcmp(line, "medium")) {
			size_t n = line[0] == 'b' ? 25600 : 6144;
			struct area *a = add("big", map(n, 0), n);
			for (size_t i = 0; i < a->pages; i++) put(a, i, next++);
		}
		else if (!strcmp(line, "work")) {
			struct area *a = find("big");
			for (int k = 0; k < 3; k++)
				for (size_t i = 0; i < a->pages / 2; i++) {
					ok = ok && right(a, i);
					if (i % 4 == 0) put(a, i, next++);
				}
		}
		else if (!strcmp(line, "execute")) execl("/bin/swapper", "swapper", (char *)0);
		else ok = 0;
		printf("%s %s\n", line, ok ? "ok" : "FAILED");
	}
	return 0;
}
