// File locks of all three kinds: of a process, of an open file, and of a range of an open file.
#include "workload.h"
#include <sys/file.h>

int main(void) {
  int posix = MUST(open("posix", O_RDWR | O_CREAT, 0600)), whole = MUST(open("whole", O_RDWR | O_CREAT, 0600));
  int range = MUST(open("range", O_RDWR | O_CREAT, 0600));
  struct flock write_lock = {.l_type = F_WRLCK, .l_start = 10, .l_len = 5};
  struct flock read_lock = {.l_type = F_RDLCK, .l_start = 100, .l_len = 0};
  MUST(fcntl(posix, F_SETLK, &write_lock));
  MUST(fcntl(posix, F_SETLK, &read_lock));
  MUST(flock(whole, LOCK_EX));
  MUST(fcntl(range, F_OFD_SETLK, &(struct flock){.l_type = F_WRLCK, .l_start = 1, .l_len = 2}));
  ready();
  while (!stopping()) nap(2);
  pid_t child = MUST(fork());
  if (child == 0) {  // asks as somebody else
    struct flock ask = {.l_type = F_WRLCK, .l_start = 0, .l_len = 20};
    MUST(fcntl(posix, F_GETLK, &ask));
    CHECK(ask.l_type == F_WRLCK && ask.l_start == 10 && ask.l_len == 5 && ask.l_pid == getppid(), "the write lock differs");
    ask = (struct flock){.l_type = F_WRLCK, .l_start = 500, .l_len = 1};
    MUST(fcntl(posix, F_GETLK, &ask));
    CHECK(ask.l_type == F_RDLCK && ask.l_start == 100 && ask.l_len == 0, "the read lock differs");
    int other = MUST(open("whole", O_RDWR));
    EQUAL(flock(other, LOCK_EX | LOCK_NB), -1, "flock by somebody else");
    MUST(flock(whole, LOCK_UN));
    MUST(flock(other, LOCK_EX | LOCK_NB));
    other = MUST(open("range", O_RDWR));
    ask = (struct flock){.l_type = F_WRLCK, .l_start = 0, .l_len = 0};
    MUST(fcntl(other, F_OFD_GETLK, &ask));
    CHECK(ask.l_type == F_WRLCK && ask.l_start == 1 && ask.l_len == 2, "the range lock differs");
    _exit(0);
  }
  reap(child);
  pass();
}
