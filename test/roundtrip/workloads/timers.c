// POSIX timers of several clocks and kinds of notification, with gaps between their ids.
#include "workload.h"

static timer_t make(clockid_t clock, int notify, int number, long value, pid_t thread) {
  struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_ptr = (void *)value};
  event._sigev_un._tid = thread;
  timer_t timer;
  // The C library keeps SIGEV_THREAD to itself; all else has the kernel's ids.
  int id;
  MUST(syscall(SYS_timer_create, clock, &event, &id));
  timer = (timer_t)(long)id;
  return timer;
}

static int id_of(timer_t timer) { return (int)(long)timer; }
static int set(timer_t timer, long milliseconds, long interval) {
  struct itimerspec value = {{interval / 1000, interval % 1000 * 1000000}, {milliseconds / 1000, milliseconds % 1000 * 1000000}};
  return (int)syscall(SYS_timer_settime, id_of(timer), 0, &value, NULL);
}
static struct itimerspec get(timer_t timer) {
  struct itimerspec value;
  MUST(syscall(SYS_timer_gettime, id_of(timer), &value));
  return value;
}
static long left(timer_t timer) {
  struct itimerspec value = get(timer);
  return value.it_value.tv_sec * 1000 + value.it_value.tv_nsec / 1000000;
}

// Every 100 s, and last 50 s ago; `missed` times before that.
static timer_t late(int notify, int number, long value, int missed) {
  timer_t timer = make(CLOCK_REALTIME, notify, number, value, gettid());
  struct timespec now;
  MUST(clock_gettime(CLOCK_REALTIME, &now));
  struct itimerspec setting = {{100, 0}, {now.tv_sec - 50 - 100 * missed, now.tv_nsec}};
  MUST(syscall(SYS_timer_settime, id_of(timer), TIMER_ABSTIME, &setting, NULL));
  return timer;
}

static int overrun(timer_t timer) { return (int)syscall(SYS_timer_getoverrun, id_of(timer)); }

static siginfo_t take(int number) {
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, number);
  siginfo_t info;
  struct timespec now = {0, 0};
  EQUAL(sigtimedwait(&set, &info, &now), number, "the signal that was blocked");
  EQUAL(info.si_code, SI_TIMER, "its code");
  return info;
}

static void take_one(int number, timer_t timer, long value, int missed) {
  siginfo_t info = take(number);
  EQUAL(info.si_timerid, id_of(timer), "its timer");
  EQUAL(info.si_value.sival_int, value, "its value");
  EQUAL(info.si_overrun, missed, "its overruns");
  EQUAL(overrun(timer), missed, "overruns of the timer");
  CHECK(left(timer) <= 50000 && left(timer) > 20000, "%ld ms are left of a late timer", left(timer));
  sigset_t pending;
  sigpending(&pending);
  EQUAL(sigismember(&pending, number), 0, "whether there is another one");
}

static volatile sig_atomic_t ticks, values_wrong, in_thread;
static pid_t thread_id;
static void on_tick(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  if (info->si_code != SI_TIMER || info->si_value.sival_ptr != (void *)0x1234567890) values_wrong++;
  ticks++;
}
static void on_thread(int number, siginfo_t *info, void *context) {
  (void)number, (void)context, (void)info;
  if ((pid_t)syscall(SYS_gettid) == thread_id) in_thread++;
}

static void *waiter(void *argument) {
  __atomic_store_n(&thread_id, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
  while (argument == NULL) pause();
  return NULL;
}

// What is left of a timer may only get less, and not by much more than the time that it ran.
static void check_left(timer_t timer, long *before, const char *what) {
  long now = left(timer);
  CHECK(now <= *before && now > 0, "%s: %ld ms are left, %ld ms before", what, now, *before);
  *before = now;
}

// With an argument, the kernel's count of overruns can be read.
int main(int argc, char **argv) {
  (void)argv;
  struct sigaction action = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigaction(SIGRTMIN, &action, NULL);
  action.sa_sigaction = on_thread;
  sigaction(SIGRTMIN + 1, &action, NULL);
  // The signal of one timer is blocked everywhere, and piles up overruns.
  sigset_t set_blocked;
  sigemptyset(&set_blocked), sigaddset(&set_blocked, SIGRTMIN + 2);
  for (int i = 3; i < 7; i++) sigaddset(&set_blocked, SIGRTMIN + i);
  pthread_sigmask(SIG_BLOCK, &set_blocked, NULL);
  pthread_t thread;
  pthread_create(&thread, NULL, waiter, NULL);
  while (__atomic_load_n(&thread_id, __ATOMIC_SEQ_CST) == 0) nap(1);

  timer_t unused[5], monotonic, realtime, silent, told, process_time, thread_time, idle, boot, blocked;
  for (int i = 0; i < 5; i++) unused[i] = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
  monotonic = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 0x1234567890, 0);
  realtime = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGALRM, 1, 0);
  MUST(syscall(SYS_timer_delete, id_of(unused[1])) | syscall(SYS_timer_delete, id_of(unused[3])));
  silent = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 2, 0);
  for (int i = 0; i < 40; i++) MUST(syscall(SYS_timer_delete, id_of(make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0))));
  told = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 1, 3, thread_id);
  process_time = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR2, 4, 0);
  clockid_t clock;
  pthread_getcpuclockid(pthread_self(), &clock);
  thread_time = make(clock, SIGEV_SIGNAL, SIGUSR2, 5, 0);
  idle = make(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGUSR2, 6, 0);
  boot = make(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGUSR2, 7, 0);
  blocked = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 2, 8, 0);
  MUST(set(monotonic, 5, 5) | set(told, 5, 7) | set(realtime, 500000, 0) | set(silent, 400000, 1500));
  MUST(set(process_time, 300000, 0) | set(thread_time, 200000, 10) | set(boot, 100000, 0) | set(blocked, 3, 3));
  timer_t behind = late(SIGEV_SIGNAL, SIGRTMIN + 3, 11, 2), behind_thread = late(SIGEV_THREAD_ID, SIGRTMIN + 4, 12, 4),
          taken = late(SIGEV_SIGNAL, SIGRTMIN + 5, 13, 3), once = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 6, 14, 0);
  MUST(set(once, 1, 0));
  nap(5);
  take_one(SIGRTMIN + 5, taken, 13, 3);
  // Signals cut naps short.
  for (long start = left(boot); start - left(boot) < 60;) nap(5);
  long before[] = {left(realtime), left(silent), left(process_time), left(thread_time), left(boot)};
  ready();
  while (!stopping()) {
    nap(2);
    check_left(realtime, &before[0], "CLOCK_REALTIME");
    check_left(silent, &before[1], "without a signal");
    check_left(process_time, &before[2], "time of the process");
    check_left(thread_time, &before[3], "time of a thread");
    check_left(boot, &before[4], "CLOCK_BOOTTIME");
    EQUAL(overrun(taken), 3, "overruns of a timer whose signal was taken");
  }
  // None of them has lost minutes: all were set to far more than any test takes.
  CHECK(before[0] > 400000 && before[1] > 300000 && before[2] > 200000 && before[3] > 100000 && before[4] > 10000,
        "%ld, %ld, %ld, %ld and %ld ms are left", before[0], before[1], before[2], before[3], before[4]);
  int at = ticks, at_thread = in_thread;
  while (ticks < at + 3 || in_thread < at_thread + 3) nap(1);
  EQUAL(values_wrong, 0, "signals with another value");
  EQUAL(get(monotonic).it_interval.tv_nsec, 5000000, "interval");
  EQUAL(get(silent).it_interval.tv_sec, 1, "interval of the silent one");
  EQUAL(left(idle), 0, "of an idle timer is left");
  // Without BPF nobody tells how often a timer has missed.
  if (argc > 1) {
    take_one(SIGRTMIN + 3, behind, 11, 2);
    take_one(SIGRTMIN + 4, behind_thread, 12, 4);
    CHECK(take(SIGRTMIN + 2).si_overrun > 8, "overruns are lost");
  }
  EQUAL(take(SIGRTMIN + 6).si_value.sival_int, 14, "value of the one that expired once");
  EQUAL(left(once), 0, "what is left of it");
  struct itimerspec none;
  for (int i = 0; i < 5; i++) {
    long result = syscall(SYS_timer_gettime, id_of(unused[i]), &none);
    EQUAL(result, i == 1 || i == 3 ? -1 : 0, "what a timer that was deleted answers");
  }
  pass();
}
