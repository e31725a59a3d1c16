// Tasks in calls that never go on after a signal: none of them ends before a handler of ours has run.
// With arguments: calls as well whose objects outlive a restart, or can't be brought back.
#include "workload.h"
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/sem.h>

enum { EVENT, PWAIT, PWAIT2, SIGNAL, COMMON, SEMOP = COMMON, SEMTIMEDOP, AIO, RING, CALLS };
static const char *names[CALLS] = {"epoll_wait",        "epoll_pwait",   "epoll_pwait2", "rt_sigtimedwait", "semop",
                                   "semtimedop", "io_getevents", "io_uring_enter"};
static volatile int returned[CALLS], errors[CALLS], handled;
static int poll_set, semaphores, ring;
static aio_context_t aio;
static pthread_t threads[CALLS];

static void handler(int number) { (void)number, handled++; }

static void *body(void *argument) {
  long call = (long)argument;
  struct epoll_event event;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  struct sembuf down = {0, -1, 0};
  struct io_event done;
  long result = -1;
  switch (call) {
    case EVENT: result = epoll_wait(poll_set, &event, 1, -1); break;
    case PWAIT: result = epoll_pwait(poll_set, &event, 1, -1, &set); break;
    case PWAIT2: result = syscall(SYS_epoll_pwait2, poll_set, &event, 1, NULL, NULL, 0); break;
    case SIGNAL: result = syscall(SYS_rt_sigtimedwait, &set, NULL, NULL, 8); break;
    case SEMOP: result = semop(semaphores, &down, 1); break;
    case SEMTIMEDOP: result = semtimedop(semaphores, &down, 1, NULL); break;
    case AIO: result = syscall(SYS_io_getevents, aio, 1, 1, &done, NULL); break;
    case RING: result = syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0); break;
  }
  errors[call] = result < 0 ? errno : 0;
  returned[call] = 1;
  return NULL;
}

static int none_returned(long calls) {
  for (long i = 0; i < calls; i++) {
    if (!returned[i]) continue;
    // They outlive their processes.
    if (calls > COMMON) semctl(semaphores, 0, IPC_RMID);
    fail("%s returned, with error %d", names[i], errors[i]);
  }
  return handled;
}

int main(int count, char **arguments) {
  int outliving = count > 1 && !strcmp(arguments[1], "outliving");
  signal(SIGUSR1, handler);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR2);
  sigprocmask(SIG_BLOCK, &set, NULL);
  poll_set = MUST(epoll_create1(EPOLL_CLOEXEC));
  long calls = COMMON;
  if (outliving) {
    calls = AIO;
    semaphores = MUST(semget(IPC_PRIVATE, 1, 0600));
    struct io_uring_params params = {0};
    if (syscall(SYS_io_setup, 4, &aio) == 0 && (ring = syscall(SYS_io_uring_setup, 4, &params)) >= 0) calls = CALLS;
  }
  for (long i = 0; i < calls; i++) pthread_create(&threads[i], NULL, body, (void *)i);
  nap(30);
  // No other thread than those is to take what somebody sends to the process.
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, NULL);
  ready();
  while (!stopping()) {
    nap(2);
    none_returned(calls);
  }
  EQUAL(none_returned(calls), 0, "handled signals");
  for (long i = 0; i < calls; i++) {
    pthread_kill(threads[i], SIGUSR1);
    pthread_join(threads[i], NULL);
    EQUAL(errors[i], EINTR, names[i]);
  }
  EQUAL(handled, calls, "handled signals");
  if (outliving) MUST(semctl(semaphores, 0, IPC_RMID));
  pass();
}
