// Two children that have stopped: for one of them it was waited, for the other, which
// has two threads, not yet. When told, says what is heard and waited for then.
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t heard;

static void hear(int sig) { heard++; }

static void *sleeps(void *none) {
  for (;;) pause();
}

static pid_t child(int code, int threads) {
  pid_t pid = fork();
  if (pid) return pid;
  pthread_t t;
  if (threads) pthread_create(&t, 0, sleeps, 0);
  raise(SIGSTOP);
  _exit(code);
}

static int waits(pid_t pid, int how) {
  int status = 0;
  pid_t got = waitpid(pid, &status, how);
  return got == pid ? status : -1 - (got < 0);
}

int main(void) {
  struct sigaction on = {.sa_handler = hear, .sa_flags = SA_RESTART};
  sigset_t told;
  int sig;
  sigaction(SIGCHLD, &on, 0);
  sigemptyset(&told);
  sigaddset(&told, SIGUSR1);
  sigprocmask(SIG_BLOCK, &told, 0);
  pid_t a = child(3, 0);
  if (!WIFSTOPPED(waits(a, WUNTRACED))) puts("a has not stopped");
  pid_t b = child(4, 1);
  while (heard < 2) usleep(1000);
  heard = 0;
  puts("ready");
  fflush(stdout);
  sigwait(&told, &sig);
  usleep(50000);
  printf("heard %d\n", heard);
  printf("a %x\n", waits(a, WUNTRACED | WNOHANG));
  printf("b %x, then ", waits(b, WUNTRACED | WNOHANG));
  printf("%x\n", waits(b, WUNTRACED | WNOHANG));
  kill(a, SIGCONT);
  kill(b, SIGCONT);
  printf("ended %x", waits(a, 0));
  printf(" and %x\n", waits(b, 0));
  return 0;
}
