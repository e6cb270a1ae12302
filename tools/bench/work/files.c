// Measures the files of a directory, and prints the figures as JSON:
// nanoseconds of each operation, MiB/s of what moves data.
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20, LARGE = 64, SMALL = 200 };

static char block[MIB];
static const char *separator = "{";

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void must(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static void figure(const char *name, double value)
{
	printf("%s\"%s\": %.1f", separator, name, value);
	separator = ", ";
}

// EACH does something n times, i counting, and notes the nanoseconds of one.
#define EACH(name, n, action)                                                                          \
	do {                                                                                           \
		double began = now();                                                                  \
		for (int i = 0; i < (n); i++)                                                          \
			action;                                                                        \
		figure(name, (now() - began) / (n));                                                   \
	} while (0)

// RATE moves LARGE MiB, and notes how many in a second.
#define RATE(name, action)                                                                             \
	do {                                                                                           \
		double began = now();                                                                  \
		for (int i = 0; i < LARGE; i++)                                                        \
			action;                                                                        \
		figure(name, LARGE / ((now() - began) / 1e9));                                         \
	} while (0)

int main(int argc, char **argv)
{
	struct stat st;
	char path[64];
	int fd;

	must(argc == 2 && chdir(argv[1]) == 0, "directory");
	must((fd = open("large", O_RDWR | O_CREAT | O_TRUNC, 0600)) >= 0, "open");
	RATE("write", must(write(fd, block, MIB) == MIB, "write"));
	must(lseek(fd, 0, SEEK_SET) == 0, "lseek");
	RATE("read", must(read(fd, block, MIB) == MIB, "read"));
	EACH("pread", 5000, must(pread(fd, block, PAGE, i % 4096 * PAGE) == PAGE, "pread"));
	EACH("pwrite", 5000, must(pwrite(fd, block, PAGE, i % 4096 * PAGE) == PAGE, "pwrite"));
	close(fd);
	EACH("create", SMALL, {
		snprintf(path, sizeof path, "f%d", i);
		must((fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600)) >= 0, path);
		close(fd);
	});
	EACH("open", 10 * SMALL, {
		snprintf(path, sizeof path, "f%d", i % SMALL);
		must((fd = open(path, O_RDONLY)) >= 0, path);
		close(fd);
	});
	EACH("stat", 25 * SMALL, {
		snprintf(path, sizeof path, "f%d", i % SMALL);
		must(stat(path, &st) == 0, path);
	});
	EACH("list", 10, {
		DIR *d = opendir(".");
		must(d != NULL, "opendir");
		while (readdir(d))
			;
		closedir(d);
	});
	EACH("unlink", SMALL, {
		snprintf(path, sizeof path, "f%d", i);
		must(unlink(path) == 0, path);
	});
	must(unlink("large") == 0, "large");
	puts("}");
	return 0;
}
