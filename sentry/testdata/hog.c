// Takes ever more memory, in the way that its argument says, until it is ended or
// refused: then it says so, and waits.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { chunk = 8 << 20, most = 1 << 30 };

static char block[1 << 20];

static void end(const char *what) {
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	for (;;) pause();
}

static char *area(long n, int flags) {
	char *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
	if (p == MAP_FAILED) end("mmap");
	return p;
}

static void *touch(void *arg) {
	for (;;) memset(area(chunk, 0), 1, chunk);
	return arg;
}

static void threads(void) {
	pthread_t t;
	for (int i = 0; i < 4; i++) pthread_create(&t, 0, touch, 0);
	for (;;) pause();
}

// forks has many processes take some each.
static void forks(void) {
	for (int i = 0; i < 100; i++) {
		if (fork() == 0) {
			memset(area(chunk, 0), 1, chunk);
			for (;;) pause();
		}
		usleep(1000);
	}
	for (;;) pause();
}

// copies has children write to what they share.
static void copies(void) {
	char *p = area(chunk, 0);
	memset(p, 1, chunk);
	for (int i = 0; i < 100; i++) {
		if (fork() == 0) {
			memset(p, 2, chunk);
			for (;;) pause();
		}
		usleep(1000);
	}
	for (;;) pause();
}

static void reads(int vectors, int at) {
	int fd = open("/dev/zero", O_RDONLY);
	for (;;) {
		char *p = area(100 << 20, 0);
		struct iovec v[] = {{p, 50 << 20}, {p + (50 << 20), 50 << 20}};
		long n = vectors ? readv(fd, v, 2) : at ? pread(fd, p, 100 << 20, 0) : read(fd, p, 100 << 20);
		if (n < 0) end("read");
	}
}

static void vectors(void) {
	int fd = open("/dev/zero", O_RDONLY);
	for (;;) {
		char *p = area(100 << 20, 0);
		struct iovec v[] = {{p, 50 << 20}, {p + (50 << 20), 50 << 20}};
		if (preadv(fd, v, 2, 0) < 0) end("preadv");
	}
}

static void randoms(void) {
	for (;;)
		if (getrandom(area(100 << 20, 0), 100 << 20, 0) < 0) end("getrandom");
}

// sparse touches what was mapped before it and never faults for that again.
static void sparse(void) {
	const long area_size = 2 << 20, n = most / area_size;
	char *p = area(most, 0);
	for (long i = 0; i < n / 2; i++) p[i * area_size] = 1;
	usleep(300000);
	for (long i = 0; i < n / 2 * area_size; i += 4096) p[i] = 1;
	end("touched");
}

static void writes(int fd) {
	if (fd < 0) end("open");
	for (long n = 0; n < most; n += sizeof block)
		if (write(fd, block, sizeof block) < 0) end("write");
	end("written");
}

static void allocates(int fd) {
	for (long n = 0; n < most; n += chunk)
		if (fallocate(fd, 0, n, chunk) < 0) end("fallocate");
	end("allocated");
}

static void sends(void) {
	int from = open("/dev/shm/from", O_RDWR | O_CREAT, 0600);
	for (int i = 0; i < 8; i++) write(from, block, sizeof block);
	for (int i = 0; i < 128; i++) {
		char name[32];
		off_t zero = 0;
		sprintf(name, "/dev/shm/to%d", i);
		if (sendfile(open(name, O_RDWR | O_CREAT, 0600), from, &zero, chunk) < 0) end("sendfile");
	}
	end("sent");
}

// fill writes to fd until it takes no more.
static void fill(int fd, int size) {
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (write(fd, block, size) > 0) {}
}

// again has a child go on, when this process has all the descriptors it may have.
static void again(void) {
	if (fork() == 0) return;
	for (;;) pause();
}

static void pipes(void) {
	for (;;) {
		int p[2];
		if (pipe(p) < 0) {
			if (errno != EMFILE) end("pipe");
			again();
			for (int i = 3; i < 1024; i++) dup2(p[0], i);
			continue;
		}
		fcntl(p[1], F_SETPIPE_SZ, 1 << 20);
		fill(p[1], 4096);
	}
}

static void sockets(int type) {
	for (;;) {
		int p[2];
		if (socketpair(AF_UNIX, type, 0, p) < 0) {
			if (errno != EMFILE) end("socketpair");
			again();
			continue;
		}
		int size = 4 << 20;
		setsockopt(p[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
		setsockopt(p[1], SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
		fill(p[0], 4096);
	}
}

static void streams(void) {
	int l = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof a;
	if (bind(l, (void *)&a, sizeof a) || listen(l, 100) || getsockname(l, (void *)&a, &n)) end("listen");
	for (;;) {
		int size = 4 << 20, s = socket(AF_INET, SOCK_STREAM, 0);
		if (s < 0) end("socket");
		setsockopt(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
		if (connect(s, (void *)&a, sizeof a) < 0) end("connect");
		if (accept(l, 0, 0) < 0) end("accept");
		fill(s, 65536);
	}
}

static void datagrams(void) {
	for (;;) {
		int size = 4 << 20, s = socket(AF_INET, SOCK_DGRAM, 0);
		if (s < 0) end("socket");
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
		socklen_t n = sizeof a;
		setsockopt(s, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
		if (bind(s, (void *)&a, sizeof a) || getsockname(s, (void *)&a, &n) || connect(s, (void *)&a, sizeof a)) end("bind");
		for (int i = 0; i < 100; i++) write(s, block, 60000);
	}
}

static void *nothing(void *arg) {
	for (;;) pause();
	return arg;
}

static void kernel(void) {
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (;;) {
		pthread_t t;
		if ((errno = pthread_create(&t, &attr, nothing, 0))) end("pthread_create");
	}
}

int main(int argc, char **argv) {
	const char *how = argv[1];
	memset(block, 1, sizeof block);
	if (!strcmp(how, "touch")) touch(0);
	else if (!strcmp(how, "threads")) threads();
	else if (!strcmp(how, "malloc")) for (;;) memset(area(sizeof block, 0), 1, sizeof block);
	else if (!strcmp(how, "forks")) forks();
	else if (!strcmp(how, "copies")) copies();
	else if (!strcmp(how, "read")) reads(0, 0);
	else if (!strcmp(how, "pread")) reads(0, 1);
	else if (!strcmp(how, "readv")) reads(1, 0);
	else if (!strcmp(how, "preadv")) vectors();
	else if (!strcmp(how, "getrandom")) randoms();
	else if (!strcmp(how, "sparse")) sparse();
	else if (!strcmp(how, "populate")) for (;;) area(chunk, MAP_POPULATE);
	else if (!strcmp(how, "populate-at-once")) for (;;) area(100 << 20, MAP_POPULATE);
	else if (!strcmp(how, "lock")) for (;;) { if (mlock(area(chunk, 0), chunk)) end("mlock"); }
	else if (!strcmp(how, "brk")) for (;;) { char *p = sbrk(chunk); if (p == (void *)-1) end("sbrk"); memset(p, 1, chunk); }
	else if (!strcmp(how, "shm")) writes(open("/dev/shm/x", O_RDWR | O_CREAT, 0600));
	else if (!strcmp(how, "upper")) writes(open("/x", O_RDWR | O_CREAT, 0600));
	else if (!strcmp(how, "memfd")) writes(memfd_create("x", 0));
	else if (!strcmp(how, "fallocate")) allocates(open("/dev/shm/x", O_RDWR | O_CREAT, 0600));
	else if (!strcmp(how, "sendfile")) sends();
	else if (!strcmp(how, "shared")) { char *p = mmap(0, most, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); memset(p, 1, most); }
	else if (!strcmp(how, "pipes")) pipes();
	else if (!strcmp(how, "stream-pairs")) sockets(SOCK_STREAM);
	else if (!strcmp(how, "datagram-pairs")) sockets(SOCK_DGRAM);
	else if (!strcmp(how, "tcp")) streams();
	else if (!strcmp(how, "udp")) datagrams();
	else if (!strcmp(how, "tasks")) kernel();
	else return 10;
	return 11;
}
