/* Threads in blocking calls of many kinds; what each has seen is printed. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <signal.h>
#include <time.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <semaphore.h>
#include <stdatomic.h>
static pthread_mutex_t m=PTHREAD_MUTEX_INITIALIZER; static pthread_cond_t cv=PTHREAD_COND_INITIALIZER; static int turn; static long sum;
static int sp[2],pp[2],ef; static sem_t sem; static atomic_int alarms, ticks;
static void on(int s,siginfo_t*i,void*u){ if(s==SIGALRM) alarms++; else ticks++; }
static void*ping(void*x){ long me=(long)x; for(int i=0;i<300;i++){ pthread_mutex_lock(&m); while(turn!=me) pthread_cond_wait(&cv,&m); sum+=i*(me+1); turn=!turn; pthread_cond_broadcast(&cv); pthread_mutex_unlock(&m); if(i%16==0) usleep(500);} return 0;}
static void*sw(void*x){ for(int i=0;i<200;i++){ char b[64]; int n=sprintf(b,"%05d\n",i); write(sp[0],b,n); if(i%8==0) usleep(900);} shutdown(sp[0],SHUT_WR); return 0;}
static void*sr(void*x){ long s=0; char b[6]; int g=0,n; while((n=read(sp[1],b+g,6-g))>0){ g+=n; if(g==6){ s+=atoi(b); g=0;} } return (void*)s;}
static void*pr(void*x){ long s=0; unsigned char c; struct pollfd p={pp[0],POLLIN,0}; for(;;){ int r=poll(&p,1,1000); if(r>0){ if(read(pp[0],&c,1)!=1) break; s+=c; } } return (void*)s;}
static void*pw(void*x){ for(int i=0;i<400;i++){ unsigned char c=i; write(pp[1],&c,1); if(i%10==0) usleep(300);} close(pp[1]); return 0;}
static void*sl(void*x){ struct timespec t={0,3000000}; for(int i=0;i<60;i++) nanosleep(&t,0); return (void*)60;}
static void*ev(void*x){ long s=0; int ep=epoll_create1(0); struct epoll_event e={EPOLLIN,{.u64=1}}; epoll_ctl(ep,EPOLL_CTL_ADD,ef,&e); int tf=timerfd_create(CLOCK_MONOTONIC,0); struct itimerspec its={{0,4000000},{0,4000000}}; timerfd_settime(tf,0,&its,0); e.data.u64=2; epoll_ctl(ep,EPOLL_CTL_ADD,tf,&e); long t=0; while(s<100){ struct epoll_event r; int n=epoll_wait(ep,&r,1,-1); if(n<1) continue; unsigned long v; if(r.data.u64==1){ read(ef,&v,8); s+=v;} else { read(tf,&v,8); t+=v; } } return (void*)(s+(t>0?1000:0));}
static void*ew(void*x){ for(int i=0;i<100;i++){ unsigned long v=1; write(ef,&v,8); usleep(1500);} return 0;}
int main(){ struct sigaction sa; memset(&sa,0,sizeof sa); sa.sa_sigaction=on; sa.sa_flags=SA_SIGINFO|SA_RESTART; sigaction(SIGALRM,&sa,0); sigaction(SIGRTMIN,&sa,0);
 struct sigevent se; memset(&se,0,sizeof se); se.sigev_notify=SIGEV_SIGNAL; se.sigev_signo=SIGRTMIN; timer_t tm; timer_create(CLOCK_MONOTONIC,&se,&tm); struct itimerspec its={{0,7000000},{0,7000000}}; timer_settime(tm,0,&its,0);
 socketpair(AF_UNIX,SOCK_STREAM,0,sp); pipe(pp); ef=eventfd(0,0);
 pthread_t t[9]; void*r[9]; void*(*f[])(void*)={ping,ping,sw,sr,pr,pw,sl,ev,ew}; for(long i=0;i<9;i++) pthread_create(&t[i],0,f[i],(void*)i);
 ualarm(9000,9000); sigset_t none; sigemptyset(&none); for(int i=0;i<20;i++) sigsuspend(&none);
 for(int i=0;i<9;i++) pthread_join(t[i],&r[i]);
 printf("%ld %ld %ld %ld %ld %d %d\n",sum,(long)r[3],(long)r[4],(long)r[6],(long)r[7],alarms>0,ticks>0); return 0; }
