// Children that were adopted: their sessions and groups are led by nobody, or by somebody on another branch.
#include "workload.h"
#include <sys/prctl.h>

struct member { pid_t pid, parent, group, session; };
static struct member *members;
static int *adopted;

static void stay(int index) {
  nap(30);  // those that are to end have ended
  members[index] = (struct member){getpid(), getppid(), getpgid(0), getsid(0)};
  __atomic_add_fetch(adopted, 1, __ATOMIC_SEQ_CST);
  while (!stopping()) {
    struct member *self = &members[index];
    EQUAL(getpid(), self->pid, "pid");
    EQUAL(getppid(), self->parent, "parent");
    EQUAL(getpgid(0), self->group, "process group");
    EQUAL(getsid(0), self->session, "session");
    nap(2);
  }
  _exit(0);
}

#define CHILD(...)                  \
  ({                                \
    pid_t child_ = MUST(fork());    \
    if (child_ == 0) {              \
      __VA_ARGS__;                  \
      _exit(0);                     \
    }                               \
    child_;                         \
  })

int main(void) {
  members = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  adopted = (int *)(members + 64);
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  // A session without its leader, with two groups of it, one of them without leader too.
  pid_t gone = CHILD({
    setsid();
    CHILD(stay(1));
    CHILD({
      setpgid(0, 0);
      CHILD(stay(2));
      CHILD(CHILD(stay(3)));
    });
  });
  // A session with its leader on one branch, and an orphan of it elsewhere.
  pid_t branch = CHILD({
    CHILD({
      setsid();
      CHILD(CHILD(stay(4)); nap(5));
      stay(5);
    });
    stay(6);
  });
  // An orphan that leads a session of its own, with a child that stayed in the old one.
  pid_t again = CHILD({
    setsid();
    CHILD({
      CHILD(stay(7));
      nap(5);
      setsid();
      stay(8);
    });
  });
  // A group whose leader has ended and was waited for, in the outer session.
  pid_t group = CHILD({ setpgid(0, 0); CHILD(stay(9)); });
  // An inner subreaper with an orphan of its own.
  pid_t inner = CHILD({
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    CHILD({ setsid(); CHILD(CHILD(stay(10))); });
    stay(11);
  });
  for (pid_t ended[] = {gone, again, group}, *pid = ended; pid < ended + 3; pid++) reap(*pid);
  while (__atomic_load_n(adopted, __ATOMIC_SEQ_CST) < 11) {
    waitpid(-1, NULL, WNOHANG);
    nap(2);
  }
  EQUAL(members[1].parent, getpid(), "parent of an orphan");
  EQUAL(members[1].session, gone, "session of an orphan");
  EQUAL(members[4].parent, getpid(), "parent of an orphan from a branch");
  CHECK(members[2].group != gone && members[2].group == members[3].group, "a group without leader");
  ready();
  while (!stopping()) nap(2);
  int left = 0;
  for (int status; waitpid(-1, &status, 0) > 0; left++) EQUAL(status, 0, "status of a child");
  CHECK(left >= 8, "%d children are left", left);
  (void)branch, (void)inner;
  pass();
}
