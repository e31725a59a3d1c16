// Runs a program in a session of its own and without descriptors that it was not meant to have.
#define _GNU_SOURCE
#include <unistd.h>
int main(int argc, char **argv) {
  if (argc < 2) return 2;
  close_range(3, ~0U, 0);
  setsid();
  execvp(argv[1], argv + 1);
  return 127;
}
