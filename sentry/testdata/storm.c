// Touches what it has not, over and over, until SIGUSR1; then says so and waits.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <ucontext.h>
#include <unistd.h>

enum { LENGTH = 3 }; // of the instruction below

static volatile sig_atomic_t over;

static void step(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	u->uc_mcontext.gregs[REG_RIP] += LENGTH;
}

static void end(int sig) { over = 1; }

int main(void)
{
	struct sigaction fault = {.sa_sigaction = step, .sa_flags = SA_SIGINFO}, usr = {.sa_handler = end};

	sigaction(SIGSEGV, &fault, NULL);
	sigaction(SIGUSR1, &usr, NULL);
	while (!over)
		__asm__ volatile("movb $1,(%%rax)" ::"a"(8L) : "memory");
	puts("calm");
	fflush(stdout);
	for (;;)
		pause();
}
