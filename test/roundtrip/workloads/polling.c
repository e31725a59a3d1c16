// Threads that wait for open files which nobody else has: the kernel holds references to them meanwhile.
#include "workload.h"
#include <poll.h>
#include <sys/select.h>

enum { THREADS = 4 };
static int pipes[THREADS][2], quiet[2];
static volatile int begun;

static void *polls(void *end) {
  struct pollfd entries[] = {{*(int *)end, POLLIN, 0}, {quiet[0], POLLIN, 0}, {-1, POLLIN, 0}};
  begun++;
  EQUAL(poll(entries, 3, -1), 1, "poll");
  return NULL;
}
static void *polls_signals(void *end) {
  struct pollfd entry = {*(int *)end, POLLIN, 0};
  begun++;
  EQUAL(ppoll(&entry, 1, NULL, NULL), 1, "ppoll");
  return NULL;
}
static void *selects(void *end) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(*(int *)end, &set);
  begun++;
  EQUAL(select(*(int *)end + 1, &set, NULL, NULL, NULL), 1, "select");
  return NULL;
}
static void *reads(void *end) {
  char byte;
  begun++;
  EQUAL(read(*(int *)end, &byte, 1), 1, "read");
  return NULL;
}

int main(void) {
  void *(*const waits[THREADS])(void *) = {polls, polls_signals, selects, reads};
  pthread_t threads[THREADS];
  MUST(pipe(quiet));
  for (int i = 0; i < THREADS; i++) {
    MUST(pipe(pipes[i]));
    MUST(-pthread_create(&threads[i], NULL, waits[i], &pipes[i][0]));
    while (begun == i) nap(1);
  }
  nap(10);
  ready();
  while (!stopping()) nap(2);
  for (int i = 0; i < THREADS; i++) {
    MUST(write(pipes[i][1], "x", 1));
    pthread_join(threads[i], NULL);
  }
  pass();
}
