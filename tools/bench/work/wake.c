// How late one process sees what another has written to memory that they share: it
// sleeps in a futex until then, or with an argument looks all the time. The writer
// writes every 5 ms. Prints the median and the 99th percentile, in microseconds.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { writes = 200 };

static long now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int later(const void *a, const void *b) {
  long x = *(const long *)a, y = *(const long *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  int looks = argc > 1;
  struct { int seq; long at; } *w = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  long took[writes];
  if (w == MAP_FAILED) return 1;
  if (!fork()) {
    for (int i = 0; i < writes; i++) {
      struct timespec pause = {0, 5000000};
      nanosleep(&pause, 0);
      w->at = now();
      __atomic_store_n(&w->seq, i + 1, __ATOMIC_SEQ_CST);
      if (!looks) syscall(SYS_futex, &w->seq, FUTEX_WAKE, 1, 0, 0, 0);
    }
    _exit(0);
  }
  for (int i = 0; i < writes; i++) {
    while (__atomic_load_n(&w->seq, __ATOMIC_SEQ_CST) <= i)
      if (!looks) syscall(SYS_futex, &w->seq, FUTEX_WAIT, i, 0, 0, 0);
    took[i] = now() - w->at;
  }
  qsort(took, writes, sizeof *took, later);
  printf("%.1f %.1f\n", took[writes / 2] / 1e3, took[writes * 99 / 100] / 1e3);
}
