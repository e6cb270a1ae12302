// Blocked has a thread in every kind of call that waits, says that it is ready, and
// then ends each of them and says what came of it. Called with an argument it is ready
// by its word to /aios/self/template, and has set a timer, else by its output. With
// "alarm" it has one thread, which reads its input while it waits for a timer.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { READ, POLL, EPOLL, EPWAIT, PPOLL, SELECT, PSELECT, READV, PIPES, NAP = PIPES, NAPUNTIL, POLLNAP, EPNAP, EPWAITNAP, EPWAIT2NAP,
	SIGNAL, SEMOP, MESSAGE, FLOCK, SETLKW, FIFO, FUTEX, FUTEXNAP, SUSPEND, PAUSE, WAITPID, KINDS };

static const char *names[KINDS] = {
	"read", "poll", "epoll_wait", "epoll_pwait", "ppoll", "select", "pselect", "readv", "nanosleep", "clock_nanosleep", "poll with time",
	"epoll_wait with time", "epoll_pwait with time", "epoll_pwait2 with time", "sigtimedwait", "semop", "msgrcv", "flock", "fcntl", "open",
	"futex", "futex with time", "sigsuspend", "pause", "waitpid",
};

static int ends[PIPES][2], word, other, child_end[2], sems, msgs;
static pid_t child;
static volatile long results[KINDS];
static volatile sig_atomic_t alarms;

struct note {
	long type;
	char text[1];
};

static void handler(int sig) { alarms += sig == SIGALRM; }

static long wait_in(long kind)
{
	struct timespec second = {1, 0}, until;
	struct epoll_event ev = {EPOLLIN};
	struct flock whole = {.l_type = F_WRLCK};
	struct note note;
	struct pollfd p = {kind < PIPES ? ends[kind][0] : -1, POLLIN};
	struct sembuf down = {0, -1, 0};
	sigset_t all, none, user, two;
	char c;
	int ep;
	fd_set set;

	sigfillset(&all);
	sigemptyset(&none);
	sigfillset(&user);
	sigdelset(&user, SIGUSR1);
	sigemptyset(&two);
	sigaddset(&two, SIGUSR2);
	FD_ZERO(&set);
	if (kind < PIPES)
		FD_SET(ends[kind][0], &set);
	switch (kind) {
	case READ:
		return read(ends[kind][0], &c, 1);
	case READV:
		return readv(ends[kind][0], &(struct iovec){&c, 1}, 1);
	case POLL:
		return poll(&p, 1, -1);
	case PPOLL:
		return ppoll(&p, 1, NULL, &all);
	case SELECT:
		return select(ends[kind][0] + 1, &set, NULL, NULL, NULL);
	case PSELECT:
		return pselect(ends[kind][0] + 1, &set, NULL, NULL, NULL, &all);
	case EPOLL:
	case EPWAIT:
		ep = epoll_create1(0);
		epoll_ctl(ep, EPOLL_CTL_ADD, ends[kind][0], &ev);
		return kind == EPOLL ? epoll_wait(ep, &ev, 1, -1) : epoll_pwait(ep, &ev, 1, -1, &all);
	case NAP:
		return nanosleep(&second, &second);
	case NAPUNTIL:
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec++;
		errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		return errno ? -1 : 0;
	case POLLNAP:
		return poll(NULL, 0, 1000);
	case EPNAP:
		return epoll_wait(epoll_create1(0), &ev, 1, 1000);
	case EPWAITNAP:
		return epoll_pwait(epoll_create1(0), &ev, 1, 1000, &all);
	case EPWAIT2NAP:
		return syscall(SYS_epoll_pwait2, epoll_create1(0), &ev, 1, &second, &all, 8);
	case SIGNAL:
		return sigtimedwait(&two, NULL, &second);
	case SEMOP:
		return semop(sems, &down, 1);
	case MESSAGE:
		return msgrcv(msgs, &note, sizeof(note.text), 0, 0);
	case FLOCK:
		return flock(open("/tmp/flock", O_RDWR), LOCK_EX);
	case SETLKW:
		return fcntl(open("/tmp/fcntl", O_RDWR), F_SETLKW, &whole);
	case FIFO:
		return open("/tmp/fifo", O_RDONLY) >= 0;
	case FUTEX:
		return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
	case FUTEXNAP:
		return syscall(SYS_futex, &other, FUTEX_WAIT, 0, &second, NULL, 0);
	case SUSPEND:
		return sigsuspend(&user);
	case PAUSE:
		pthread_sigmask(SIG_SETMASK, &user, NULL);
		return pause();
	case WAITPID:
		return waitpid(child, &ep, 0) == child ? WEXITSTATUS(ep) : -1;
	}
	return 0;
}

static void *thread(void *arg)
{
	long kind = (long)arg, got;

	errno = 0;
	got = wait_in(kind);
	results[kind] = got < 0 ? -errno : got;
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_handler = handler};
	struct itimerval soon = {{0, 0}, {0, 100000}};
	struct flock whole = {.l_type = F_WRLCK};
	pthread_t threads[KINDS];
	sigset_t all;
	int fd, locked, holds[2];

	sigaction(SIGALRM, &act, NULL);
	if (argc > 1 && strcmp(argv[1], "alarm") == 0) {
		char c;
		setitimer(ITIMER_REAL, &soon, NULL);
		fd = read(0, &c, 1);
		printf("read: %d, alarms: %d\n", fd < 0 ? -errno : fd, (int)alarms);
		return 0;
	}
	sigaction(SIGUSR1, &act, NULL);
	sems = semget(IPC_PRIVATE, 1, 0600);
	msgs = msgget(IPC_PRIVATE, 0600);
	locked = open("/tmp/flock", O_RDWR | O_CREAT, 0600);
	if (flock(locked, LOCK_EX) != 0 || mkfifo("/tmp/fifo", 0600) != 0)
		return 1;
	if (pipe(child_end) != 0 || pipe(holds) != 0)
		return 1;
	child = fork();
	if (child == 0) {
		char c;
		close(child_end[1]);
		fd = open("/tmp/fcntl", O_RDWR | O_CREAT, 0600);
		if (fcntl(fd, F_SETLK, &whole) != 0 || write(holds[1], "x", 1) != 1)
			_exit(9);
		_exit(read(child_end[0], &c, 1) == 1 ? 7 : 8);
	}
	if (read(holds[0], &(char){0}, 1) != 1)
		return 1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	for (long i = 0; i < KINDS; i++) {
		if (i < PIPES && pipe(ends[i]) != 0)
			return 1;
		results[i] = -1000;
		if (pthread_create(&threads[i], NULL, thread, (void *)i) != 0)
			return 1;
	}
	usleep(200000);
	sigemptyset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	if (argc > 1) {
		setitimer(ITIMER_REAL, &soon, NULL);
		fd = open("/aios/self/template", O_WRONLY);
		if (write(fd, "ready", 5) != 5)
			return 2;
	} else {
		puts("ready");
		fflush(stdout);
		struct timespec rest = {0, 700000000};
		while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
			;
	}
	for (long i = 0; i < PIPES; i++)
		if (write(ends[i][1], "x", 1) != 1)
			return 3;
	if (write(child_end[1], "x", 1) != 1)
		return 4;
	if (semop(sems, &(struct sembuf){0, 1, 0}, 1) != 0 || msgsnd(msgs, &(struct note){1, "x"}, 1, 0) != 0)
		return 5;
	if (flock(locked, LOCK_UN) != 0)
		return 6;
	while (open("/tmp/fifo", O_WRONLY) < 0) // Its reader may have yet to come, and the alarm comes first.
		if (errno != EINTR)
			return 6;
	// Who goes on where it was may have yet to get there.
	while (syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0) == 0)
		usleep(1000);
	pthread_kill(threads[SUSPEND], SIGUSR1);
	while (results[PAUSE] == -1000) {
		pthread_kill(threads[PAUSE], SIGUSR1);
		usleep(1000);
	}
	for (long i = 0; i < KINDS; i++)
		pthread_join(threads[i], NULL);
	while (argc > 1 && alarms == 0)
		usleep(1000);
	for (long i = 0; i < KINDS; i++)
		printf("%s: %ld\n", names[i], results[i]);
	printf("alarms: %d\n", (int)alarms);
	puts("over");
	return 0;
}
