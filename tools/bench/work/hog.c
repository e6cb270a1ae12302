// Takes memory beyond a limit. The arguments are the way it does so and the
// limit in MiB; it waits for a line of standard input, says "near" when four
// MiB are left, and "refused" when it is not given more.
//
//	heap    takes anonymous memory without end
//	stop    takes four MiB of it more than the limit, and then waits
//	files   writes a file in memory without end
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static char block[MIB];

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int stop = !strcmp(argv[1], "stop"), files = !strcmp(argv[1], "files");
	long limit = atol(argv[2]);
	int fd = files ? open("/tmp/hog", O_RDWR | O_CREAT | O_TRUNC, 0600) : -1;

	if (files && fd < 0) {
		perror("/tmp/hog");
		return 1;
	}
	memset(block, 1, MIB);
	if (getchar() == EOF)
		return 2;
	for (long taken = 0;; taken++) {
		if (taken == limit - 4) {
			puts("near");
			fflush(stdout);
		}
		if (stop && taken == limit + 4)
			for (;;)
				pause();
		if (files) {
			if (write(fd, block, MIB) != MIB)
				break;
			continue;
		}
		char *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			break;
		memcpy(p, block, MIB);
	}
	puts("refused");
	return 0;
}
