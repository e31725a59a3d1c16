// Epoll sets: what they watch, by which number, for what, and with which data; nested, shared, and waited for.
#include "workload.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { MANY = 300 };

static int make_counter(void) { return MUST(eventfd(0, EFD_NONBLOCK)); }
static void raise_counter(int fd) { MUST(eventfd_write(fd, 1)); }

static void lower_counter(int fd) {
  eventfd_t value;
  MUST(eventfd_read(fd, &value));
}

static void watch(int set, int operation, int fd, uint32_t events, uint64_t data) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  MUST(epoll_ctl(set, operation, fd, &event));
}

// The only event that comes within some time; none for 0.
static void expect(int set, uint32_t events, uint64_t data, const char *what) {
  struct epoll_event got[4];
  int count;
  while ((count = epoll_wait(set, got, 4, 20)) < 0 && errno == EINTR)
    ;
  EQUAL(count, events == 0 ? 0 : 1, what);
  if (count == 0) return;
  EQUAL(got[0].events, events, what);
  CHECK(got[0].data.u64 == data, "%s has other data", what);
}

static int waiting_set, waiting_counter;
static void *wait_endlessly(void *argument) {
  struct epoll_event got;
  EQUAL(epoll_wait(waiting_set, &got, 1, -1), 1, "an endless wait");
  CHECK(got.data.u64 == 77, "an endless wait has other data");
  return argument;
}

int main(void) {
  // By level and by edge, once and again, with all bits of the data.
  int level_set = MUST(epoll_create1(EPOLL_CLOEXEC)), ends[2];
  MUST(pipe(ends));
  watch(level_set, EPOLL_CTL_ADD, ends[0], EPOLLIN, 0xfedcba9876543210);
  MUST(write(ends[1], "x", 1));

  int edge_set = MUST(epoll_create1(0)), edge = make_counter();
  watch(edge_set, EPOLL_CTL_ADD, edge, EPOLLIN | EPOLLET, 2);

  int once_set = MUST(epoll_create1(0)), spent = make_counter(), armed = make_counter(), idle_ends[2];
  MUST(fcntl(once_set, F_SETFL, O_NONBLOCK));
  MUST(pipe(idle_ends));
  watch(once_set, EPOLL_CTL_ADD, spent, EPOLLOUT | EPOLLONESHOT, 3);
  expect(once_set, EPOLLOUT, 3, "a one-shot event");
  watch(once_set, EPOLL_CTL_ADD, armed, EPOLLIN | EPOLLONESHOT, 4);
  // Its one event came, and is taken out of it again.
  watch(once_set, EPOLL_CTL_ADD, idle_ends[0], EPOLLIN | EPOLLONESHOT, 5);
  char byte;
  MUST(write(idle_ends[1], "x", 1));
  expect(once_set, EPOLLIN, 5, "another one-shot event");
  MUST(read(idle_ends[0], &byte, 1));

  // One number for three files: the first two are open under others now.
  int number_set = MUST(epoll_create1(0)), copies[2], number = make_counter();
  for (int i = 0; i < 2; i++) {
    watch(number_set, EPOLL_CTL_ADD, number, EPOLLIN, 10 + i);
    copies[i] = MUST(fcntl(number, F_DUPFD, 40 + i));
    int next = make_counter();
    MUST(dup2(next, number));
    MUST(close(next));
  }
  watch(number_set, EPOLL_CTL_ADD, number, EPOLLIN, 12);

  // A set in a set, a set with another number for the same file, an empty one, one with many, one in low numbers.
  int outer_set = MUST(epoll_create1(0)), inner_set = MUST(epoll_create1(0)), empty_set = MUST(epoll_create1(0));
  int inner = make_counter(), twin = MUST(dup(inner));
  watch(outer_set, EPOLL_CTL_ADD, inner_set, EPOLLIN, 20);
  watch(inner_set, EPOLL_CTL_ADD, inner, EPOLLIN | EPOLLEXCLUSIVE, 21);
  watch(inner_set, EPOLL_CTL_ADD, twin, EPOLLPRI, 22);
  int many_set = MUST(fcntl(MUST(epoll_create1(0)), F_DUPFD, 900)), many[MANY];
  for (int i = 0; i < MANY; i++) watch(many_set, EPOLL_CTL_ADD, many[i] = make_counter(), EPOLLIN, 1000 + i);
  int null = MUST(open("/dev/null", O_RDONLY));
  int low = MUST(dup2(make_counter(), 0));
  watch(number_set, EPOLL_CTL_ADD, low, EPOLLIN, 13);

  waiting_set = MUST(epoll_create1(0)), waiting_counter = make_counter();
  watch(waiting_set, EPOLL_CTL_ADD, waiting_counter, EPOLLIN, 77);
  pthread_t thread;
  pthread_create(&thread, NULL, wait_endlessly, NULL);

  // A child has a set of its own that watches a file of both, and one of its parent that watches a file of its own.
  int common = make_counter(), shared_set = MUST(epoll_create1(0));
  pid_t child = MUST(fork());
  if (child == 0) {
    int own = MUST(dup2(make_counter(), 60));
    watch(shared_set, EPOLL_CTL_ADD, own, EPOLLIN, 30);
    int own_set = MUST(epoll_create1(0));
    watch(own_set, EPOLL_CTL_ADD, common, EPOLLIN, 31);
    put("child", "ready\n");
    expect(own_set, 0, 0, "a file of both");
    while (!stopping()) nap(2);
    raise_counter(own);
    struct epoll_event got;
    EQUAL(epoll_wait(own_set, &got, 1, -1), 1, "a file of both");
    EQUAL(got.data.u64, 31, "a file of both");
    _exit(0);
  }
  while (access("child", F_OK) != 0) nap(1);
  nap(20);
  ready();
  while (!stopping()) nap(2);

  expect(level_set, EPOLLIN, 0xfedcba9876543210, "what can be read");
  expect(level_set, EPOLLIN, 0xfedcba9876543210, "what can be read still");
  EQUAL(fcntl(level_set, F_GETFD), FD_CLOEXEC, "close-on-exec");

  raise_counter(edge);
  expect(edge_set, EPOLLIN, 2, "an edge");
  expect(edge_set, 0, 0, "no edge");

  EQUAL(fcntl(once_set, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "O_NONBLOCK of a set");
  expect(once_set, 0, 0, "spent events");
  raise_counter(spent);
  MUST(write(idle_ends[1], "x", 1));
  expect(once_set, 0, 0, "spent events");
  raise_counter(armed);
  expect(once_set, EPOLLIN, 4, "an armed event");
  expect(once_set, 0, 0, "spent events");
  watch(once_set, EPOLL_CTL_MOD, spent, EPOLLIN | EPOLLONESHOT, 6);
  expect(once_set, EPOLLIN, 6, "a re-armed event");
  watch(once_set, EPOLL_CTL_MOD, idle_ends[0], EPOLLIN | EPOLLONESHOT, 7);
  expect(once_set, EPOLLIN, 7, "another re-armed event");

  for (int i = 0; i < 2; i++) {
    raise_counter(copies[i]);
    expect(number_set, EPOLLIN, 10 + i, "a file under a former number");
    lower_counter(copies[i]);
  }
  raise_counter(number);
  expect(number_set, EPOLLIN, 12, "a file under its number");
  MUST(epoll_ctl(number_set, EPOLL_CTL_DEL, number, NULL));
  expect(number_set, 0, 0, "a removed file");
  raise_counter(low);
  expect(number_set, EPOLLIN, 13, "a file under number 0");

  expect(empty_set, 0, 0, "an empty set");
  expect(outer_set, 0, 0, "a quiet set in a set");
  raise_counter(inner);
  expect(outer_set, EPOLLIN, 20, "a set in a set");
  expect(inner_set, EPOLLIN, 21, "an exclusive event");
  watch(inner_set, EPOLL_CTL_MOD, twin, EPOLLOUT, 23);
  MUST(epoll_ctl(inner_set, EPOLL_CTL_DEL, inner, NULL));
  expect(inner_set, EPOLLOUT, 23, "the same file under another number");
  for (int i = 0; i < MANY; i++) {
    raise_counter(many[i]);
    expect(many_set, EPOLLIN, 1000 + i, "one of many");
    lower_counter(many[i]);
  }
  raise_counter(waiting_counter);
  pthread_join(thread, NULL);
  expect(shared_set, EPOLLIN, 30, "a file of the child");
  raise_counter(common);
  reap(child);
  MUST(close(null));
  pass();
}
