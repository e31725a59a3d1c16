// Directories, umask, limits, nice value, and a child with other ids, groups and capabilities.
#include "workload.h"
#include <grp.h>
#include <sys/prctl.h>

static void check_settings(int child) {
  EQUAL(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), child ? PR_MCE_KILL_EARLY : PR_MCE_KILL_DEFAULT, "machine check policy");
  int counter = 0;
  MUST(prctl(PR_GET_TSC, &counter));
  EQUAL(counter, child ? PR_TSC_SIGSEGV : PR_TSC_ENABLE, "time stamp counter");
  EQUAL(prctl(PR_GET_TIMERSLACK), child ? 77777 : 50000, "timer slack");
  EQUAL(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), child, "huge pages");
  long speculation = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
  if (speculation >= 0 && (speculation & PR_SPEC_PRCTL)) EQUAL((speculation & PR_SPEC_DISABLE) != 0, child, "speculation");
  char user[32] = "";
  int fd = open("/proc/self/loginuid", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  MUST(read(fd, user, sizeof user - 1));
  close(fd);
  EQUAL(strcmp(user, "4321") == 0, child, "login uid 4321");
}

static void set_settings(void) {
  MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
  MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
  MUST(prctl(PR_SET_TIMERSLACK, 77777));
  MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
  prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
  int fd = open("/proc/self/loginuid", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  MUST(write(fd, "4321", 4));
  close(fd);
}

static void check_common(int child) {
  check_settings(child);
  char cwd[4096];
  CHECK(getcwd(cwd, sizeof cwd) != NULL && strcmp(strrchr(cwd, '/'), "/inner") == 0, "the directory is %s", cwd);
  mode_t mask = umask(0);
  umask(mask);
  EQUAL(mask, 027, "umask");
  struct rlimit limit;
  MUST(getrlimit(RLIMIT_NOFILE, &limit));
  EQUAL(limit.rlim_cur, 333, "soft limit of open files");
  MUST(getrlimit(RLIMIT_CORE, &limit));
  EQUAL(limit.rlim_max, 4096, "hard limit of core files");
  errno = 0;
  EQUAL(getpriority(PRIO_PROCESS, 0), child ? 7 : 3, "nice value");
}

static void check_child(void) {
  uid_t real, effective, saved;
  MUST(getresuid(&real, &effective, &saved));
  CHECK(real == 1000 && effective == 1001 && saved == 1002, "uids are %d %d %d", real, effective, saved);
  MUST(getresgid(&real, &effective, &saved));
  CHECK(real == 2000 && effective == 2001 && saved == 2002, "gids are %d %d %d", real, effective, saved);
  gid_t groups[4];
  EQUAL(getgroups(4, groups), 2, "number of groups");
  CHECK(groups[0] == 3000 && groups[1] == 3001, "groups differ");
  EQUAL(prctl(PR_GET_DUMPABLE), 1, "dumpable");
  int signal_ = 0;
  prctl(PR_GET_PDEATHSIG, &signal_);
  EQUAL(signal_, SIGTERM, "parent-death signal");
  EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1, "no_new_privs");
  FILE *status = fopen("/proc/self/status", "re");
  char line[256];
  while (fgets(line, sizeof line, status))
    if (strncmp(line, "CapEff:", 7) == 0) EQUAL(strtoull(line + 7, NULL, 16), 0, "effective capabilities");
  fclose(status);
}

int main(void) {
  mkdir("inner", 0777);
  MUST(chmod(".", 0777));
  int flag = MUST(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  MUST(chdir("inner"));
  umask(027);
  MUST(setrlimit(RLIMIT_NOFILE, &(struct rlimit){333, 1000}));
  MUST(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 4096}));
  MUST(setpriority(PRIO_PROCESS, 0, 3));
  pid_t child = MUST(fork());
  if (child == 0) {
    MUST(setpriority(PRIO_PROCESS, 0, 7));
    set_settings();
    MUST(setgroups(2, (gid_t[]){3000, 3001}));
    MUST(setresgid(2000, 2001, 2002));
    MUST(setresuid(1000, 1001, 1002));
    MUST(prctl(PR_SET_DUMPABLE, 1));
    MUST(prctl(PR_SET_PDEATHSIG, SIGTERM));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    while (faccessat(flag, "stop", F_OK, 0) != 0) {
      check_common(1);
      check_child();
      nap(2);
    }
    _exit(0);
  }
  nap(20);
  fchdir(flag), ready(), chdir("inner");
  while (faccessat(flag, "stop", F_OK, 0) != 0) {
    check_common(0);
    EQUAL(geteuid(), 0, "uid");
    nap(2);
  }
  reap(child);
  fchdir(flag);
  pass();
}
