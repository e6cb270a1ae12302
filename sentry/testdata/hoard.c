// Makes ever more of something small that the kernel keeps, in the way that its
// argument says, until it is ended or refused: then it says so, and waits.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static char block[64 << 10];

static void end(const char *what) {
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	for (;;) pause();
}

static void pair(int type, int *s) {
	if (socketpair(AF_UNIX, type, 0, s)) end("socketpair");
}

// many sends messages of that length, and reports whether any was.
static int many(int by, int length) {
	static struct mmsghdr m[512];
	struct iovec v = {block, length};
	for (unsigned i = 0; i < 512; i++) m[i].msg_hdr.msg_iov = &v, m[i].msg_hdr.msg_iovlen = 1;
	return sendmmsg(by, m, 512, MSG_DONTWAIT) > 0;
}

// messages are of one byte each.
static void messages(void) {
	int s[2];
	for (;;) {
		pair(SOCK_STREAM, s);
		while (many(s[0], 1));
	}
}

static void pass(int by, int fd) {
	char zero = 0, control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {&zero, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	if (sendmsg(by, &m, MSG_DONTWAIT) < 0) end("sendmsg");
}

// flight has sockets that are full on their way, and nobody has them open.
static void flight(void) {
	int by[2], s[2];
	pair(SOCK_DGRAM, by);
	for (;;) {
		pair(SOCK_STREAM, s);
		send(s[0], block, sizeof block, MSG_DONTWAIT);
		send(s[1], block, sizeof block, MSG_DONTWAIT);
		pass(by[0], s[0]), pass(by[0], s[1]);
		close(s[0]), close(s[1]);
	}
}

// interests of epoll, each of many in the same files.
static void interests(void) {
	int files[200];
	for (int i = 0; i < 200; i++) files[i] = eventfd(0, 0);
	for (;;) {
		int ep = epoll_create1(0);
		if (ep < 0) end("epoll_create");
		for (int i = 0; i < 200; i++) {
			struct epoll_event e = {.events = EPOLLIN};
			if (epoll_ctl(ep, EPOLL_CTL_ADD, files[i], &e)) end("epoll_ctl");
		}
	}
}

static char *name(const char *dir, long i) {
	static char path[300];
	snprintf(path, sizeof path, "%s/%0200ld", dir, i);
	return path;
}

static void watches(void) {
	for (long i = 0; i < 500; i++) if (mkdir(name("/tmp", i), 0700)) end("mkdir");
	for (;;) {
		int in = inotify_init1(0);
		if (in < 0) end("inotify_init");
		for (long i = 0; i < 500; i++) if (inotify_add_watch(in, name("/tmp", i), IN_ALL_EVENTS) < 0) end("inotify_add_watch");
	}
}

// notices of what happens to a file wait to be read.
static void notices(void) {
	int in = inotify_init1(0);
	if (mkdir("/tmp/d", 0700) || inotify_add_watch(in, "/tmp/d", IN_ALL_EVENTS) < 0) end("inotify_add_watch");
	for (long i = 0;; i++) {
		int fd = open(name("/tmp/d", i % 2), O_CREAT | O_RDWR, 0600);
		if (fd < 0) end("open");
		close(fd);
	}
}

static void timers(void) {
	struct sigevent e = {.sigev_notify = SIGEV_NONE};
	for (int id;;) if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id)) end("timer_create");
}

static void locks(void) {
	int fd = open("/tmp/l", O_CREAT | O_RDWR, 0600);
	for (long i = 0;; i++) {
		struct flock l = {.l_type = F_WRLCK, .l_start = 2 * i, .l_len = 1};
		if (fcntl(fd, F_SETLK, &l)) end("fcntl");
	}
}

static void names(void) {
	for (long i = 0;; i++) if (mkdir(name("/tmp", i), 0700)) end("mkdir");
}

static void links(void) {
	static char to[4000];
	memset(to, 'x', sizeof to - 1);
	for (long i = 0;; i++) if (symlink(to, name("/dev/shm", i))) end("symlink");
}

static void queues(void) {
	static struct { long type; char text[8000]; } m = {1};
	for (;;) {
		int q = msgget(IPC_PRIVATE, 0600);
		if (q < 0) end("msgget");
		while (msgsnd(q, &m, sizeof m.text, IPC_NOWAIT) == 0);
		if (errno != EAGAIN) end("msgsnd");
	}
}

int main(int argc, char **argv) {
	static const struct { const char *name; void (*run)(void); } all[] = {
		{"messages", messages}, {"flight", flight}, {"interests", interests}, {"watches", watches},
		{"notices", notices}, {"timers", timers}, {"locks", locks}, {"names", names}, {"links", links}, {"queues", queues},
	};
	struct rlimit r;
	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	for (unsigned i = 0; argc > 1 && i < sizeof all / sizeof *all; i++)
		if (!strcmp(argv[1], all[i].name)) all[i].run();
	return 2;
}
