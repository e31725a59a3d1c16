// A tree of tasks with threads that verify memory, registers, masks and pipes without a pause, and show in
// the file "beats" that each goes on.
#include "workload.h"
#include <immintrin.h>
#define PROCESSES 3
#define THREADS 3

static volatile uint64_t *beats;
static int process_index;
static int ring[PROCESSES][2];

__attribute__((target("avx"))) static void registers(uint64_t seed) {
  __m256d sum = _mm256_set1_pd(seed % 1000), step = _mm256_set_pd(1, 2, 3, 4);
  uint64_t a = seed, b = ~seed, c = seed * 3, d = seed * 5, flags;
  for (int i = 0; i < 20000; i++) {
    sum = _mm256_add_pd(sum, step);
    // Values in registers, and a direction flag that no call may change.
    __asm__ volatile("std\n\tpushfq\n\tpop %0\n\tcld\n\tinc %1\n\tdec %2\n\tadd $3, %3\n\tadd $5, %4"
                     : "=&r"(flags), "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+x"(sum)::"cc", "memory");
    if (!(flags & 0x400)) fail("the direction flag is lost");
  }
  CHECK(a == seed + 20000 && b == ~seed - 20000 && c == seed * 3 + 60000 && d == seed * 5 + 100000, "registers differ");
  double out[4];
  _mm256_storeu_pd(out, sum);
  for (int i = 0; i < 4; i++) CHECK(out[i] == seed % 1000 + 20000.0 * (4 - i), "AVX lane %d is %f", i, out[i]);
}

static void *work(void *argument) {
  long index = (long)argument;
  volatile uint64_t *beat = &beats[process_index * THREADS + index];
  size_t size = 1 << 18;
  char *memory = malloc(size);
  sigset_t mask, now;
  sigemptyset(&mask);
  sigaddset(&mask, SIGRTMIN + 1 + index);
  pthread_sigmask(SIG_BLOCK, &mask, NULL);
  fill(memory, size, index);
  while (!stopping()) {
    registers(*beat);
    verify(memory, size, index, "memory of a thread");
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    for (int i = 1; i <= 64; i++)
      CHECK(i == 32 || i == 33 || sigismember(&now, i) == (i == SIGRTMIN + 1 + index), "signal %d in the mask of thread %ld", i, index);
    if (index == 1) nap(1);
    ++*beat;
  }
  return NULL;
}

// A token goes round between the processes by pipes; each adds one.
static void *pass_token(void *argument) {
  uint64_t token;
  (void)argument;
  for (;;) {
    ssize_t got = read(ring[process_index][0], &token, 8);
    if (got == 0) return NULL;
    EQUAL(got, 8, "read of the token");
    token++;
    beats[PROCESSES * THREADS + process_index] = token;
    if (stopping()) return NULL;
    EQUAL(write(ring[(process_index + 1) % PROCESSES][1], &token, 8), 8, "write of the token");
    nap(1);
  }
}

static void body(void) {
  pthread_t threads[THREADS], token;
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
  pthread_create(&token, NULL, pass_token, NULL);
  for (int i = 0; i < THREADS; i++) EQUAL(pthread_join(threads[i], NULL), 0, "pthread_join");
}

int main(void) {
  int fd = MUST(open("beats", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  MUST(ftruncate(fd, 4096));
  beats = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  for (int i = 0; i < PROCESSES; i++) MUST(pipe(ring[i]));
  pid_t children[PROCESSES] = {0};
  for (int i = 1; i < PROCESSES; i++) {
    children[i] = MUST(fork());
    if (children[i] == 0) {
      process_index = i;
      body();
      _exit(0);
    }
  }
  uint64_t token = 0;
  MUST(write(ring[0][1], &token, 8));
  ready();
  body();
  for (int i = 1; i < PROCESSES; i++) reap(children[i]);
  pass();
}
