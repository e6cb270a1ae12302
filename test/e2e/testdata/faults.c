// Raises the exception that its argument names.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *page;

static void handler(int sig) { _exit(9); }

static void open_page(int sig) { mprotect(page, 4096, PROT_READ | PROT_WRITE); }

int main(int argc, char **argv) {
	const char *kind = argv[1];
	volatile int zero = 0;
	char bytes[16];
	if (!strcmp(kind, "divide")) __asm__("xor %%edx,%%edx; mov $1,%%eax; xor %%ecx,%%ecx; div %%ecx" ::: "eax", "ecx", "edx");
	if (!strcmp(kind, "opcode")) __asm__("ud2");
	if (!strcmp(kind, "breakpoint")) __asm__("int3");
	if (!strcmp(kind, "privileged")) __asm__("hlt");
	if (!strcmp(kind, "null")) *(volatile int *)8 = 1;
	if (!strcmp(kind, "jump")) ((void (*)(void))0x1000000)();
	if (!strcmp(kind, "address")) *(volatile int *)0x800000000000 = 1;
	if (!strcmp(kind, "alignment")) {
		__asm__("pushf; orl $0x40000,(%rsp); popf");
		*(volatile int *)(bytes + 1) = 1;
		__asm__("pushf; andl $~0x40000,(%rsp); popf");
	}
	if (!strcmp(kind, "handled")) {
		signal(SIGSEGV, handler);
		*(volatile int *)8 = 1;
	}
	if (!strcmp(kind, "double")) {
		signal(SIGSEGV, handler);
		__asm__("mov $8,%rsp; push %rax");
	}
	if (!strcmp(kind, "storm")) {
		page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		signal(SIGSEGV, open_page);
		for (;;) { // It is killed: on a host that is busy a storm may be long in coming.
			*(volatile int *)page = 1;
			mprotect(page, 4096, PROT_NONE);
		}
	}
	puts("done");
	return zero;
}
