// Open files: offsets shared by dup and fork, flags, directories, devices, high numbers, shared tables.
#include "workload.h"
#include <dirent.h>
#define HIGH 700

static char stack[1 << 16];
static volatile int *word;

static int same_table(void *argument) {
  (void)argument;
  // Opens a file in the table that its parent shares, and says under which number.
  word[0] = MUST(open("from-child", O_WRONLY | O_CREAT, 0600));
  while (!word[1]) nap(1);
  close(word[0]);
  _exit(0);
}

static void flags(int fd, int status, int descriptor, const char *what) {
  EQUAL(fcntl(fd, F_GETFL) & ~0100000, status, what);
  EQUAL(fcntl(fd, F_GETFD), descriptor, what);
}

int main(void) {
  word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int data = MUST(open("data", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  for (int i = 0; i < 20000; i++) MUST(dprintf(data, "%07d\n", i));
  int duplicate = MUST(dup(data)), high = MUST(dup2(data, HIGH)), other = MUST(open("data", O_RDONLY));
  int append = MUST(open("log", O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0600));
  int path = MUST(open("data", O_PATH));
  int directory = MUST(open(".", O_RDONLY | O_DIRECTORY));
  int null = MUST(open("/dev/null", O_RDWR)), zero = MUST(open("/dev/zero", O_RDONLY)), full = MUST(open("/dev/full", O_WRONLY));
  int random = MUST(open("/dev/random", O_RDONLY)), urandom = MUST(open("/dev/urandom", O_RDONLY | O_CLOEXEC));
  int subdirectory = mkdir("sub", 0700) == 0 || errno == EEXIST ? 0 : -1;
  EQUAL(subdirectory, 0, "mkdir");
  MUST(lseek(other, 80, SEEK_SET));
  MUST(lseek(data, 0, SEEK_SET));

  pid_t reader = MUST(fork());
  if (reader == 0) {  // moves the shared offset on, eight bytes at a time
    char line[9] = {0};
    for (;;) {
      while (word[2] == 0 && !word[1]) nap(1);
      if (word[1]) _exit(0);
      EQUAL(read(duplicate, line, 8), 8, "read of the child");
      EQUAL(atoi(line), word[3], "line of the child");
      word[3]++;
      word[2] = 0;
    }
  }
  pid_t sharer = MUST(clone(same_table, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL));
  while (word[0] == 0) nap(1);
  ready();
  int lines = 0;
  while ((!stopping() || lines < 4) && lines < 19000) {
    char line[9] = {0};
    EQUAL(read(lines % 2 ? data : HIGH, line, 8), 8, "read");
    EQUAL(atoi(line), word[3], "line");
    word[3]++;
    word[2] = 1;
    while (word[2]) nap(1);
    lines += 2;
    EQUAL(lseek(other, 0, SEEK_CUR), 80, "offset of a file opened by itself");
    nap(2);
  }
  EQUAL(high, HIGH, "high number");
  flags(data, O_RDWR, FD_CLOEXEC, "flags of data");
  flags(duplicate, O_RDWR, 0, "flags of the duplicate");
  flags(HIGH, O_RDWR, 0, "flags of the high one");
  flags(append, O_WRONLY | O_APPEND | O_NONBLOCK, 0, "flags of the log");
  flags(urandom, O_RDONLY, FD_CLOEXEC, "flags of urandom");
  EQUAL(fcntl(path, F_GETFL) & O_PATH, O_PATH, "O_PATH");
  struct stat stats;
  MUST(fstat(path, &stats));
  EQUAL(stats.st_size, 160000, "size through O_PATH");
  MUST(dprintf(append, "appended\n"));
  MUST(fstatat(directory, "data", &stats, 0));
  MUST(write(null, "x", 1));
  char bytes[16] = {1};
  EQUAL(read(zero, bytes, 16), 16, "read of zero");
  EQUAL(bytes[0], 0, "byte of zero");
  EQUAL(write(full, "x", 1), -1, "write to full");
  EQUAL(errno, ENOSPC, "error of full");
  EQUAL(read(random, bytes, 4) > 0 && read(urandom, bytes, 4) == 4, 1, "random bytes");
  // What the child opened is open here as well.
  MUST(write(word[0], "both\n", 5));
  int mine = MUST(open("from-parent", O_WRONLY | O_CREAT, 0600));
  CHECK(mine != word[0], "the numbers collide");
  word[1] = 1;
  reap(reader);
  reap(sharer);
  EQUAL(write(word[0], "x", 1), -1, "the child closed it for both");
  pass();
}
