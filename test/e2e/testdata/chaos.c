// Has the kernel fail, as its second argument says, in the system call that its
// first names.
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
	syscall(SYS_prctl, 0x41494f53, atol(argv[1]), atol(argv[2]), 0, 0);
	syscall(atol(argv[1]), 0, 0, 0, 0, 0, 0);
	puts("returned");
	return 0;
}
