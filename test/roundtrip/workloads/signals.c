// Dispositions, masks, alternate stacks (also while on one), pending signals, interval timers.
#include "workload.h"
#include <sys/time.h>

static volatile sig_atomic_t ticks, on_stack_done, usr1, values[8], count;
static char alternate[1 << 16];

static void tick(int number) { (void)number; ticks++; }
static void queued(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  EQUAL(info->si_code, SI_QUEUE, "si_code");
  EQUAL(info->si_pid, getpid(), "si_pid");
  if (count < 8) values[count++] = info->si_value.sival_int;
}
static void on_stack(int number) {
  (void)number;
  char here;
  CHECK(&here >= alternate && &here < alternate + sizeof alternate, "not on the alternate stack");
  ready();
  while (!stopping()) {
    nap(2);
    stack_t now;
    MUST(sigaltstack(NULL, &now));
    EQUAL(now.ss_flags, SS_ONSTACK, "flags of the alternate stack");
  }
  on_stack_done = 1;
}

int main(void) {
  stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
  MUST(sigaltstack(&stack, NULL));
  struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
  sigaddset(&action.sa_mask, SIGUSR2);
  MUST(sigaction(SIGALRM, &action, NULL));
  struct sigaction info = {.sa_sigaction = queued, .sa_flags = SA_SIGINFO};
  sigfillset(&info.sa_mask);  // one after the other, in their order
  MUST(sigaction(SIGRTMIN + 3, &info, NULL));
  MUST(sigaction(SIGUSR1, &info, NULL));
  signal(SIGHUP, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGRTMIN + 3);
  sigaddset(&blocked, SIGUSR1);
  sigaddset(&blocked, SIGTRAP);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  for (int i = 0; i < 5; i++) MUST(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 40 + i}));
  siginfo_t single = {.si_code = SI_QUEUE, .si_pid = getpid()};
  single.si_value.sival_int = 77;
  MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, &single));
  struct itimerval every = {{0, 3000}, {0, 3000}};
  MUST(setitimer(ITIMER_REAL, &every, NULL));

  struct sigaction stacked = {.sa_handler = on_stack, .sa_flags = SA_ONSTACK};
  MUST(sigaction(SIGUSR2, &stacked, NULL));
  MUST(raise(SIGUSR2));
  EQUAL(on_stack_done, 1, "handler on the alternate stack");

  int before = ticks;
  for (int i = 0; i < 100 && ticks == before; i++) nap(5);
  CHECK(ticks > before, "the interval timer stands still");
  struct sigaction now;
  MUST(sigaction(SIGALRM, NULL, &now));
  CHECK(now.sa_handler == tick && (now.sa_flags & SA_RESTART) && sigismember(&now.sa_mask, SIGUSR2), "SIGALRM differs");
  MUST(sigaction(SIGHUP, NULL, &now));
  CHECK(now.sa_handler == SIG_IGN, "SIGHUP is not ignored");
  MUST(sigaction(SIGTERM, NULL, &now));
  CHECK(now.sa_handler == SIG_DFL, "SIGTERM is not the default");
  sigset_t pending;
  sigpending(&pending);
  CHECK(sigismember(&pending, SIGRTMIN + 3) && sigismember(&pending, SIGUSR1), "pending signals are lost");
  CHECK(!sigismember(&pending, SIGTRAP) && !sigismember(&pending, SIGURG), "a signal came from nowhere");
  every = (struct itimerval){{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &every, NULL);
  sigprocmask(SIG_UNBLOCK, &blocked, NULL);
  EQUAL(count, 6, "number of queued signals");
  EQUAL(values[0], 77, "value of the thread's signal");
  for (int i = 0; i < 5; i++) EQUAL(values[i + 1], 40 + i, "value of a queued signal");
  stack_t last;
  MUST(sigaltstack(NULL, &last));
  CHECK(last.ss_sp == alternate && last.ss_size == sizeof alternate && last.ss_flags == 0, "alternate stack differs");
  pass();
}
