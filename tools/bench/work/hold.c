// Holds files of a directory open, and some of them mapped, until they are
// taken away. The arguments are the directory, how many files to open and how
// many of them to map; each line of standard input is a command:
//
//	open    opens and maps them, and touches every mapping
//	check   tries them all, lets them go, and prints how many files and how
//	        many mappings still worked
//	revoke  followed by the ID of a capability: ends it, and prints how many
//	        nanoseconds that took
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1000, PAGE = 4096 };

static sigjmp_buf bus;

static void fault(int sig)
{
	(void)sig;
	siglongjmp(bus, 1);
}

// give_up revokes it and returns how long it took, or -1.
static long give_up(const char *id)
{
	struct timespec began, ended;
	char text[64];
	int ctl = open("/aios/ctl", O_RDWR), n = snprintf(text, sizeof text, "revoke %s", id);

	if (ctl < 0)
		return -1;
	clock_gettime(CLOCK_MONOTONIC, &began);
	if (write(ctl, text, n) != n)
		return -1;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	close(ctl);
	return (ended.tv_sec - began.tv_sec) * 1000000000L + ended.tv_nsec - began.tv_nsec;
}

int main(int argc, char **argv)
{
	static int fds[MOST];
	static char *maps[MOST];
	static char page[PAGE];
	char command[16], id[32], path[4096];

	if (argc != 4)
		return 2;
	int files = atoi(argv[2]), mappings = atoi(argv[3]);
	if (files > MOST || mappings > files)
		return 2;
	signal(SIGBUS, fault);
	while (scanf("%15s", command) == 1) {
		if (!strcmp(command, "open")) {
			for (int i = 0; i < files; i++) {
				snprintf(path, sizeof path, "%s/%d", argv[1], i);
				if ((fds[i] = open(path, O_RDWR | O_CREAT, 0600)) < 0 || write(fds[i], page, PAGE) != PAGE) {
					perror(path);
					return 1;
				}
				if (i >= mappings)
					continue;
				maps[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
				if (maps[i] == MAP_FAILED) {
					perror("mmap");
					return 1;
				}
				maps[i][0] = 1;
			}
			puts("open");
		} else if (!strcmp(command, "check")) {
			volatile int readable = 0, mapped = 0;
			for (volatile int i = 0; i < files; i++) {
				readable += pread(fds[i], page, 1, 0) == 1;
				if (i < mappings) {
					if (!sigsetjmp(bus, 1)) {
						(void)*(volatile char *)maps[i];
						mapped++;
					}
					munmap(maps[i], PAGE);
				}
				close(fds[i]);
			}
			printf("%d %d\n", readable, mapped);
		} else if (!strcmp(command, "revoke") && scanf("%31s", id) == 1) {
			long took = give_up(id);
			if (took < 0) {
				perror("revoke");
				return 1;
			}
			printf("%ld\n", took);
		} else {
			return 2;
		}
		fflush(stdout);
	}
	return 0;
}
