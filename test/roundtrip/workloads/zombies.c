// Children that have ended and were not waited for: in which order, how, and as whom they are found later. Nobody
// may hear of their end a second time.
#include "workload.h"
#include <sys/prctl.h>

static volatile sig_atomic_t children, others;
static void on_child(int number) { (void)number, children++; }
static void on_other(int number) { (void)number, others++; }

static pid_t ended(int exit_signal, int status, int by) {
  pid_t child = MUST(syscall(SYS_clone, exit_signal, NULL, NULL, NULL, 0));
  if (child == 0) {
    prctl(PR_SET_NAME, "gone before");
    if (status == 7) MUST(setresuid(1234, 1234, 1234));
    if (by != 0) kill(getpid(), by);
    _exit(status);
  }
  siginfo_t info;
  MUST(waitid(P_PID, child, &info, WEXITED | WNOWAIT | __WALL));
  return child;
}

static void found(pid_t child, int code, int status, int options) {
  siginfo_t info = {0};
  MUST(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | options));
  EQUAL(info.si_pid, child, "the zombie that is found");
  EQUAL(info.si_code, code, "how it ended");
  EQUAL(info.si_status, status, "its status");
  EQUAL(info.si_uid, status == 7 ? 1234 : 0, "its user");
}

static void *other_thread(void *argument) {
  pid_t *child = argument;
  *child = ended(SIGCHLD, 11, 0);
  while (*child != 0) pause();
  return NULL;
}

int main(void) {
  MUST((long)(signal(SIGCHLD, on_child) == SIG_ERR ? -1 : 0));
  signal(SIGUSR1, on_other);
  pid_t three = ended(SIGCHLD, 3, 0), term = ended(SIGCHLD, 0, SIGTERM), user = ended(SIGCHLD, 7, 0),
        killed = ended(SIGCHLD, 0, SIGKILL), silent = ended(SIGUSR1, 5, 0), zero = ended(SIGCHLD, 0, 0);
  // A group and a session whose leaders are dead but not gone.
  pid_t leader = MUST(fork());
  if (leader == 0) {
    MUST(setsid());
    _exit(9);
  }
  static pid_t of_thread;
  pthread_t thread;
  pthread_create(&thread, NULL, other_thread, &of_thread);
  while (__atomic_load_n(&of_thread, __ATOMIC_SEQ_CST) == 0) nap(1);
  nap(20);
  int before = children, others_before = others;
  CHECK(before > 0 && others_before == 1, "signals came: %d and %d", before, others_before);
  ready();
  while (!stopping()) {
    nap(2);
    EQUAL(children, before, "SIGCHLD that came");
    EQUAL(others, others_before, "SIGUSR1 that came");
  }
  EQUAL(getsid(leader), leader, "session of a zombie");
  EQUAL(waitpid(of_thread, NULL, WNOHANG | __WNOTHREAD), -1, "a child of another thread");
  found(three, CLD_EXITED, 3, 0);
  found(term, CLD_KILLED, SIGTERM, 0);
  found(user, CLD_EXITED, 7, 0);
  found(killed, CLD_KILLED, SIGKILL, 0);
  found(zero, CLD_EXITED, 0, 0);
  found(leader, CLD_EXITED, 9, 0);
  found(of_thread, CLD_EXITED, 11, 0);
  found(silent, CLD_EXITED, 5, __WCLONE);
  EQUAL(waitpid(-1, NULL, __WALL | WNOHANG), -1, "no child is left");
  pass();
}
