// Has three threads and so many megabytes of memory that it has written to, says
// so, and goes on until its standard input ends. With a second argument it goes
// on for ever.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *tick(void *unused)
{
	for (;;)
		usleep(10000);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t t;
	size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1) << 20;
	char *mem = malloc(size);

	for (size_t i = 0; i < size; i += 4096)
		mem[i] = (char)i | 1;
	for (int i = 0; i < 2; i++)
		pthread_create(&t, NULL, tick, NULL);
	puts("ready");
	fflush(stdout);
	if (argc > 2)
		tick(NULL);
	while (getchar() != EOF)
		;
	return 0;
}
