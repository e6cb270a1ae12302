// Examines what Linux promises of sleeping and of timers. Prints a line for each
// promise that holds, and for each that does not. How late things are is not
// examined but against seconds: the machine may be busy.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000LL
#define SEC 1000000000LL

static int bad;

static void says(const char *what, int holds, long long seen) {
	if (holds) printf("holds: %s\n", what);
	else printf("FAILS: %s (%lld)\n", what, seen);
	bad |= !holds;
}

static long long now(clockid_t c) {
	struct timespec t;
	clock_gettime(c, &t);
	return t.tv_sec * SEC + t.tv_nsec;
}

static struct timespec spec(long long ns) {
	struct timespec t = {ns / SEC, ns % SEC};
	return t;
}

static struct timeval usec(long long ns) {
	struct timeval t = {ns / SEC, ns % SEC / 1000};
	return t;
}

static volatile sig_atomic_t hits;
static void hit(int sig) { hits++; }

static void handle(int sig) {
	struct sigaction a = {.sa_handler = hit};
	hits = 0;
	sigaction(sig, &a, 0);
}

// real arms ITIMER_REAL.
static void real(long long first, long long every) {
	struct itimerval it = {usec(every), usec(first)};
	setitimer(ITIMER_REAL, &it, 0);
}

static void sleeping(void) {
	struct timespec t = spec(50 * MS), rest = {9, 9};
	long long began = now(CLOCK_MONOTONIC), took, end;
	int r = nanosleep(&t, &rest);
	took = now(CLOCK_MONOTONIC) - began;
	says("nanosleep sleeps as long as it is told", r == 0 && took >= 50 * MS && took < 5 * SEC, took);
	handle(SIGALRM);
	real(20 * MS, 0);
	t = spec(30 * SEC);
	r = nanosleep(&t, &rest);
	took = 30 * SEC - (rest.tv_sec * SEC + rest.tv_nsec);
	says("a signal ends it with what is left", r == -1 && errno == EINTR && hits == 1 && took > 0 && took < 10 * SEC, took);
	t.tv_nsec = SEC;
	says("a second has 999999999 ns", nanosleep(&t, 0) == -1 && errno == EINVAL, errno);
	clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
	const char *names[] = {"until a moment of CLOCK_MONOTONIC", "until a moment of CLOCK_REALTIME", "until a moment of CLOCK_BOOTTIME"};
	for (int i = 0; i < 3; i++) {
		end = now(clocks[i]) + 40 * MS;
		t = spec(end);
		r = clock_nanosleep(clocks[i], TIMER_ABSTIME, &t, 0);
		took = now(clocks[i]) - end;
		says(names[i], r == 0 && took >= 0 && took < 5 * SEC, took);
		t = spec(end);
		r = clock_nanosleep(clocks[i], TIMER_ABSTIME, &t, 0);
		took = now(clocks[i]) - end;
		says("a moment that has passed is not slept for", r == 0 && took < 5 * SEC, took);
	}
	handle(SIGALRM);
	real(20 * MS, 0);
	t = spec(now(CLOCK_MONOTONIC) + 30 * SEC);
	rest = spec(7);
	r = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, &rest);
	says("until a moment, nothing is left over", r == EINTR && rest.tv_nsec == 7, r);
}

static void descriptors(void) {
	const long long every = 10 * MS;
	uint64_t n = 0, sum = 0;
	long long began, took, left;
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	says("a timerfd that is not armed has nothing to read", read(fd, &n, 8) == -1 && errno == EAGAIN, errno);
	struct itimerspec it = {spec(every), spec(every)}, got;
	began = now(CLOCK_MONOTONIC);
	timerfd_settime(fd, 0, &it, 0);
	for (int i = 0; i < 3; i++) {
		struct timespec t = spec(55 * MS);
		nanosleep(&t, 0);
		if (read(fd, &n, 8) == 8) sum += n;
		took = now(CLOCK_MONOTONIC) - began;
		says("a timerfd counts every period that has passed", n >= 5 && sum <= took / every && sum + 2 >= took / every - 1, sum);
	}
	timerfd_gettime(fd, &got);
	left = got.it_value.tv_sec * SEC + got.it_value.tv_nsec;
	says("it tells its period and what is left of it", got.it_interval.tv_nsec == every && left > 0 && left <= every, left);
	struct pollfd p = {fd, POLLIN, 0};
	says("poll wakes for it", poll(&p, 1, 10000) == 1 && p.revents == POLLIN, p.revents);
	memset(&it, 0, sizeof it);
	timerfd_settime(fd, 0, &it, 0);
	says("disarmed, it has nothing to read", read(fd, &n, 8) == -1 && errno == EAGAIN, errno);
	close(fd);
	fd = timerfd_create(CLOCK_REALTIME, 0);
	long long end = now(CLOCK_REALTIME) + 40 * MS;
	it.it_value = spec(end);
	timerfd_settime(fd, TFD_TIMER_ABSTIME, &it, 0);
	n = 0;
	read(fd, &n, 8);
	took = now(CLOCK_REALTIME) - end;
	says("a moment of CLOCK_REALTIME ends a read", n == 1 && took >= 0 && took < 5 * SEC, took);
	close(fd);
}

static pid_t tid(void) { return syscall(SYS_gettid); }

static volatile pid_t chosen, hitBy;
static void hitIn(int sig) { hitBy = tid(); }

static void *waits(void *arg) {
	chosen = tid();
	while (!hitBy) usleep(1000);
	return 0;
}

static void posix(void) {
	sigset_t set;
	siginfo_t info;
	timer_t id;
	const long long every = 10 * MS;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, 0);
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 42};
	timer_create(CLOCK_MONOTONIC, &e, &id);
	struct itimerspec it = {spec(every), spec(every)}, got;
	long long began = now(CLOCK_MONOTONIC);
	timer_settime(id, 0, &it, 0);
	struct timespec t = spec(105 * MS);
	nanosleep(&t, 0);
	int sig = sigwaitinfo(&set, &info);
	long long took = now(CLOCK_MONOTONIC) - began;
	says("a timer sends its signal with its value", sig == SIGRTMIN && info.si_code == SI_TIMER && info.si_value.sival_int == 42, info.si_code);
	says("what is not taken in time is an overrun", info.si_overrun >= 8 && info.si_overrun <= took / every, info.si_overrun);
	says("timer_getoverrun tells it as well", timer_getoverrun(id) == info.si_overrun, timer_getoverrun(id));
	timer_gettime(id, &got);
	says("timer_gettime tells the period", got.it_interval.tv_nsec == every, got.it_interval.tv_nsec);
	timer_delete(id);
	says("a timer that was deleted is not there", timer_gettime(id, &got) == -1 && errno == EINVAL, errno);
	struct sigaction a = {.sa_handler = hitIn};
	sigaction(SIGRTMIN + 1, &a, 0);
	pthread_t th;
	pthread_create(&th, 0, waits, 0);
	while (!chosen) usleep(1000);
	struct sigevent to = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1};
	to._sigev_un._tid = chosen;
	timer_create(CLOCK_MONOTONIC, &to, &id);
	struct itimerspec once = {{0, 0}, spec(10 * MS)};
	timer_settime(id, 0, &once, 0);
	pthread_join(th, 0);
	says("SIGEV_THREAD_ID chooses the thread", hitBy == chosen && chosen != tid(), hitBy);
	timer_delete(id);
}

// spin computes until a signal came, or 20 s of CPU time have passed, and returns
// how much it took.
static long long spin(void) {
	long long began = now(CLOCK_PROCESS_CPUTIME_ID), took;
	do took = now(CLOCK_PROCESS_CPUTIME_ID) - began; while (!hits && took < 20 * SEC);
	return took;
}

static void intervals(void) {
	struct itimerval got, it = {usec(0), usec(100 * MS)};
	handle(SIGALRM);
	long long began = now(CLOCK_MONOTONIC), took;
	real(30 * MS, 20 * MS);
	while (hits < 3) pause();
	took = now(CLOCK_MONOTONIC) - began;
	says("ITIMER_REAL repeats", took >= 70 * MS && took < 10 * SEC, took);
	real(30 * SEC, 0);
	getitimer(ITIMER_REAL, &got);
	says("getitimer tells what is left", got.it_value.tv_sec >= 20 && got.it_value.tv_sec <= 30, got.it_value.tv_sec);
	pid_t kid = fork();
	if (!kid) {
		getitimer(ITIMER_REAL, &got);
		_exit(got.it_value.tv_sec || got.it_value.tv_usec);
	}
	int status;
	waitpid(kid, &status, 0);
	says("a child does not inherit it", status == 0, status);
	real(0, 0);
	struct { int which, sig; const char *asleep, *busy; } cpu[] = {
		{ITIMER_VIRTUAL, SIGVTALRM, "ITIMER_VIRTUAL does not run while a program sleeps", "ITIMER_VIRTUAL runs while it computes"},
		{ITIMER_PROF, SIGPROF, "ITIMER_PROF does not run while a program sleeps", "ITIMER_PROF runs while it computes"},
	};
	for (int i = 0; i < 2; i++) {
		handle(cpu[i].sig);
		setitimer(cpu[i].which, &it, 0);
		struct timespec t = spec(300 * MS);
		nanosleep(&t, 0);
		says(cpu[i].asleep, hits == 0, hits);
		took = spin();
		// A tick is 10 ms, and what was used before counts.
		says(cpu[i].busy, hits == 1 && took >= 50 * MS && took < 10 * SEC, took);
	}
}

int main(void) {
	setvbuf(stdout, 0, _IOLBF, 0);
	sleeping();
	descriptors();
	posix();
	intervals();
	return bad;
}
