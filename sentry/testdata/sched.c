// What programs ask the scheduler for.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static const char *said(long n) { return n < 0 ? strerrorname_np(errno) : "ok"; }

static long set(uint32_t policy, int nice, uint64_t runtime_ms, uint64_t period_ms) {
	struct attr a = {sizeof a, policy, 0, nice, 0, runtime_ms * 1000000, period_ms * 1000000, period_ms * 1000000};
	return syscall(SYS_sched_setattr, 0, &a, 0);
}

// calls prints what each call answers.
static int calls(void) {
	struct sched_param none = {0};
	struct attr a;
	struct timespec t = {0};
	printf("nice 5: %s\n", said(setpriority(PRIO_PROCESS, 0, 5)));
	printf("getpriority: %d\n", getpriority(PRIO_PROCESS, 0));
	errno = 0;
	printf("nice -5: %s\n", said(setpriority(PRIO_PROCESS, 0, -5)));
	printf("batch: %s\n", said(sched_setscheduler(0, SCHED_BATCH, &none)));
	printf("policy: %d\n", sched_getscheduler(0));
	struct sched_param one = {1};
	printf("fifo: %s\n", said(sched_setscheduler(0, SCHED_FIFO, &one)));
	printf("deadline 10/100: %s\n", said(set(SCHED_DEADLINE, 0, 10, 100)));
	printf("policy: %d\n", sched_getscheduler(0));
	memset(&a, 0, sizeof a);
	long n = syscall(SYS_sched_getattr, 0, &a, sizeof a, 0);
	printf("getattr: %s policy %u runtime %lu period %lu\n", said(n), a.policy, (unsigned long)a.runtime, (unsigned long)a.period);
	cpu_set_t one_cpu;
	CPU_ZERO(&one_cpu);
	CPU_SET(0, &one_cpu);
	printf("affinity of a reservation: %s\n", said(sched_setaffinity(0, sizeof one_cpu, &one_cpu)));
	printf("deadline 90/100: %s\n", said(set(SCHED_DEADLINE, 0, 90, 100)));
	printf("deadline 100/10: %s\n", said(set(SCHED_DEADLINE, 0, 100, 10)));
	printf("normal: %s\n", said(set(SCHED_OTHER, 0, 0, 0)));
	printf("policy: %d\n", sched_getscheduler(0));
	n = sched_rr_get_interval(0, &t);
	printf("interval: %s %s\n", said(n), t.tv_sec == 0 && t.tv_nsec >= 1000000 ? "some" : "none");
	printf("yield: %s\n", said(sched_yield()));
	printf("priorities: %d-%d %d-%d %d\n", sched_get_priority_min(SCHED_FIFO), sched_get_priority_max(SCHED_FIFO),
		sched_get_priority_min(SCHED_OTHER), sched_get_priority_max(SCHED_OTHER), sched_get_priority_max(77));
	return 0;
}

// spin computes for so many seconds in so many threads, and prints what it did.
static double end;
static void *spinner(void *arg) {
	volatile uint64_t *count = arg;
	while (now() < end)
		for (int i = 0; i < 1000; i++)
			++*count;
	return NULL;
}

static int spin(double seconds, int threads, const char *trick) {
	static uint64_t counts[64][8];
	pthread_t ids[64];
	if (!strcmp(trick, "idle")) {
		struct sched_param none = {0};
		sched_setscheduler(0, SCHED_IDLE, &none);
	}
	if (!strncmp(trick, "nice", 4))
		setpriority(PRIO_PROCESS, 0, atoi(trick + 4));
	if (!strncmp(trick, "cpu", 3)) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(atoi(trick + 3), &set);
		sched_setaffinity(0, sizeof set, &set);
	}
	end = now() + seconds;
	for (int i = 0; i < threads; i++) {
		int bad = pthread_create(&ids[i], NULL, spinner, counts[i]);
		if (bad) {
			fprintf(stderr, "thread %d: %s\n", i, strerrorname_np(bad));
			return 4;
		}
	}
	uint64_t sum = 0;
	for (int i = 0; i < threads; i++) {
		pthread_join(ids[i], NULL);
		sum += counts[i][0];
	}
	printf("%lu\n", (unsigned long)sum);
	return 0;
}

// wakes sleeps and wakes, and prints how late that was, in microseconds: the
// median, and the 99th of 100.
static int byvalue(const void *a, const void *b) {
	double x = *(double *)a, y = *(double *)b;
	return x < y ? -1 : x > y;
}

static int wakes(int n, int ms) {
	double *late = calloc(n, sizeof *late);
	for (int i = 0; i < n; i++) {
		struct timespec t = {0, ms * 1000000};
		double start = now();
		nanosleep(&t, NULL);
		late[i] = (now() - start) * 1e6 - ms * 1000;
		for (volatile int j = 0; j < 20000; j++)
			;
	}
	qsort(late, n, sizeof *late, byvalue);
	printf("%.0f %.0f\n", late[n / 2], late[n * 99 / 100]);
	return 0;
}

// invert has a thread that runs only when nobody else wants to hold a lock that
// one of high rank wants, while others do so many pieces of work. It prints how
// much of the work these did while that one waited, in percent: time would say
// more about the host.
static pthread_mutex_t lock;
static volatile int held;
static int pieces, done;

static int begun(void) { return __atomic_load_n(&done, __ATOMIC_RELAXED); }

static void *middle(void *arg) {
	while (__atomic_fetch_add(&done, 1, __ATOMIC_RELAXED) < pieces)
		for (volatile int i = 0; i < 100000; i++)
			;
	return arg;
}

static void *low(void *arg) {
	struct sched_param none = {0};
	pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
	pthread_mutex_lock(&lock);
	held = 1;
	while (held == 1) // Until others compute.
		usleep(1000);
	for (volatile int i = 0; i < 20000000; i++)
		;
	pthread_mutex_unlock(&lock);
	return arg;
}

static int invert(int inherit, int spinners, int work) {
	pieces = work;
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	if (inherit)
		pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&lock, &a);
	pthread_t id;
	pthread_create(&id, NULL, low, NULL);
	while (!held)
		usleep(1000);
	for (int i = 0; i < spinners; i++)
		pthread_create(&id, NULL, middle, NULL);
	while (begun() < 4 * spinners)
		usleep(1000);
	int before = begun();
	held = 2;
	pthread_mutex_lock(&lock);
	int after = begun() < pieces ? begun() : pieces;
	printf("%.1f\n", 100.0 * (after - before) / (pieces - before));
	fflush(stdout);
	_exit(0);
}

// hostile tries to get more of the CPUs than its share by a trick, for ever.
static void *yields(void *arg) {
	for (;;) {
		for (volatile int i = 0; i < 3000; i++)
			;
		sched_yield();
	}
}

static void *sleeps(void *arg) {
	struct timespec t = {0, 10000};
	for (;;) {
		for (double until = now() + 950e-6; now() < until;)
			;
		nanosleep(&t, NULL);
	}
}

static void *computes(void *arg) {
	for (volatile int i = 0;; i++)
		;
}

static void nothing(int sig) {}

static int hostile(const char *trick, int threads) {
	void *(*what)(void *) = computes;
	pthread_attr_t small;
	pthread_t id;
	if (!strcmp(trick, "yields"))
		what = yields;
	if (!strcmp(trick, "sleeps"))
		what = sleeps;
	if (!strcmp(trick, "timers")) {
		struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
		struct itimerspec often = {{0, 100000}, {0, 100000}};
		timer_t timer;
		signal(SIGUSR1, nothing);
		for (int i = 0; i < threads; i++)
			if (timer_create(CLOCK_MONOTONIC, &e, &timer) || timer_settime(timer, 0, &often, NULL))
				return 4;
	}
	puts("on"); // One of many does not get far.
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&id, &small, what, NULL))
			return 5;
	for (;;)
		pause();
}

int main(int argc, char **argv) {
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1 && !strcmp(argv[1], "calls"))
		return calls();
	if (argc > 4 && !strcmp(argv[1], "spin"))
		return spin(atof(argv[2]), atoi(argv[3]), argv[4]);
	if (argc > 3 && !strcmp(argv[1], "wakes"))
		return wakes(atoi(argv[2]), atoi(argv[3]));
	if (argc > 3 && !strcmp(argv[1], "hostile"))
		return hostile(argv[2], atoi(argv[3]));
	if (argc > 4 && !strcmp(argv[1], "invert"))
		return invert(atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
	return 2;
}
