// Event counters with a value, as semaphores, and without blocking.
#include "workload.h"
#include <sys/eventfd.h>

int main(void) {
  int counter = MUST(eventfd(5, EFD_CLOEXEC)), semaphore = MUST(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
  eventfd_t value = 0x1234567890;
  MUST(eventfd_write(counter, value));
  ready();
  while (!stopping()) nap(2);
  EQUAL(fcntl(counter, F_GETFD), FD_CLOEXEC, "close-on-exec");
  MUST(eventfd_read(counter, &value));
  EQUAL(value, 0x1234567890 + 5, "count");
  for (int i = 0; i < 2; i++) {
    MUST(eventfd_read(semaphore, &value));
    EQUAL(value, 1, "semaphore");
  }
  EQUAL(eventfd_read(semaphore, &value), -1, "an empty semaphore");
  EQUAL(errno, EAGAIN, "error of an empty semaphore");
  pass();
}
