// One process with as many MiB of memory of its own as its argument says; for measurements.
#include "workload.h"

int main(int argc, char **argv) {
  size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 1) << 20;
  char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  fill(memory, size, 1);
  ready();
  while (!stopping()) nap(20);
  verify(memory, size, 1, "memory");
  pass();
}
