// A parent in vfork(2), which nothing interrupts: its child executes nothing until it is told to stop.
#include "workload.h"

int main(int argc, char **argv) {
  if (argc > 1) return 0;
  ready();
  pid_t child = vfork();
  if (child == 0) {
    while (!stopping()) nap(2);
    execl("/proc/self/exe", argv[0], "done", NULL);
    _exit(1);
  }
  reap(child);
  pass();
}
