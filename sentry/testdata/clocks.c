// Examines the clocks of an agent: clocks WHAT.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

typedef long long ns;
#define MS 1000000LL
#define SECOND (1000 * MS)
#define HOUR (3600 * SECOND)

static ns of(struct timespec t) { return t.tv_sec * SECOND + t.tv_nsec; }
static struct timespec spec(ns n) { return (struct timespec){n / SECOND, n % SECOND}; }
#define fail(...) (printf(__VA_ARGS__), puts(""), exit(1))

// The VDSO's functions, looked up by hand: a C library might make calls instead.
static int (*vdsoGet)(clockid_t, struct timespec *);
static int (*vdsoDay)(struct timeval *, void *);
static time_t (*vdsoTime)(time_t *);

static void *symbol(const char *name) {
	char *base = (char *)getauxval(AT_SYSINFO_EHDR);
	if (!base) fail("there is no VDSO");
	Elf64_Ehdr *e = (void *)base;
	Elf64_Phdr *p = (void *)(base + e->e_phoff);
	Elf64_Dyn *dyn = 0;
	uintptr_t bias = 0;
	for (int i = 0; i < e->e_phnum; i++) {
		if (p[i].p_type == PT_LOAD && !bias) bias = (uintptr_t)base + p[i].p_offset - p[i].p_vaddr;
		if (p[i].p_type == PT_DYNAMIC) dyn = (void *)(base + p[i].p_offset);
	}
	Elf64_Sym *syms = 0;
	char *names = 0;
	uint32_t *hash = 0;
	for (; dyn->d_tag; dyn++) {
		uintptr_t at = dyn->d_un.d_ptr + bias;
		if (dyn->d_tag == DT_SYMTAB) syms = (void *)at;
		if (dyn->d_tag == DT_STRTAB) names = (void *)at;
		if (dyn->d_tag == DT_HASH) hash = (void *)at;
	}
	for (uint32_t i = 0; i < hash[1]; i++)
		if (!strcmp(names + syms[i].st_name, name)) return (void *)(syms[i].st_value + bias);
	fail("the VDSO has no %s", name);
}

static ns call(clockid_t c) {
	struct timespec t;
	if (syscall(SYS_clock_gettime, c, &t)) fail("clock %d: %s", c, strerror(errno));
	return of(t);
}

static ns get(clockid_t c) {
	struct timespec t;
	if (vdsoGet(c, &t)) fail("clock %d in the VDSO", c);
	return of(t);
}

// What is read in the VDSO is what system calls say, within what the two are measured
// differently.
static void same(const char *what, ns before, ns read, ns after, ns unit) {
	if (read < before - MS - unit || read > after + MS) fail("%s: %lld, and calls say %lld before and %lld after", what, read, before, after);
}

static void reads(ns lasts) {
	clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE};
	ns last[6] = {0}, end = get(CLOCK_MONOTONIC) + lasts;
	for (int i = 0; get(CLOCK_MONOTONIC) < end; i++) {
		int c = i % 6;
		ns before = call(clocks[c]), now = 0;
		for (int n = 0; n < 1000; n++) {
			now = get(clocks[c]);
			if (c != 0 && c != 4 && now < last[c]) fail("clock %d ran backwards, from %lld to %lld", clocks[c], last[c], now);
			last[c] = now;
			if (c > 3) break; // Those are calls.
		}
		same("clock", before, now, call(clocks[c]), 0);
		struct timeval tv, sv;
		ns wall = call(CLOCK_REALTIME);
		vdsoDay(&tv, 0);
		syscall(SYS_gettimeofday, &sv, 0);
		ns seconds = vdsoTime(0) * SECOND, told = syscall(SYS_time, 0) * SECOND;
		ns later = call(CLOCK_REALTIME);
		same("gettimeofday", wall, tv.tv_sec * SECOND + tv.tv_usec * 1000LL, later, 1000);
		same("gettimeofday, a call", wall, sv.tv_sec * SECOND + sv.tv_usec * 1000LL, later + 1000, 1000);
		same("time", wall, seconds, later, SECOND);
		same("time, a call", wall, told, later, SECOND);
	}
}

static long field(const char *file, const char *key) {
	char line[256];
	FILE *f = fopen(file, "r");
	long v = -1;
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key))) v = atol(line + strlen(key));
	if (f) fclose(f);
	return v;
}

// What is said elsewhere is by the same clocks.
static void views(void) {
	struct sysinfo si;
	ns up = call(CLOCK_BOOTTIME);
	long told = field("/proc/uptime", "");
	sysinfo(&si);
	ns later = call(CLOCK_BOOTTIME);
	if (told < up / SECOND || told > later / SECOND) fail("/proc/uptime says %ld, it is %lld ns", told, up);
	if (si.uptime < up / SECOND || si.uptime > later / SECOND) fail("sysinfo says %ld, it is %lld ns", si.uptime, up);
	long boot = field("/proc/stat", "btime "), want = (call(CLOCK_REALTIME) - call(CLOCK_BOOTTIME)) / SECOND;
	if (boot < want - 2 || boot > want + 2) fail("btime is %ld, not %ld", boot, want);
}

static int word;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static void *holds(void *lock) {
	syscall(SYS_futex, lock, FUTEX_LOCK_PI_PRIVATE, 0, 0, 0, 0);
	__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
	for (;;) pause();
}

// Each waits until a moment of a clock, and returns whether the time was up.
static int sleeps(clockid_t c, struct timespec *at) { return !syscall(SYS_clock_nanosleep, c, TIMER_ABSTIME, at, 0); }

static int futex(clockid_t c, struct timespec *at) {
	int f = 0;
	return syscall(SYS_futex, &f, FUTEX_WAIT_BITSET_PRIVATE | (c == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0), 0, at, 0, ~0) == -1 && errno == ETIMEDOUT;
}

static int lock(clockid_t c, struct timespec *at) {
	static int pi;
	static pthread_t holder;
	if (!pi) {
		pthread_create(&holder, 0, holds, &pi);
		while (!__atomic_load_n(&word, __ATOMIC_SEQ_CST)) usleep(1000);
	}
	return syscall(SYS_futex, &pi, FUTEX_LOCK_PI_PRIVATE, 0, at, 0, 0) == -1 && errno == ETIMEDOUT;
}

static int condition(clockid_t c, struct timespec *at) {
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_condattr_t a;
	pthread_cond_t cond;
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, c);
	pthread_cond_init(&cond, &a);
	pthread_mutex_lock(&m);
	int err = 0;
	while (!err) err = pthread_cond_timedwait(&cond, &m, at);
	return err == ETIMEDOUT;
}

static int semaphore(clockid_t c, struct timespec *at) {
	sem_t s;
	sem_init(&s, 0, 0);
	return sem_timedwait(&s, at) == -1 && errno == ETIMEDOUT;
}

static int mutex(clockid_t c, struct timespec *at) { return pthread_mutex_timedlock(&held, at) == ETIMEDOUT; }

static int timerFile(clockid_t c, struct timespec *at) {
	int fd = timerfd_create(c, 0);
	struct itimerspec its = {{0, 0}, *at}, left;
	uint64_t n;
	if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, 0) || timerfd_gettime(fd, &left)) return 0;
	if (of(left.it_value) > of(*at) - call(c) + SECOND && of(*at) > call(c)) fail("a timer of clock %d has %lld ns left", c, of(left.it_value));
	if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, &left)) return 0;
	int ok = read(fd, &n, sizeof n) == sizeof n && n == 1;
	its.it_value = spec(0);
	if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, 0) || timerfd_gettime(fd, &left) || of(left.it_value)) fail("a timer of clock %d is not stopped", c);
	close(fd);
	return ok;
}

static int timerSignal(clockid_t c, struct timespec *at) {
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec its = {{0, 0}, *at}, left;
	timer_t t;
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	if (timer_create(c, &ev, &t) || timer_settime(t, TIMER_ABSTIME, &its, 0) || timer_gettime(t, &left)) return 0;
	if (of(left.it_value) > SECOND) fail("a timer of clock %d has %lld ns left", c, of(left.it_value));
	int ok = sigwaitinfo(&set, &info) == SIGUSR1;
	timer_delete(t);
	return ok;
}

static struct {
	const char *name;
	clockid_t clock;
	int (*wait)(clockid_t, struct timespec *);
} ways[] = {
	{"clock_nanosleep", CLOCK_REALTIME, sleeps}, {"clock_nanosleep", CLOCK_MONOTONIC, sleeps}, {"clock_nanosleep", CLOCK_BOOTTIME, sleeps},
	{"futex", CLOCK_REALTIME, futex}, {"futex", CLOCK_MONOTONIC, futex}, {"futex, a lock", CLOCK_REALTIME, lock},
	{"pthread_cond_timedwait", CLOCK_REALTIME, condition}, {"pthread_cond_timedwait", CLOCK_MONOTONIC, condition},
	{"sem_timedwait", CLOCK_REALTIME, semaphore}, {"pthread_mutex_timedlock", CLOCK_REALTIME, mutex},
	{"timerfd", CLOCK_REALTIME, timerFile}, {"timerfd", CLOCK_MONOTONIC, timerFile}, {"timerfd", CLOCK_BOOTTIME, timerFile},
	{"timer_settime", CLOCK_REALTIME, timerSignal}, {"timer_settime", CLOCK_MONOTONIC, timerSignal}, {"timer_settime", CLOCK_BOOTTIME, timerSignal},
};

// Who waits until a moment waits until then, and not at all if it has passed.
static void waits(void) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, 0); // Of the thread that holds a lock, too.
	pthread_mutex_lock(&held);
	for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
		clockid_t c = ways[i].clock;
		ns began = call(c);
		struct timespec at = spec(began + 20 * MS), past = spec(began > HOUR ? began - HOUR : began / 2);
		if (!ways[i].wait(c, &at)) fail("%s, clock %d: %s", ways[i].name, c, strerror(errno));
		if (call(c) < of(at)) fail("%s, clock %d: %lld ns early", ways[i].name, c, of(at) - call(c));
		if (!ways[i].wait(c, &past)) fail("%s until a moment that has passed, clock %d: %s", ways[i].name, c, strerror(errno));
	}
	// The clock of CPU time is what it was.
	ns used = call(CLOCK_PROCESS_CPUTIME_ID);
	if (used < 0 || used > HOUR) fail("it has used %lld ns", used);
	struct timespec bad = {1, SECOND};
	if (syscall(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &bad, 0) != -1 || errno != EINVAL) fail("a moment that is none");
}

// Until the clock is set further, by hours, which only the VDSO is asked.
static void sees(void) {
	ns last = get(CLOCK_REALTIME), mono = get(CLOCK_MONOTONIC);
	puts("looks"), fflush(stdout);
	for (;;) {
		ns now = get(CLOCK_REALTIME), m = get(CLOCK_MONOTONIC);
		if (m < mono) fail("CLOCK_MONOTONIC ran backwards");
		if (m - mono > HOUR) fail("CLOCK_MONOTONIC was set");
		mono = m;
		if (now - last > HOUR || last - now > HOUR) printf("set by %lld\n", (now - last + (now > last ? HOUR : -HOUR) / 2) / HOUR), fflush(stdout);
		last = now;
	}
}

static ns later = 24 * HOUR;

static void *sleeper(void *way) {
	typeof(*ways) *w = way;
	struct timespec at = spec(call(w->clock) + later);
	printf("%s waits\n", w->name), fflush(stdout);
	printf("%s: %d\n", w->name, w->wait(w->clock, &at)), fflush(stdout);
	return 0;
}

// For a moment of tomorrow, or of another time.
static void tomorrow(void) {
	pthread_t all[3];
	int wait[] = {0, 3, 6};
	int fd = timerfd_create(CLOCK_REALTIME, 0);
	struct itimerspec its = {{0, 0}, spec(call(CLOCK_REALTIME) + later)}, left;
	timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, 0);
	for (int i = 0; i < 3; i++) pthread_create(&all[i], 0, sleeper, &ways[wait[i]]);
	for (int i = 0; i < 3; i++) pthread_join(all[i], 0);
	timerfd_gettime(fd, &left);
	printf("the timer has %lld hours\n", (of(left.it_value) + HOUR / 2) / HOUR);
}

// The wall clock, and what CLOCK_MONOTONIC shows before and after, as close as may be.
struct both {
	ns before, wall, after;
};

static struct both both(ns (*read)(clockid_t)) {
	struct both b, best = {0};
	for (int i = 0; i < 20; i++) {
		b.before = read(CLOCK_MONOTONIC), b.wall = read(CLOCK_REALTIME), b.after = read(CLOCK_MONOTONIC);
		if (!i || b.after - b.before < best.after - best.before) best = b;
	}
	return best;
}

// For so long the wall clock goes so many times as fast as the other: never backwards,
// and as far as both are measured well.
static void goes(const char *what, ns (*read)(clockid_t), double rate, ns lasts) {
	struct both first = both(read), now;
	ns last = first.wall, least = 0, most = 0;
	do {
		for (int i = 0; i < 1000; i++) {
			ns w = read(CLOCK_REALTIME);
			if (w < last) fail("%s: it ran backwards, from %lld to %lld", what, last, w);
			last = w;
		}
		now = both(read);
		// In time of the other clock.
		ns passed = (now.wall - first.wall) / rate;
		ns ahead = passed - (now.after - first.before), behind = passed - (now.before - first.after);
		if (ahead > most) most = ahead;
		if (behind < least) least = behind;
	} while (now.after - first.before < lasts);
	if (most > MS || least < -MS) fail("%s: the clock was up to %lld ns ahead, and %lld", what, most, least);
	fprintf(stderr, "%s: within %lld and %lld ns\n", what, least, most);
}

// How it is to wait by a clock that goes so fast: durations are as ever, and moments come
// when it shows them.
static void rated(double rate, ns lasts) {
	goes("the VDSO", get, rate, lasts);
	goes("calls", call, rate, lasts / 4);
	const ns t = 30 * MS, exact = MS / 5; // A busy host measures clocks as well as that.
	struct timespec d = spec(t);
	ns began = get(CLOCK_MONOTONIC);
	syscall(SYS_clock_nanosleep, CLOCK_REALTIME, 0, &d, 0);
	ns slept = get(CLOCK_MONOTONIC) - began;
	if (slept < t || slept > t + 2 * SECOND) fail("it slept for %lld ns", slept);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, 0);
	pthread_mutex_lock(&held);
	for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
		clockid_t c = ways[i].clock;
		double by = c == CLOCK_REALTIME ? rate : 1;
		ns began = get(CLOCK_MONOTONIC);
		struct timespec at = spec(call(c) + (ns)(t * by));
		if (!ways[i].wait(c, &at)) fail("%s, clock %d: %s", ways[i].name, c, strerror(errno));
		ns lasted = get(CLOCK_MONOTONIC) - began, now = call(c);
		if (now + (ns)(exact * by) + 1 < of(at)) fail("%s, clock %d: %lld ns early", ways[i].name, c, of(at) - now);
		if (lasted < t - exact || lasted > t + 2 * SECOND) fail("%s, clock %d: it waited for %lld ns", ways[i].name, c, lasted);
	}
	// What a timer has left, and how often it ends, are durations.
	int fd = timerfd_create(CLOCK_REALTIME, 0);
	struct itimerspec its = {spec(t), spec(call(CLOCK_REALTIME) + (ns)(60 * SECOND * rate))}, left;
	timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, 0);
	timerfd_gettime(fd, &left);
	if (of(left.it_value) > 60 * SECOND + MS || of(left.it_value) < 50 * SECOND || of(left.it_interval) != t) fail("a timer has %lld ns left", of(left.it_value));
	its.it_value = spec(call(CLOCK_REALTIME));
	began = get(CLOCK_MONOTONIC);
	timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, 0);
	for (uint64_t n = 0, all = 0; all < 4; all += n) read(fd, &n, sizeof n);
	ns lasted = get(CLOCK_MONOTONIC) - began;
	if (lasted < 3 * t - MS || lasted > 3 * t + 2 * SECOND) fail("three intervals are %lld ns", lasted);
	close(fd);
}

// How fast the wall clock goes, whenever what is to be said of that has changed: right
// after it was changed it goes a little slower. It never runs backwards.
static void turns(void) {
	char told[32] = "", text[32], again[32];
	ns last = 0;
	for (;;) {
		for (int i = 0; i < 2; i++) {
			struct both a = both(get), b;
			do {
				b = both(get);
				if (b.wall < last) fail("it ran backwards, from %lld to %lld", last, b.wall);
				last = b.wall;
			} while (b.before - a.after < 20 * MS);
			snprintf(i ? again : text, sizeof text, "%.2g", (double)(b.wall - a.wall) / (b.before - a.before));
		}
		if (strcmp(text, again) || !strcmp(text, told)) continue; // It was changed in between, or was not.
		strcpy(told, text);
		printf("goes %s\n", told), fflush(stdout);
	}
}

static void sets(const char *text) {
	struct timespec t = {atoll(text), 0}, bad = {5, -1};
	struct timeval v = {t.tv_sec, 0};
	int by[3];
	by[0] = syscall(SYS_clock_settime, CLOCK_REALTIME, &t) ? errno : 0;
	if (!by[0] && llabs(get(CLOCK_REALTIME) - of(t)) > HOUR) fail("it is %lld after it was set", get(CLOCK_REALTIME));
	by[1] = syscall(SYS_settimeofday, &v, 0) ? errno : 0;
	by[2] = syscall(SYS_clock_settime, CLOCK_REALTIME, &bad) ? errno : 0;
	int mono = syscall(SYS_clock_settime, CLOCK_MONOTONIC, &t) ? errno : 0;
	printf("%d %d %d %d\n", by[0], by[1], by[2], mono);
}

// How long so many reads take.
static void costs(const char *how, long n) {
	struct timespec t;
	while (vdsoGet(CLOCK_MONOTONIC, &t)); // It is a call until the counter was measured.
	usleep(1500000);
	ns began = get(CLOCK_MONOTONIC);
	if (how[0] == 'v') for (long i = 0; i < n; i++) vdsoGet(CLOCK_MONOTONIC, &t);
	else for (long i = 0; i < n; i++) syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	printf("%lld\n", get(CLOCK_MONOTONIC) - began);
}

int main(int argc, char **argv) {
	const char *what = argc > 1 ? argv[1] : "";
	vdsoGet = symbol("__vdso_clock_gettime");
	vdsoDay = symbol("__vdso_gettimeofday");
	vdsoTime = symbol("__vdso_time");
	if (!strcmp(what, "reads")) reads(argc > 2 ? atoll(argv[2]) * MS : 100 * MS), views();
	else if (!strcmp(what, "waits")) waits();
	else if (!strcmp(what, "sees")) sees();
	else if (!strcmp(what, "turns")) turns();
	else if (!strcmp(what, "rated")) rated(atof(argv[2]), atoll(argv[3]) * MS);
	else if (!strcmp(what, "tomorrow")) later = argc > 2 ? atoll(argv[2]) * SECOND : later, tomorrow();
	else if (!strcmp(what, "costs")) costs(argv[2], atol(argv[3]));
	else if (!strcmp(what, "sets")) sets(argv[2]);
	else if (!strcmp(what, "stands")) {
		printf("%lld %lld\n", get(CLOCK_REALTIME) / SECOND, get(CLOCK_MONOTONIC) / SECOND), fflush(stdout);
		for (;;) sleep(1000);
	} else return 2;
	printf("%lld %lld\n", get(CLOCK_REALTIME) / SECOND, get(CLOCK_MONOTONIC) / SECOND);
	return 0;
}
