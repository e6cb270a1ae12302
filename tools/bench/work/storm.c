// With the argument fault, faults as fast as it can: an access to nothing, whose
// handler steps over it. With spin, uses the CPU without entering the kernel.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

enum { LENGTH = 3 }; // of the instruction below

static void step(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	u->uc_mcontext.gregs[REG_RIP] += LENGTH;
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_sigaction = step, .sa_flags = SA_SIGINFO};

	if (argc != 2)
		return 2;
	puts("ready");
	fflush(stdout);
	if (!strcmp(argv[1], "spin"))
		for (;;)
			__asm__ volatile("");
	sigaction(SIGSEGV, &act, NULL);
	for (;;)
		__asm__ volatile("movb $1,(%%rax)" ::"a"(8L) : "memory");
}
