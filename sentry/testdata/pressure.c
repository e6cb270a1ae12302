// What the tests of pressure have wait for it. Lines of its input are done in turn,
// and answered in one line each:
//
//	open FILE   opens it, and says what open(2) does
//	write TEXT  writes TEXT and a NUL to it
//	poll MS     waits for it so long at most: which events there are
//	epoll MS    the same, with epoll
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static void events(int got, unsigned e) {
	printf("%d%s%s%s\n", got, e & POLLPRI ? " pri" : "", e & POLLERR ? " err" : "", e & POLLIN ? " in" : "");
}

int main(void) {
	static char line[256];
	int fd = -1, ep = -1;
	setvbuf(stdout, 0, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		char *arg = strchr(line, ' ');
		if (!arg) continue;
		*arg++ = 0;
		if (!strcmp(line, "open")) {
			if (fd >= 0) close(fd);
			if (ep >= 0) close(ep), ep = -1;
			fd = open(arg, O_RDWR | O_NONBLOCK);
			puts(fd < 0 ? strerror(errno) : "ok");
		} else if (!strcmp(line, "write")) {
			puts(write(fd, arg, strlen(arg) + 1) < 0 ? strerror(errno) : "ok");
		} else if (!strcmp(line, "poll")) {
			struct pollfd p = {.fd = fd, .events = POLLPRI};
			int n = poll(&p, 1, atoi(arg));
			events(n, p.revents);
		} else if (!strcmp(line, "epoll")) {
			struct epoll_event e = {.events = EPOLLPRI}, got = {0};
			if (ep < 0 && ((ep = epoll_create1(0)) < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))) puts(strerror(errno));
			int n = epoll_wait(ep, &got, 1, atoi(arg));
			events(n, got.events);
		}
	}
	return 0;
}
