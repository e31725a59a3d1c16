// Gets signals of a timer as fast as it can take them.
#include "workload.h"

static volatile sig_atomic_t ticks;
static void on_tick(int number) { (void)number, ticks++; }

int main(void) {
  signal(SIGRTMIN, on_tick);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
  timer_t timer;
  MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
  struct itimerspec often = {{0, 30000}, {0, 30000}};
  MUST(timer_settime(timer, 0, &often, NULL));
  ready();
  while (!stopping())
    for (int i = 0; i < 100000; i++) __asm__ volatile("");
  int before = ticks;
  for (int i = 0; i < 100 && ticks == before; i++) nap(10);
  CHECK(ticks > before, "no tick any more");
  pass();
}
