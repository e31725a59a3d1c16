// What all workloads have in common. A workload sets something up, calls ready(), works and verifies until
// stopping() says so, verifies once more and calls pass(). Whatever differs is told to the file "result".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void put(const char *file, const char *text) {
  int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) _exit(99);
  close(fd);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  int length = snprintf(text, sizeof text, "FAIL pid %d: ", getpid());
  vsnprintf(text + length, sizeof text - length, format, args);
  va_end(args);
  // The first failure is the reason of those that follow.
  if (access("result", F_OK) < 0) put("result", text);
  _exit(1);
}

#define CHECK(condition, ...) \
  do {                        \
    if (!(condition)) fail(__VA_ARGS__); \
  } while (0)
#define EQUAL(actual, expected, what)                                                       \
  do {                                                                                      \
    long long actual_ = (long long)(actual), expected_ = (long long)(expected);             \
    if (actual_ != expected_) fail("%s is %lld, not %lld (errno %d)", what, actual_, expected_, errno); \
  } while (0)
#define MUST(call)                                                           \
  ({                                                                         \
    long long result_ = (long long)(call);                                   \
    if (result_ < 0) fail("%s: %s (line %d)", #call, strerror(errno), __LINE__); \
    result_;                                                                 \
  })

static inline void ready(void) { put("ready", "ready\n"); }
static inline int stopping(void) { return access("stop", F_OK) == 0; }
static inline void pass(void) { put("result", "PASS"); exit(0); }

// A pause that a signal handler or a restart may cut short.
static inline void nap(long milliseconds) {
  struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  nanosleep(&pause, NULL);
}

static inline void fill(void *memory, size_t length, uint64_t seed) {
  uint64_t *words = memory;
  for (size_t i = 0; i < length / 8; i++) words[i] = (seed + i) * 0x9e3779b97f4a7c15u;
}

static inline void verify(const void *memory, size_t length, uint64_t seed, const char *what) {
  const uint64_t *words = memory;
  for (size_t i = 0; i < length / 8; i++)
    if (words[i] != (seed + i) * 0x9e3779b97f4a7c15u) fail("%s differs at word %zu", what, i);
}

static inline void reap(pid_t child) {
  int status = 0;
  pid_t got;
  while ((got = waitpid(child, &status, 0)) < 0 && errno == EINTR)
    ;
  EQUAL(got, child, "waited child");
  EQUAL(status, 0, "status of a child");
}
