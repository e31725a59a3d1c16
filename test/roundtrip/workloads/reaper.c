// Runs a command, and waits at once for every orphan that it leaves, as an init should: not all do.
#include "workload.h"
#include <sys/prctl.h>

int main(int argc, char **argv) {
  CHECK(argc > 1, "usage: reaper COMMAND...");
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
  pid_t command = MUST(fork());
  if (command == 0) {
    execvp(argv[1], argv + 1);
    _exit(127);
  }
  for (;;) {
    int status;
    pid_t ended = wait(&status);
    if (ended == command) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    CHECK(ended > 0 || errno == EINTR, "wait: %s", strerror(errno));
  }
}
