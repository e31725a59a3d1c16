// Pid namespaces within pid namespaces, each with its own /proc, and one whose maker stays outside.
#include "workload.h"
#include <sys/mount.h>

struct member { pid_t pid, parent, group, session; };
static struct member *members;
static int *here;
static char stacks[4][1 << 16];

static struct member look(void) {
  return (struct member){getpid(), getppid(), getpgid(0), getsid(0)};
}

static void stay(int index) {
  struct member before = members[index] = look();
  __atomic_add_fetch(here, 1, __ATOMIC_SEQ_CST);
  while (!stopping()) {
    char link[32] = "", own[32];
    struct member now = look();
    CHECK(!memcmp(&before, &now, sizeof now), "%d: pid %d, parent %d, group %d, session %d", index, now.pid, now.parent,
          now.group, now.session);
    snprintf(own, sizeof own, "%d", getpid());
    if (readlink("/proc/self", link, sizeof link - 1) < 0 || strcmp(link, own)) fail("%d: /proc/self is %s", index, link);
    nap(2);
  }
}

static pid_t member(int index, int leads) {
  pid_t child = MUST(fork());
  if (child != 0) return child;
  if (leads == 1) MUST(setpgid(0, 0));
  if (leads == 2) MUST(setsid());
  stay(index);
  _exit(0);
}

// The init of a level: has a child, one that leads a group, one that leads a session, and the next level.
static int level(void *argument) {
  long depth = (long)argument, index = 10 * depth;
  EQUAL(getpid(), 1, "pid of an init");
  MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
  MUST(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
  member(index + 1, 0), member(index + 2, 1), member(index + 3, 2);
  if (depth < 3) MUST(clone(level, stacks[depth] + sizeof *stacks, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, (void *)(depth + 1)));
  stay((int)index);
  for (int status; waitpid(-1, &status, 0) > 0;) EQUAL(status, 0, "status of a child");
  return 0;
}

// Stays outside, while its children are in a pid namespace of their own; the second mounts nothing.
static void outside(void) {
  MUST(unshare(CLONE_NEWPID | CLONE_NEWNS));
  pid_t init = MUST(fork());
  if (init == 0) {
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("proc", "/proc", "proc", 0, NULL));
    stay(40);
    // Its end would be that of the whole namespace.
    while (__atomic_load_n(&members[50].pid, __ATOMIC_SEQ_CST) == 0) nap(1);
    while (waitpid(-1, NULL, 0) > 0);
    _exit(0);
  }
  while (__atomic_load_n(&members[40].pid, __ATOMIC_SEQ_CST) == 0) nap(1);
  pid_t other = member(41, 0);
  int index = 42;
  struct member before = members[index] = look();
  __atomic_add_fetch(here, 1, __ATOMIC_SEQ_CST);
  while (!stopping()) {
    struct member now = look();
    CHECK(!memcmp(&before, &now, sizeof now), "pid %d, parent %d", now.pid, now.parent);
    nap(2);
  }
  pid_t last = MUST(fork());
  if (last == 0) _exit(getpid() > 2 && getppid() == 0 ? 0 : 1);
  int status;
  EQUAL(waitpid(last, &status, 0), last, "one more child");
  EQUAL(status, 0, "it is in the namespace too");
  reap(other);
  __atomic_store_n(&members[50].pid, 1, __ATOMIC_SEQ_CST);
  while (waitpid(-1, &status, 0) > 0) EQUAL(status, 0, "status of a child");
  _exit(0);
}

int main(void) {
  members = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  here = (int *)(members + 64);
  MUST(clone(level, stacks[0] + sizeof *stacks, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, (void *)1));
  if (MUST(fork()) == 0) outside();
  while (__atomic_load_n(here, __ATOMIC_SEQ_CST) < 12 + 3) nap(1);
  ready();
  while (!stopping()) nap(2);
  int left = 0;
  for (int status; waitpid(-1, &status, 0) > 0; left++) EQUAL(status, 0, "status of a child");
  EQUAL(left, 2, "children");
  pass();
}
