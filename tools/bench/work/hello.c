#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv)
{
	qsort(argv, argc, sizeof *argv, compare);
	for (int i = 0; i < argc; i++)
		printf("%s %zu\n", argv[i], strlen(argv[i]));
	return 0;
}
