// Maps a file to be shared, and writes to it: at once, when it gets SIGUSR1, or never.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile sig_atomic_t go;

static void usr1(int sig) { go = 1; }

int main(int argc, char **argv) {
	int fd = open(argv[1], O_RDWR);
	char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || p == MAP_FAILED) {
		perror(argv[1]);
		return 1;
	}
	if (!strcmp(argv[2], "hold")) {
		signal(SIGUSR1, usr1);
		puts("mapped");
		fflush(stdout);
		while (!go)
			usleep(1000);
	}
	if (strcmp(argv[2], "look"))
		p[0] = 'b';
	return 0;
}
