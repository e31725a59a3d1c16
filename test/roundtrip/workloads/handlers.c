// Programs that catch every signal: the signals of whoever checkpoints them must not be taken for theirs, nor
// theirs be lost. One leaves SIGCONT alone, as the runtime of Go does, and one has all that the kernel ignores
// by default pending. In both, threads interrupt each other with SIGURG, as that runtime does.
#include "workload.h"

enum { SIGNALS = 64, PENDING = 3 };
static const int pending[PENDING] = {SIGURG, SIGWINCH, SIGCHLD};
static volatile sig_atomic_t caught[SIGNALS + 1];
static volatile pid_t threads[2];
static volatile int over;

static void note(int number, siginfo_t *info, void *context) {
  (void)context;
  caught[number]++;
  // All of these signals are of this process.
  if (number == SIGURG) EQUAL(info->si_pid, getpid(), "sender of SIGURG");
}

static void catch_all(int but) {
  struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
  for (int number = 1; number <= SIGNALS; number++) {
    if (number == SIGKILL || number == SIGSTOP || number == but || number == 32 || number == 33) continue;
    MUST(sigaction(number, &action, NULL));
  }
}

static void verify_counts(int allowed) {
  for (int number = 1; number <= SIGNALS; number++)
    if (number != allowed) EQUAL(caught[number], 0, "signals caught that nobody sent");
}

// pthread_kill(3) would block all signals meanwhile.
static void interrupt(pid_t thread) {
  MUST(syscall(SYS_tgkill, getpid(), thread, SIGURG));
  for (volatile int i = 0; i < 2000; i++) {}
  nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static void *interrupt_leader(void *unused) {
  threads[1] = gettid();
  while (!over) interrupt(threads[0]);
  return unused;
}

static void interrupting(int but) {
  catch_all(but);
  threads[0] = gettid();
  pthread_t other;
  MUST(-pthread_create(&other, NULL, interrupt_leader, NULL));
  while (threads[1] == 0) {}
  while (!stopping()) {
    interrupt(threads[1]);
    verify_counts(SIGURG);
  }
  over = 1;
  pthread_join(other, NULL);
  CHECK(caught[SIGURG] > 0, "no thread was interrupted");
  exit(0);
}

static void holding(int but) {
  catch_all(but);
  sigset_t blocked;
  sigemptyset(&blocked);
  for (int i = 0; i < PENDING; i++) sigaddset(&blocked, pending[i]);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  for (int i = 0; i < PENDING; i++) MUST(syscall(SYS_tgkill, getpid(), gettid(), pending[i]));
  while (!stopping()) {
    nap(2);
    verify_counts(0);
    sigset_t now;
    sigpending(&now);
    for (int number = 1; number <= SIGNALS; number++)
      EQUAL(sigismember(&now, number), sigismember(&blocked, number), "whether a signal is pending");
  }
  sigprocmask(SIG_UNBLOCK, &blocked, NULL);
  for (int i = 0; i < PENDING; i++) EQUAL(caught[pending[i]], 1, "a pending signal");
  exit(0);
}

int main(void) {
  void (*const kinds[])(int) = {interrupting, holding};
  pid_t children[4];
  int count = 0;
  for (int kind = 0; kind < 2; kind++) {
    for (int all = 0; all < 2; all++) {
      if ((children[count++] = MUST(fork())) == 0) kinds[kind](all ? 0 : SIGCONT);
    }
  }
  nap(20);
  ready();
  while (!stopping()) nap(5);
  for (int i = 0; i < count; i++) reap(children[i]);
  pass();
}
