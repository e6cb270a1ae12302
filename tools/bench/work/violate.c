// Does what no capability allows, while another thread says every 20 µs that it
// still executes. A line is a letter and a time in nanoseconds: v before the
// call, s from the other thread, w when the call has returned.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int runs; // the other thread does

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void say(char what, long t)
{
	char line[40];
	int n = snprintf(line, sizeof line, "%c %ld\n", what, t);

	if (write(1, line, n) < 0)
		_exit(1);
}

static void *stamp(void *none)
{
	for (long last = 0;;) {
		long t = now();
		if (t - last >= 20000) {
			say('s', t);
			last = t;
			runs = 1;
		}
	}
	return none;
}

int main(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, stamp, NULL))
		return 1;
	for (long end = now() + 3000000; !runs || now() < end;)
		;
	say('v', now());
	syscall(SYS_kexec_load, 0, 0, 0, 0);
	say('w', now());
	for (long end = now() + 50000000; now() < end;)
		;
	return 0;
}
