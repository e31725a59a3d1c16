// Threads that wait far longer than any test lasts: what remains of it is looked at from outside.
#include "workload.h"
#include <linux/futex.h>
#include <poll.h>

static int word = 7;
static const struct timespec LONG = {1000, 0};

static void *sleeps(void *argument) {
  struct timespec rest;
  MUST(nanosleep(&LONG, &rest));
  return argument;
}
static void *sleeps_without_rest(void *argument) {
  MUST(nanosleep(&LONG, NULL));
  return argument;
}
static void *sleeps_by_clock(void *argument) {
  struct timespec rest;
  EQUAL(clock_nanosleep(CLOCK_BOOTTIME, 0, &LONG, &rest), 0, "clock_nanosleep");
  return argument;
}
static void *polls(void *argument) {
  int ends[2];
  MUST(pipe(ends));
  struct pollfd entry = {ends[0], POLLIN, 0};
  MUST(poll(&entry, 1, 1000000));
  return argument;
}
static void *waits(void *argument) {
  MUST(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &LONG));
  return argument;
}
static void *waits_until(void *argument) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += 1000;
  MUST(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 7, &until, NULL, FUTEX_BITSET_MATCH_ANY));
  return argument;
}

int main(void) {
  void *(*bodies[])(void *) = {sleeps, sleeps_without_rest, sleeps_by_clock, polls, waits, waits_until};
  pthread_t thread;
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) pthread_create(&thread, NULL, bodies[i], NULL);
  nap(30);
  ready();
  while (!stopping()) nap(2);
  pass();
}
