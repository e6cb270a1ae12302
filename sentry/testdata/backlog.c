// Connections that nobody accepts until told: one whose client reads what it is
// answered, one whose client has sent all it sends, one whose client is gone.
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int family;

static int listener(struct sockaddr_storage *at, socklen_t *len) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
  int l = socket(family, SOCK_STREAM, 0);
  if (family == AF_INET ? bind(l, (void *)&in, sizeof in) : bind(l, (void *)&in6, sizeof in6)) perror("bind");
  if (listen(l, 8)) perror("listen");
  *len = sizeof *at;
  getsockname(l, (void *)at, len);
  return l;
}

int main(int argc, char **argv) {
  struct sockaddr_storage at;
  socklen_t len;
  sigset_t set;
  int sig, c[3], seen = 0;
  family = argc > 1 ? AF_INET6 : AF_INET;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, 0);
  int l = listener(&at, &len);
  for (int i = 0; i < 3; i++) {
    c[i] = socket(family, SOCK_STREAM, 0);
    if (connect(c[i], (void *)&at, len)) perror("connect");
    dprintf(c[i], "%d says hello\n", i);
  }
  shutdown(c[1], SHUT_WR);
  close(c[2]);
  puts("ready");
  fflush(stdout);
  sigwait(&set, &sig);
  dprintf(c[0], "and more\n");
  shutdown(c[0], SHUT_WR);
  for (int i = 0; i < 3; i++) {
    char text[100];
    int n = 0, got, s = accept(l, 0, 0);
    if (s < 0) perror("accept");
    while ((got = read(s, text + n, sizeof text - 1 - n)) > 0) n += got;
    if (got < 0) perror("read");
    text[n] = 0;
    int who = text[0] - '0';
    if (!strcmp(text, who ? (who == 1 ? "1 says hello\n" : "2 says hello\n") : "0 says hello\nand more\n")) seen |= 1 << who;
    else printf("a client said %s\n", text);
    if (who < 2) dprintf(s, "you are %d", who);
    close(s);
  }
  for (int i = 0; i < 2; i++) {
    char text[100];
    int n = 0, got;
    while ((got = read(c[i], text + n, sizeof text - 1 - n)) > 0) n += got;
    if (got < 0) perror("read an answer");
    if (n == 9 && !memcmp(text, "you are ", 8) && text[8] == '0' + i) seen |= 8 << i;
  }
  usleep(20000);
  fcntl(l, F_SETFL, O_NONBLOCK);
  if (accept(l, 0, 0) >= 0) puts("another connection");
  printf("seen %d\n", seen);
  return seen != 31;
}
