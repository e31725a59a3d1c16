// Pipes inside one task and between tasks, with bytes in them, blocked readers and writers, and dead ends.
#include "workload.h"

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  int inside[2], ring[2], back[2], full[2], dead_reader[2], dead_writer[2], quiet[2];
  MUST(pipe(inside));
  MUST(pipe(ring)), MUST(pipe(back));
  MUST(pipe2(full, O_NONBLOCK | O_CLOEXEC));
  MUST(pipe(dead_reader)), MUST(pipe(dead_writer)), MUST(pipe2(quiet, O_NONBLOCK));
  close(dead_reader[0]);
  MUST(write(dead_writer[1], "left over", 9));
  close(dead_writer[1]);
  MUST(write(inside[1], "inside", 6));
  MUST(fcntl(full[1], F_SETPIPE_SZ, 1 << 18));
  char block[4096];
  int blocks = 0;
  for (fill(block, 4096, 0); write(full[1], block, 4096) == 4096; fill(block, 4096, ++blocks))
    ;
  EQUAL(errno, EAGAIN, "a full pipe");

  pid_t child = MUST(fork());
  if (child == 0) {  // blocks in read most of the time
    close(ring[1]), close(back[0]);
    uint64_t number;
    while (read(ring[0], &number, 8) == 8) {
      number = number * 3 + 1;
      EQUAL(write(back[1], &number, 8), 8, "write of the child");
    }
    _exit(0);
  }
  close(ring[0]), close(back[1]);
  ready();
  uint64_t number = 0, answer;
  for (int i = 0; !stopping() || i < 20; i++) {
    EQUAL(write(ring[1], &number, 8), 8, "write");
    EQUAL(read(back[0], &answer, 8), 8, "read");
    EQUAL(answer, number * 3 + 1, "answer");
    number++;
    if (i % 4 == 0) nap(2);
  }
  char text[64] = {0};
  EQUAL(read(inside[0], text, 64), 6, "bytes inside");
  CHECK(memcmp(text, "inside", 6) == 0, "the bytes are %s", text);
  EQUAL(read(dead_writer[0], text, 64), 9, "bytes left over");
  EQUAL(read(dead_writer[0], text, 64), 0, "end of a pipe without writers");
  EQUAL(write(dead_reader[1], "x", 1), -1, "write to nobody");
  EQUAL(errno, EPIPE, "error of a write to nobody");
  EQUAL(read(quiet[0], text, 1), -1, "read of an empty pipe");
  EQUAL(errno, EAGAIN, "O_NONBLOCK of an empty pipe");
  EQUAL(fcntl(full[0], F_GETPIPE_SZ), 1 << 18, "capacity");
  EQUAL(fcntl(full[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK, "O_NONBLOCK");
  EQUAL(fcntl(full[1], F_GETFD), FD_CLOEXEC, "close-on-exec");
  for (int i = 0; i < blocks; i++) {
    EQUAL(read(full[0], block, 4096), 4096, "block of a full pipe");
    verify(block, 4096, i, "block of a full pipe");
  }
  EQUAL(read(full[0], block, 4096), -1, "the full pipe is empty now");
  close(ring[1]);
  reap(child);
  pass();
}
