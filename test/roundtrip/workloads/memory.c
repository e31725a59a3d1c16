// Private and shared memory of every kind, protections, the heap, the stack, and what /proc shows of it.
#include "workload.h"

static char *slurp(const char *path, size_t *length) {
  static char buffer[1 << 16];
  int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
  size_t filled = 0;
  ssize_t count;
  while ((count = read(fd, buffer + filled, sizeof buffer - filled)) > 0) filled += count;
  close(fd);
  char *copy = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(copy, buffer, filled);
  *length = filled;
  return copy;
}

static const char *const FILES[] = {"/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv"};
static char *before[3];
static size_t lengths[3];

static void check_proc(void) {
  char exe[4096] = {0};
  static char exe_before[4096];
  MUST(readlink("/proc/self/exe", exe, sizeof exe - 1));
  if (!exe_before[0]) strcpy(exe_before, exe);
  CHECK(strcmp(exe, exe_before) == 0, "exe is %s, not %s", exe, exe_before);
  for (int i = 0; i < 3; i++) {
    size_t length;
    char *now = slurp(FILES[i], &length);
    if (before[i]) CHECK(length == lengths[i] && memcmp(now, before[i], length) == 0, "%s changed", FILES[i]);
    if (!before[i]) before[i] = now, lengths[i] = length;
    else munmap(now, 1 << 16);
  }
}

static int deep(int depth) {
  volatile char room[4096];
  room[0] = depth;
  return depth == 0 ? 0 : deep(depth - 1) + room[0] - (char)depth;
}

// The protection of the mapping at an address, as /proc/self/maps has it.
static void protection(void *address, char *out) {
  FILE *maps = fopen("/proc/self/maps", "re");
  char line[4352];
  unsigned long start, end;
  out[0] = 0;
  while (fgets(line, sizeof line, maps))
    if (sscanf(line, "%lx-%lx %4s", &start, &end, out) == 3 && (unsigned long)address >= start && (unsigned long)address < end) break;
  fclose(maps);
}

static void expect_protection(void *address, const char *wanted) {
  char got[8];
  protection(address, got);
  CHECK(strcmp(got, wanted) == 0, "protection at %p is %s, not %s", address, got, wanted);
}

int main(void) {
  size_t page = 4096, big = 8 << 20;
  char *anonymous = mmap(NULL, big, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fill(anonymous, big / 2, 1);  // the other half stays untouched
  char *heap = malloc(100000), *moved = sbrk(0);
  fill(heap, 100000 / 8 * 8, 2);
  char *readonly = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fill(readonly, 4 * page, 3);
  mprotect(readonly, 4 * page, PROT_READ);
  char *hidden = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fill(hidden, 2 * page, 4);
  mprotect(hidden, 2 * page, PROT_NONE);
  char *down = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
  fill(down, 4 * page, 5);

  // A guard page in the middle, where the kernel has them (6.13): no system call can read it.
  char *guarded = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fill(guarded, page, 8), fill(guarded + 2 * page, page, 9);
  int has_guard = madvise(guarded + page, page, 102) == 0;
  int sink[2];
  MUST(pipe2(sink, O_CLOEXEC));

  int fd = MUST(open("private.map", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  char block[4096];
  for (int i = 0; i < 8; i++) fill(block, page, 100 + i), MUST(write(fd, block, page));
  char *private = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  fill(private + 2 * page, page, 6);  // only this page is the process's own
  close(fd);
  fd = MUST(open("shared.map", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, 4 * page));
  char *shared_file = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  volatile uint64_t *shared = mmap(NULL, 16 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  fill((char *)shared + page, page, 7);

  pid_t child = MUST(fork());
  // Parent and child count in turns through the shared page; each must see what the other wrote.
  if (child == 0) {
    while (!shared[1]) {
      uint64_t seen = shared[0];
      if (seen % 2 == 1) shared[0] = seen + 1;
      verify((char *)shared + page, page, 7, "shared memory of the child");
      verify(anonymous, big / 2, 1, "copied memory of the child");
      nap(1);
    }
    _exit(0);
  }
  check_proc();
  ready();
  uint64_t turns = 0;
  while (!stopping() || turns < 5) {
    uint64_t seen = shared[0];
    if (seen % 2 == 0) shared[0] = seen + 1, turns++;
    verify(anonymous, big / 2, 1, "anonymous memory");
    verify(heap, 100000 / 8 * 8, 2, "heap");
    verify(readonly, 4 * page, 3, "read-only memory");
    verify(down, 4 * page, 5, "memory that grows down");
    verify(guarded, page, 8, "memory before a guard page");
    verify(guarded + 2 * page, page, 9, "memory behind a guard page");
    if (has_guard) {
      EQUAL(write(sink[1], guarded + page, 1), -1, "read of a guard page");
      EQUAL(errno, EFAULT, "error of a guard page");
    }
    verify(private, page, 100, "private file mapping");
    verify(private + 2 * page, page, 6, "changed page of a private file mapping");
    verify(private + 7 * page, page, 107, "end of a private file mapping");
    fill(shared_file, 4 * page, turns);
    verify(shared_file, 4 * page, turns, "shared file mapping");
    nap(2);
  }
  check_proc();
  for (size_t i = big / 2; i < big; i++) CHECK(anonymous[i] == 0, "untouched memory is not zero");
  expect_protection(readonly, "r--p");
  expect_protection(hidden, "---p");
  expect_protection((void *)shared, "rw-s");
  expect_protection(shared_file, "rw-s");
  mprotect(hidden, 2 * page, PROT_READ);
  verify(hidden, 2 * page, 4, "memory without access");
  CHECK(sbrk(0) == moved, "the heap ends at %p, not %p", sbrk(0), (void *)moved);
  CHECK(sbrk(1 << 16) == moved, "the heap does not grow");
  EQUAL(deep(500), 0, "deep recursion");
  fd = MUST(open("shared.map", O_RDONLY | O_CLOEXEC));
  MUST(read(fd, block, page));
  verify(block, page, turns, "the file behind a shared mapping");
  struct timespec now;  // by the vdso
  clock_gettime(CLOCK_MONOTONIC, &now);
  shared[1] = 1;
  reap(child);
  pass();
}
