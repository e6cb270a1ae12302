// Has the kernel fail, as its second argument says, in the system call that its
// first names, or in other work that it does for the program.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
	char text[4096];
	long how = atol(argv[2]), by = argc > 3 ? atol(argv[3]) : 0;
	volatile char *page = mmap(0, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int file = open("/aios/self/stats", O_RDONLY);
	syscall(SYS_prctl, 0x41494f53, atol(argv[1]), how, by, 0);
	switch (how) {
	case 3: page[32 << 20] = 1; break;
	case 4: __asm__("ud2"); break;
	case 5: read(file, text, sizeof text); break;
	case 6: break;
	default: syscall(atol(argv[1]), 0, 0, 0, 0, 0, 0);
	}
	puts("returned");
	return 0;
}
