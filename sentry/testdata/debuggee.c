// What the tests of the debugger debug. It calls work again and again until
// stop is set, beside two threads that make system calls and compute, and ends
// with the status 0 if every call did what it should. Arguments add trouble.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

volatile int stop, go, counter, calls, children, handled;
volatile unsigned long spins;
extern char **environ;

__attribute__((noinline)) int work(int n) {
  counter += n;
  return counter;
}

__attribute__((noinline)) long plain_call(void) { return syscall(SYS_getppid); }

static void *caller(void *p) {
  while (!stop) {
    getpid();
    plain_call();
    usleep(500);
    calls++;
  }
  return p;
}

static void *spinner(void *p) {
  while (!stop) spins++;
  return p;
}

static void on_usr1(int sig) { handled++; }

// fork_one has a child call work, in its own copy of the memory.
static void fork_one(void) {
  int status, before = counter;
  pid_t pid = fork();
  if (pid == 0) _exit(work(1) == before + 1 ? 0 : 1);
  if (waitpid(pid, &status, 0) == pid && status == 0) children++; else exit(10);
}

// vfork_one has a child call work in the memory of its parent.
static void vfork_one(void) {
  int status;
  pid_t pid = vfork();
  if (pid == 0) { work(0); _exit(0); }
  if (waitpid(pid, &status, 0) == pid && status == 0) children++; else exit(11);
}

static void spawn_one(void) {
  int status;
  pid_t pid;
  char *argv[] = {"true", 0};
  if (posix_spawn(&pid, "/bin/true", 0, 0, argv, environ)) exit(12);
  if (waitpid(pid, &status, 0) == pid && status == 0) children++; else exit(13);
}

int main(int argc, char **argv) {
  pthread_t t[2];
  int expected = 0;
  const char *how = argc > 1 ? argv[1] : "";
  if (!strcmp(how, "exec")) {
    // Before there are threads.
    while (!stop) usleep(1000);
    execl("/bin/debuggee", "debuggee", "second", (char *)0);
    return 14;
  }
  signal(SIGUSR1, on_usr1);
  pthread_create(&t[0], 0, caller, 0);
  pthread_create(&t[1], 0, spinner, 0);
  puts("ready");
  fflush(stdout);
  if (!strcmp(how, "segv") || !strcmp(how, "abort") || !strcmp(how, "int3"))
    while (!go) usleep(1000);
  while (!stop) {
    if (work(1) != ++expected) return 15;
    if (!strcmp(how, "fork")) fork_one();
    if (!strcmp(how, "vfork")) vfork_one();
    if (!strcmp(how, "spawn")) spawn_one();
    if (!strcmp(how, "raise")) {
      int before = handled;
      raise(SIGUSR1);
      if (handled != before + 1 && !stop) return 16;
    }
    if (!strcmp(how, "segv")) *(volatile int *)16 = 1;
    if (!strcmp(how, "abort")) abort();
    if (!strcmp(how, "int3")) __asm__ volatile("int3");
    usleep(300);
  }
  pthread_join(t[0], 0);
  pthread_join(t[1], 0);
  printf("%s\n", counter == expected ? "right" : "wrong");
  return counter != expected;
}
