// Uses a CPU in one of several ways, from a moment on that all who take part
// know: seconds of the wall clock. It prints what it did.
//
//	share calibrate             loops in a millisecond
//	share spin AT FOR THREADS   computes: loops
//	share doze AT FOR SEED      computes and sleeps, each for a random while: loops
//	share wakes AT FOR MS [HINT]
//	                            sleeps and wakes: how often, and how late at the
//	                            50th and 99th of 100 and at most, in microseconds
//	share jobs AT FOR LOOPS MS  computes LOOPS in each period of MS: how many jobs,
//	                            and how many were late
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double clock_of(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double now(void) { return clock_of(CLOCK_REALTIME); }

static void until(double when)
{
	struct timespec t = {(time_t)when, (long)((when - (time_t)when) * 1e9)};

	while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL))
		;
}

static void loops(long n)
{
	for (volatile long i = 0; i < n; i++)
		;
}

enum { CHUNK = 2000 };

static double end;

static void *spin(void *count)
{
	while (now() < end) {
		loops(CHUNK);
		++*(long *)count;
	}
	return NULL;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "calibrate")) {
		double start = now();
		long n = 0;

		for (; now() < start + 0.2; n++)
			loops(CHUNK);
		printf("%ld\n", n * CHUNK / 200);
		return 0;
	}
	if (argc < 5)
		return 2;
	double at = atof(argv[2]);
	long arg = atol(argv[4]);

	end = at + atof(argv[3]);
	if (!strcmp(argv[1], "spin")) {
		static long counts[64][16];
		pthread_t ids[64];
		long sum = 0;

		until(at);
		for (long i = 1; i < arg; i++)
			pthread_create(&ids[i], NULL, spin, counts[i]);
		spin(counts[0]);
		for (long i = 1; i < arg; i++)
			pthread_join(ids[i], NULL);
		for (long i = 0; i < arg; i++)
			sum += counts[i][0];
		printf("%ld\n", sum);
	} else if (!strcmp(argv[1], "doze")) {
		unsigned seed = arg;
		long n = 0;

		until(at);
		while (now() < end) {
			double stop = now() + (rand_r(&seed) % 4000) / 1e6;

			for (; now() < stop; n++)
				loops(CHUNK);
			usleep(rand_r(&seed) % 30000);
		}
		printf("%ld\n", n);
	} else if (!strcmp(argv[1], "wakes")) {
		static double late[1 << 16];
		int n = 0;

		if (argc > 5) {
			FILE *hint = fopen("/aios/self/hint", "w");

			if (!hint || fputs(argv[5], hint) < 0 || fclose(hint))
				return 3;
		}

		until(at);
		for (double next = now(); next < end && n < 1 << 16; n++) {
			next += arg / 1e3;
			until(next);
			late[n] = (now() - next) * 1e6;
			loops(20000);
			if (now() > next + arg / 1e3)
				next = now();
		}
		qsort(late, n, sizeof *late, order);
		printf("%d %.0f %.0f %.0f\n", n, late[n / 2], late[n * 99 / 100], late[n - 1]);
	} else if (!strcmp(argv[1], "jobs") && argc == 6) {
		double period = atol(argv[5]) / 1e3;
		long n = 0, missed = 0;

		until(at);
		for (double next = at; next + period < end; next += period, n++) {
			until(next);
			loops(arg);
			missed += now() > next + period;
		}
		printf("%ld %ld\n", n, missed);
	} else
		return 2;
	return 0;
}
