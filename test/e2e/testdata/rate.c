// Says how many times as fast CLOCK_REALTIME goes as CLOCK_MONOTONIC, and for how many
// seconds by the latter it waits for a moment that is three seconds ahead by the former;
// in a place where the system calls for clocks are refused.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double get(clockid_t c) {
	struct timespec t;
	if (clock_gettime(c, &t)) return 0;
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(void) {
	struct timespec t;
	if (syscall(SYS_clock_gettime, CLOCK_REALTIME, &t) != -1 || errno != EPERM) return puts("the call is not refused"), 1;
	for (int i = 0; !get(CLOCK_REALTIME) || !get(CLOCK_MONOTONIC); i++) {
		if (i == 300) return puts("a clock cannot be read without a call"), 1;
		usleep(100000);
	}
	double mono = get(CLOCK_MONOTONIC), wall = get(CLOCK_REALTIME), last = wall;
	while (get(CLOCK_MONOTONIC) < mono + 1.5) { // The kernel's clocks are measured every second.
		double now = get(CLOCK_REALTIME);
		if (now < last) return puts("it ran backwards"), 1;
		last = now;
	}
	double rate = (get(CLOCK_REALTIME) - wall) / (get(CLOCK_MONOTONIC) - mono);

	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 3;
	mono = get(CLOCK_MONOTONIC);
	if (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, 0)) return puts("clock_nanosleep"), 1;
	double waited = get(CLOCK_MONOTONIC) - mono;
	if (get(CLOCK_REALTIME) < t.tv_sec + t.tv_nsec / 1e9 - 0.01) return puts("it was woken early"), 1;
	t.tv_sec += 3;
	pthread_mutex_lock(&m);
	int err = 0;
	while (!err) err = pthread_cond_timedwait(&c, &m, &t);
	if (err != ETIMEDOUT || get(CLOCK_REALTIME) < t.tv_sec + t.tv_nsec / 1e9 - 0.01) return puts("a condition"), 1;
	printf("%.4f %.2f\n", rate, waited);
	return 0;
}
