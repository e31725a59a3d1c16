// A parent with as many small children as its argument says; for measurements.
#include "workload.h"

int main(int argc, char **argv) {
  int count = argc > 1 ? atoi(argv[1]) : 0;
  for (int i = 0; i < count; i++)
    if (MUST(fork()) == 0)
      for (;;) pause();
  ready();
  for (;;) pause();
}
