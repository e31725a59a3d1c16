// A chain of processes as deep, or a row as wide, as its arguments say.
#include "workload.h"

static int *beats;

static void beat(int index) {
  while (!stopping()) {
    __atomic_add_fetch(&beats[index], 1, __ATOMIC_SEQ_CST);
    nap(20);
  }
}

static void reap_all(int wanted) {
  int left = 0;
  for (int status; waitpid(-1, &status, 0) > 0; left++) EQUAL(status, 0, "status of a child");
  EQUAL(left, wanted, "children");
}

int main(int argc, char **argv) {
  CHECK(argc > 2, "usage: shape deep|wide N");
  int count = atoi(argv[2]), deep = !strcmp(argv[1], "deep");
  beats = mmap(NULL, sizeof(int) * (count + 1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t root = getpid();
  int index = 0;
  for (int i = 1; i <= count; i++) {
    pid_t child = MUST(fork());
    if (child == 0) index = i;
    if ((child == 0) != deep) {
      if (deep) break;      // a parent of the chain
      beat(index), _exit(0);  // a child of the row
    }
  }
  if (getpid() == root) {
    for (int i = 1; i <= count; i++)
      while (!deep || i < count ? __atomic_load_n(&beats[i], __ATOMIC_SEQ_CST) == 0 : 0) nap(1);
    ready();
  }
  beat(index);
  if (deep) reap_all(index == count ? 0 : 1);
  if (getpid() != root) _exit(0);
  if (!deep) reap_all(count);
  pass();
}
