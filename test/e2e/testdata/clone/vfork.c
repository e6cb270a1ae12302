/* A child that has the memory of its parent, which waits, for a good while. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	int status = 0;

	for (int i = 0; i < 4; i++) {
		pid_t p = vfork();
		if (p == 0) {
			usleep(100000);
			_exit(i + 1);
		}
		waitpid(p, &status, 0);
		printf("%d\n", WEXITSTATUS(status));
		usleep(30000); /* Only here can it be copied. */
	}
	return 0;
}
