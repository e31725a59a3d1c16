// Stopped processes stay stopped and go on when they are continued; who was told of a stop is not told again.
#include "workload.h"

// Of each of the four children, and of the first thread of the last one.
enum { CHILDREN = 4, THREADED = CHILDREN, COUNTERS };
static int *counters;
static volatile sig_atomic_t children;
static void on_child(int number) { (void)number, children++; }

static pid_t worker(int index) {
  pid_t child = MUST(fork());
  if (child != 0) return child;
  signal(SIGCHLD, SIG_DFL);
  for (;;) {
    __atomic_add_fetch(&counters[index], 1, __ATOMIC_SEQ_CST);
    nap(1);
  }
}

static void *count(void *argument) {
  while (argument != NULL) {
    __atomic_add_fetch((int *)argument, 1, __ATOMIC_SEQ_CST);
    nap(1);
  }
  return NULL;
}

static pid_t threaded(int index) {
  pid_t child = MUST(fork());
  if (child != 0) return child;
  signal(SIGCHLD, SIG_DFL);
  pthread_t thread;
  pthread_create(&thread, NULL, count, &counters[index]);
  counters[THREADED]++;
  for (;;) pause();
}

static void continues(int index, pid_t child) {
  int before = counters[index], status;
  MUST(kill(child, SIGCONT));
  EQUAL(waitpid(child, &status, WCONTINUED), child, "continued child");
  CHECK(WIFCONTINUED(status), "it was continued: %x", status);
  while (__atomic_load_n(&counters[index], __ATOMIC_SEQ_CST) < before + 3) nap(1);
  MUST(kill(child, SIGKILL));
  EQUAL(waitpid(child, &status, 0), child, "killed child");
}

int main(void) {
  counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  signal(SIGCHLD, on_child);
  pid_t told = worker(0), untold = worker(1), terminal = worker(2), threads = threaded(3);
  // Otherwise it is of an orphaned group, which SIGTSTP does not stop.
  MUST(setpgid(terminal, terminal));
  // All have left the C library, which blocks signals while it makes them.
  for (int i = 0; i < COUNTERS; i++)
    while (__atomic_load_n(&counters[i], __ATOMIC_SEQ_CST) == 0) nap(1);
  int status;
  MUST(kill(told, SIGSTOP)), MUST(kill(untold, SIGSTOP)), MUST(kill(terminal, SIGTSTP)), MUST(kill(threads, SIGSTOP));
  EQUAL(waitpid(told, &status, WUNTRACED), told, "stopped child");
  EQUAL(waitpid(threads, &status, WUNTRACED), threads, "stopped child with threads");
  siginfo_t info;
  MUST(waitid(P_PID, untold, &info, WSTOPPED | WNOWAIT));
  MUST(waitid(P_PID, terminal, &info, WSTOPPED | WNOWAIT));
  EQUAL(info.si_status, SIGTSTP, "the signal that stopped it");
  int at[CHILDREN], before = children;
  memcpy(at, counters, sizeof at);
  ready();
  while (!stopping()) {
    nap(2);
    for (int i = 0; i < CHILDREN; i++) EQUAL(counters[i], at[i], "counter of a stopped process");
    EQUAL(children, before, "SIGCHLD that came");
  }
  EQUAL(waitpid(told, &status, WUNTRACED | WNOHANG), 0, "a stop that was told already");
  EQUAL(waitpid(threads, &status, WUNTRACED | WNOHANG), 0, "a stop that was told already");
  EQUAL(waitpid(untold, &status, WUNTRACED | WNOHANG), untold, "a stop that was not told yet");
  CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP, "status %x", status);
  EQUAL(waitpid(terminal, &status, WUNTRACED | WNOHANG), terminal, "a stop by the terminal");
  CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP, "status %x", status);
  continues(0, told), continues(1, untold), continues(2, terminal), continues(3, threads);
  pass();
}
