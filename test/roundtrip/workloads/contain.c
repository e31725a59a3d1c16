// Runs a command as the init of a pid namespace with its own /proc, tells its pid out here in the file "root", and
// ends as it does.
#include "workload.h"
#include <sys/mount.h>

static char stack[1 << 16];

static int inside(void *arguments) {
  char **argv = arguments;
  MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
  MUST(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
  MUST(setsid());
  execvp(argv[0], argv);
  _exit(127);
}

int main(int argc, char **argv) {
  CHECK(argc > 1, "usage: contain COMMAND...");
  pid_t root = MUST(clone(inside, stack + sizeof stack, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, argv + 1));
  char text[32];
  snprintf(text, sizeof text, "%d", root);
  put("root", text);
  // What both have open would lead outside of the container.
  close_range(0, ~0U, 0);
  int status;
  while (waitpid(root, &status, 0) < 0) CHECK(errno == EINTR, "waitpid: %s", strerror(errno));
  if (WIFSIGNALED(status)) kill(getpid(), WTERMSIG(status));
  return WEXITSTATUS(status);
}
