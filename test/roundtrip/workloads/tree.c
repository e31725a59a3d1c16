// Parents and children, sessions and process groups; a child that left a session before its parent did.
#include "workload.h"

struct member { pid_t pid, parent, group, session; };
static struct member *members;

static void enter(int index) {
  members[index] = (struct member){getpid(), getppid(), getpgid(0), getsid(0)};
}

static void stay(int index) {
  enter(index);
  while (!stopping()) {
    struct member *self = &members[index];
    EQUAL(getpid(), self->pid, "pid");
    if (index > 0) EQUAL(getppid(), self->parent, "parent");
    EQUAL(getpgid(0), self->group, "process group");
    EQUAL(getsid(0), self->session, "session");
    nap(2);
  }
}

static pid_t spawn(int index, void (*body)(int)) {
  pid_t child = MUST(fork());
  if (child == 0) {
    body(index);
    _exit(0);
  }
  return child;
}

static void leader(int index) {
  pid_t early = spawn(index + 1, stay);  // stays in the old session
  nap(5);
  MUST(setsid());
  pid_t late = spawn(index + 2, stay);
  stay(index);
  reap(early);
  reap(late);
}

static void group_leader(int index) {
  MUST(setpgid(0, 0));
  pid_t inside = spawn(index + 1, stay);
  stay(index);
  reap(inside);
}

int main(void) {
  members = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t one = spawn(1, leader), two = spawn(4, group_leader), three = spawn(6, stay);
  nap(40);
  // A sibling joins the group of another.
  pid_t four = MUST(fork());
  if (four == 0) {
    MUST(setpgid(0, two));
    stay(7);
    _exit(0);
  }
  nap(20);
  ready();
  stay(0);
  reap(one), reap(two), reap(three), reap(four);
  EQUAL(waitpid(-1, NULL, WNOHANG), -1, "no child is left");
  pass();
}
