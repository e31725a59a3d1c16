// Forks as fast as it can, on all levels, until there are as many as its argument says; each counts itself.
#include "workload.h"
#include <sys/prctl.h>

static struct { int born, wanted, beats; } *storm;

static void live(void) {
  while (__atomic_add_fetch(&storm->born, 1, __ATOMIC_SEQ_CST) < storm->wanted) {
    // The child goes on forking, and so does its parent.
    pid_t child = fork();
    if (child < 0) fail("fork: %s", strerror(errno));
  }
}

int main(int argc, char **argv) {
  storm = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  storm->wanted = argc > 1 ? atoi(argv[1]) : 1000;
  pid_t root = getpid();
  ready();
  while (access("go", F_OK) < 0) nap(1);
  live();
  while (!stopping()) {
    __atomic_add_fetch(&storm->beats, 1, __ATOMIC_SEQ_CST);
    nap(20);
  }
  for (int status; waitpid(-1, &status, 0) > 0;) EQUAL(status, 0, "status of a child");
  if (getpid() != root) _exit(0);
  pass();
}
