// Seccomp: strict mode, filters that all threads share, one that a thread has for itself, and one inherited.
#include "workload.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define DENY(number, error)                              \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),     \
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define KILL(number)                                     \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),     \
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static long install(unsigned flags, struct sock_filter *filter, unsigned length) {
  struct sock_fprog program = {length, filter};
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
#define INSTALL(flags, ...)                                                   \
  ({                                                                          \
    struct sock_filter filter_[] = {NUMBER, __VA_ARGS__, ALLOW};              \
    install(flags, filter_, sizeof filter_ / sizeof *filter_);                \
  })

static int *bytes;  // of the strict process
static volatile int over;

static void denied(int number, int error, const char *what) {
  errno = 0;
  long result = syscall(number, 0, 0, 0);
  CHECK(result == -1 && errno == error, "%s: %ld, errno %d", what, result, errno);
}

// What a checkpoint and a restart need most is forbidden here.
static void check_common(void) {
  denied(SYS_acct, 99, "denied by both filters");
  denied(SYS_quotactl, 72, "denied by the second filter");
  denied(SYS_reboot, 71, "denied by the first filter");
}

static int installed;
static void *plain(void *argument) {
  while (!__atomic_load_n(&installed, __ATOMIC_SEQ_CST)) nap(1);
  while (!over) check_common(), nap(2);
  return argument;
}

static pthread_barrier_t begun;
static void *stricter(void *argument) {
  MUST(INSTALL(SECCOMP_FILTER_FLAG_LOG, DENY(SYS_swapon, 73), DENY(SYS_prctl, 74), DENY(SYS_sigaltstack, 75), DENY(SYS_mmap, 76)));
  pthread_barrier_wait(&begun);
  while (!over) {
    check_common();
    denied(SYS_swapon, 73, "denied to one thread");
    denied(SYS_prctl, 74, "denied to one thread");
    nap(2);
  }
  return argument;
}

static pid_t strict(int end) {
  pid_t child = MUST(fork());
  if (child != 0) return child;
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
  for (;;) {
    char byte;
    if (syscall(SYS_read, end, &byte, 1) != 1) syscall(SYS_exit, 1);
    if (byte == 'x') syscall(SYS_exit, 5);
    if (byte == 'o') syscall(SYS_getpid);
    __atomic_add_fetch(bytes, 1, __ATOMIC_SEQ_CST);
  }
}

static pid_t filtered(void) {
  pid_t child = MUST(fork());
  if (child != 0) return child;
  // Everything that could be taken for the work of somebody else ends it.
  MUST(INSTALL(0, KILL(SYS_getitimer), KILL(SYS_rt_sigaction), KILL(SYS_fcntl), KILL(SYS_setitimer), KILL(SYS_prctl)));
  while (!stopping()) {
    check_common();
    EQUAL(getppid() > 0, 1, "a call that is allowed");
    nap(2);
  }
  syscall(SYS_getitimer, 0, NULL);
  _exit(0);
}

int main(void) {
  bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int ends[2], others[2];
  MUST(pipe(ends)), MUST(pipe(others));
  pid_t good = strict(ends[0]), bad = strict(others[0]);
  pthread_t threads[3];
  pthread_barrier_init(&begun, NULL, 2);
  pthread_create(&threads[0], NULL, plain, NULL);
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  EQUAL(INSTALL(SECCOMP_FILTER_FLAG_TSYNC, DENY(SYS_acct, 71), DENY(SYS_reboot, 71)), 0, "a filter for all threads");
  EQUAL(INSTALL(SECCOMP_FILTER_FLAG_TSYNC, DENY(SYS_acct, 99), DENY(SYS_quotactl, 72)), 0, "another one");
  // Of equal actions that of the later filter is taken.
  __atomic_store_n(&installed, 1, __ATOMIC_SEQ_CST);
  pthread_create(&threads[1], NULL, plain, NULL);
  pthread_create(&threads[2], NULL, stricter, NULL);
  pthread_barrier_wait(&begun);
  pid_t child = filtered();
  nap(10);
  ready();
  int sent = 0;
  while (!stopping()) {
    EQUAL(write(ends[1], "a", 1), 1, "write to the strict one");
    sent++;
    nap(2);
  }
  while (__atomic_load_n(bytes, __ATOMIC_SEQ_CST) < sent) nap(1);
  MUST(write(ends[1], "x", 1) | write(others[1], "o", 1));
  int status;
  EQUAL(waitpid(good, &status, 0), good, "the strict one");
  EQUAL(status, 5 << 8, "how it ended");
  EQUAL(waitpid(bad, &status, 0), bad, "the one that breaks the rule");
  EQUAL(status & 0x7f, SIGKILL, "how it was ended");
  EQUAL(waitpid(child, &status, 0), child, "the filtered one");
  EQUAL(status & 0x7f, SIGSYS, "how it was ended");
  // Threads whose filters are the same can have another one together only if it is the same kernel object.
  over = 1;
  pthread_join(threads[2], NULL);
  // A thread that was joined may still be there for a moment.
  long differs = 1;
  for (int i = 0; i < 1000 && differs > 0; i++) {
    differs = INSTALL(SECCOMP_FILTER_FLAG_TSYNC, DENY(SYS_swapoff, 77));
    if (differs > 0) nap(1);
  }
  EQUAL(differs, 0, "one more filter for all");
  pass();
}
