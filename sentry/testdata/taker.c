// A program that uses files as it is told on standard input, and says which
// ways succeeded.
//
//	take N PATH   opens PATH as N and maps it, for all that is allowed
//	try N PATH    r and w: open PATH anew and read or write it
//	              R and W: read or write what is open as N
//	              m and M: read or write what is mapped as N
//	net           n: make a socket of the network
//
// The answer is the letters of what succeeded, behind a colon.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOTS = 256, PAGE = 4096 };

static struct {
	int fd;
	volatile char *map;
	int writable;
} slots[SLOTS];

static sigjmp_buf bus;

static void on_bus(int sig) { siglongjmp(bus, sig); }

static int touch(volatile char *p, int write)
{
	if (!p || sigsetjmp(bus, 1))
		return 0;
	char c = *p;
	if (write)
		*p = c;
	return 1;
}

static int once(const char *path, int flags)
{
	char c = 'x';
	int fd = open(path, flags);
	int ok = fd >= 0 && (flags == O_RDONLY ? pread(fd, &c, 1, 0) : pwrite(fd, &c, 1, 0)) == 1;
	if (fd >= 0)
		close(fd);
	return ok;
}

int main(void)
{
	char line[512], path[400], c = 'x';
	struct sigaction sa = {.sa_handler = on_bus};
	unsigned n;
	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	for (n = 0; n < SLOTS; n++)
		slots[n].fd = -1;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "take %u %399s", &n, path) == 2 && n < SLOTS) {
			slots[n].writable = 1;
			slots[n].fd = open(path, O_RDWR);
			if (slots[n].fd < 0) {
				slots[n].writable = 0;
				slots[n].fd = open(path, O_RDONLY);
			}
			void *p = mmap(NULL, PAGE, PROT_READ | (slots[n].writable ? PROT_WRITE : 0), MAP_SHARED, slots[n].fd, 0);
			slots[n].map = p == MAP_FAILED ? NULL : p;
			touch(slots[n].map, slots[n].writable);
			puts(": ");
		} else if (sscanf(line, "try %u %399s", &n, path) == 2 && n < SLOTS) {
			printf(": %s%s%s%s%s%s\n", once(path, O_RDONLY) ? "r" : "", once(path, O_WRONLY) ? "w" : "",
			       pread(slots[n].fd, &c, 1, 0) == 1 ? "R" : "", pwrite(slots[n].fd, &c, 1, 0) == 1 ? "W" : "",
			       touch(slots[n].map, 0) ? "m" : "", slots[n].writable && touch(slots[n].map, 1) ? "M" : "");
		} else if (!strncmp(line, "net", 3)) {
			int fd = socket(AF_INET, SOCK_DGRAM, 0);
			printf(": %s\n", fd >= 0 ? "n" : "");
			close(fd);
		}
		fflush(stdout);
	}
	return 0;
}
