// Two threads that are in a restartable sequence nearly all the time. The file "epoch" is counted up by the test
// while nothing of this runs: a sequence that began in one epoch and was not aborted ends in another.
#include "workload.h"
#include <sys/rseq.h>

static volatile long *epoch;
static volatile long committed[2], aborted[2];

enum outcome { COMMITTED, ABORTED, OVERLOOKED };

static enum outcome sequence(volatile long *result) {
  struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
  asm goto(
      ".pushsection .data.rseq, \"aw\"\n"
      ".balign 32\n"
      "3: .long 0, 0\n"
      ".quad 1f, 2f - 1f, 4f\n"
      ".popsection\n"
      ".pushsection .text.rseq, \"ax\"\n"
      ".byte 0x0f, 0xb9, 0x3d\n"
      ".long 0x53053053\n"
      "4: jmp %l[abort]\n"
      ".popsection\n"
      "leaq 3b(%%rip), %%rax\n"
      "movq %%rax, (%[cs])\n"
      "1:\n"
      "movq (%[epoch]), %%rax\n"
      "movl $300000, %%ecx\n"
      "5: decl %%ecx\n"
      "jnz 5b\n"
      "cmpq (%[epoch]), %%rax\n"
      "jne %l[overlooked]\n"
      "movq %%rax, (%[result])\n"
      "2:\n"
      :
      : [cs] "r"(&area->rseq_cs), [epoch] "r"(epoch), [result] "r"(result)
      : "rax", "rcx", "memory", "cc"
      : abort, overlooked);
  return COMMITTED;
abort:
  return ABORTED;
overlooked:
  return OVERLOOKED;
}

static void *work(void *argument) {
  int index = argument != NULL;
  volatile long result = -1;
  while (!stopping()) {
    for (int i = 0; i < 100; i++) {
      switch (sequence(&result)) {
      case COMMITTED: committed[index]++; break;
      case ABORTED: aborted[index]++; break;
      case OVERLOOKED: fail("a sequence went on in epoch %ld as if nothing had been", *epoch);
      }
    }
  }
  return NULL;
}

int main(void) {
  int fd = MUST(open("epoch", O_RDWR | O_CREAT, 0666));
  MUST(ftruncate(fd, 4096));
  epoch = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(epoch != MAP_FAILED && __rseq_size > 0, "no restartable sequences");
  close(fd);
  pthread_t other;
  MUST(-pthread_create(&other, NULL, work, (void *)1));
  ready();
  work(NULL);
  pthread_join(other, NULL);
  for (int i = 0; i < 2; i++) CHECK(committed[i] > 0 && aborted[i] > 0, "%ld committed, %ld aborted", committed[i], aborted[i]);
  pass();
}
