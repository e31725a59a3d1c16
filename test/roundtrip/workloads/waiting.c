// Tasks that wait in the kernel: no call returns before its time, and none with an error of ours.
#include "workload.h"
#include <poll.h>
#include <semaphore.h>
#include <sys/select.h>

static volatile int over;
static sem_t never;

static double clock_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

// Each waits 60 ms again and again; a wait that ends early, or with an error, is a failure.
static void *sleeper(void *argument) {
  while (!over) {
    double start = clock_now();
    struct timespec pause = {0, 60000000}, rest;
    EQUAL(nanosleep(&pause, &rest), 0, "nanosleep");
    CHECK(clock_now() - start > 0.059, "nanosleep ended after %f s", clock_now() - start);
  }
  return argument;
}
static void *poller(void *argument) {
  int quiet[2];
  MUST(pipe(quiet));
  while (!over) {
    double start = clock_now();
    struct pollfd entry = {quiet[0], POLLIN, 0};
    EQUAL(poll(&entry, 1, 60), 0, "poll");
    CHECK(clock_now() - start > 0.059, "poll ended after %f s", clock_now() - start);
    struct timeval pause = {0, 60000};
    EQUAL(select(0, NULL, NULL, NULL, &pause), 0, "select");
  }
  return argument;
}
static void *waiter(void *argument) {
  while (!over) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    double start = clock_now();
    until.tv_nsec += 60000000;
    until.tv_sec += until.tv_nsec / 1000000000, until.tv_nsec %= 1000000000;
    EQUAL(sem_timedwait(&never, &until), -1, "sem_timedwait");
    EQUAL(errno, ETIMEDOUT, "error of sem_timedwait");
    CHECK(clock_now() - start > 0.055, "sem_timedwait ended after %f s", clock_now() - start);
  }
  return argument;
}
static void *absolute(void *argument) {
  while (!over) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 60000000;
    until.tv_sec += until.tv_nsec / 1000000000, until.tv_nsec %= 1000000000;
    EQUAL(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), 0, "clock_nanosleep");
  }
  return argument;
}
static void *reader(void *argument) {
  int *ends = argument;
  char byte;
  EQUAL(read(ends[0], &byte, 1), 1, "read of a quiet pipe");
  return NULL;
}

int main(void) {
  sem_init(&never, 0, 0);
  int ends[2];
  MUST(pipe(ends));
  pthread_t threads[5];
  void *(*bodies[5])(void *) = {sleeper, poller, waiter, absolute, reader};
  for (int i = 0; i < 5; i++) pthread_create(&threads[i], NULL, bodies[i], ends);
  nap(30);
  ready();
  while (!stopping()) nap(5);
  over = 1;
  MUST(write(ends[1], "x", 1));
  for (int i = 0; i < 5; i++) EQUAL(pthread_join(threads[i], NULL), 0, "pthread_join");
  pass();
}
