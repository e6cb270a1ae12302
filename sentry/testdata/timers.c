// Waits until the time is up, in the way that its argument says.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
	struct timespec ms = {0, 1000000}, us = {0, 1000}, now;
	struct timeval tv = {0, 1000};
	const char *what = argc > 1 ? argv[1] : "";
	int word = 0, fds[2];
	if (!strcmp(what, "nanosleep")) return syscall(SYS_nanosleep, &ms, 0) != 0;
	if (!strcmp(what, "clock_nanosleep")) return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &ms, 0) != 0;
	if (!strcmp(what, "abstime") || !strcmp(what, "past")) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		now.tv_sec += what[0] == 'a' ? 1 : -1;
		return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &now, 0) != 0;
	}
	if (!strcmp(what, "poll")) return poll(0, 0, 1) != 0;
	if (!strcmp(what, "poll0")) return poll(0, 0, 0) != 0;
	if (!strcmp(what, "pollready")) {
		struct pollfd p = {0, POLLOUT, 0};
		if (pipe(fds)) return 1;
		p.fd = fds[1];
		return poll(&p, 1, 1000) != 1;
	}
	if (!strcmp(what, "ppoll")) return syscall(SYS_ppoll, 0, 0, &ms, 0, 0) != 0;
	if (!strcmp(what, "select")) return syscall(SYS_select, 0, 0, 0, 0, &tv) != 0;
	if (!strcmp(what, "pselect")) return syscall(SYS_pselect6, 0, 0, 0, 0, &ms, 0) != 0;
	if (!strcmp(what, "epoll")) {
		struct epoll_event e;
		return epoll_wait(epoll_create1(0), &e, 1, 1) != 0;
	}
	if (!strcmp(what, "futex")) return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &ms, 0, 0) != -1;
	if (!strcmp(what, "storm"))
		for (;;) syscall(SYS_nanosleep, &us, 0);
	if (!strcmp(what, "pause")) for (;;) pause();
	return 2;
}
