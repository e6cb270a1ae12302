// A program whose second thread makes a directory; the first says whether it
// outlived that.
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static void *second(void *arg)
{
	mkdir("/tmp/x", 0755);
	return arg;
}

int main(void)
{
	pthread_t t;
	if (pthread_create(&t, NULL, second, NULL) != 0)
		return 1;
	usleep(500000);
	puts("alive");
	return 0;
}
