// Threads with their ids, names, thread-local storage, FPU and AVX registers, masks, locks and robust lists.
#include "workload.h"
#include <immintrin.h>
#define THREADS 6

static __thread long local;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t robust;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static volatile int over;
static long total;
static pid_t tids[THREADS];

__attribute__((target("avx"))) static void spin_avx(long index) {
  // The values live in registers across the loop; nothing spills them but a switch of tasks.
  __m256d sum = _mm256_set1_pd(index), step = _mm256_set_pd(1, 2, 3, 4);
  double plain = index;
  for (int i = 0; i < 200000; i++) {
    sum = _mm256_add_pd(sum, step);
    plain += 1;
    __asm__ volatile("" : "+x"(sum), "+x"(step));
  }
  double out[4];
  _mm256_storeu_pd(out, sum);
  for (int i = 0; i < 4; i++) CHECK(out[i] == index + 200000.0 * (4 - i), "AVX lane %d is %f", i, out[i]);
  CHECK(plain == index + 200000.0, "SSE register is %f", plain);
}

static void spin_x87(long index) {
  long double value = index;
  for (int i = 0; i < 10000; i++) value += 0.5L;
  CHECK(value == index + 5000.0L, "x87 register differs");
}

static void *work(void *argument) {
  long index = (long)argument;
  char name[16], got[16];
  local = index * 1000;
  tids[index] = gettid();
  snprintf(name, sizeof name, "worker %ld", index);
  pthread_setname_np(pthread_self(), name);
  sigset_t mask, now;
  sigemptyset(&mask);
  sigaddset(&mask, SIGRTMIN + index);
  pthread_sigmask(SIG_BLOCK, &mask, NULL);
  while (!over) {
    if (index % 2) __builtin_cpu_supports("avx") ? spin_avx(index) : spin_x87(index);
    else spin_x87(index), nap(1);
    EQUAL(local, index * 1000, "thread-local value");
    EQUAL(gettid(), tids[index], "thread id");
    pthread_getname_np(pthread_self(), got, sizeof got);
    CHECK(strcmp(got, name) == 0, "thread name is %s", got);
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    CHECK(sigismember(&now, SIGRTMIN + index), "signal mask of thread %ld is lost", index);
    CHECK(!sigismember(&now, SIGRTMIN + index + 1), "signal mask of thread %ld has grown", index);
    pthread_mutex_lock(&lock);
    total++;
    pthread_cond_signal(&condition);
    pthread_mutex_unlock(&lock);
  }
  return (void *)(index + 1);
}

static void *dies_with_lock(void *argument) {
  pthread_mutex_lock(&robust);
  while (!over) nap(5);
  return argument;  // the robust list releases the lock, with a note
}

int main(void) {
  pthread_t threads[THREADS], holder;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&robust, &attributes);
  for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *)i);
  pthread_create(&holder, NULL, dies_with_lock, NULL);
  nap(20);
  ready();
  while (!stopping()) {
    pthread_mutex_lock(&lock);
    long seen = total;
    while (total == seen) pthread_cond_wait(&condition, &lock);
    pthread_mutex_unlock(&lock);
  }
  over = 1;
  for (long i = 0; i < THREADS; i++) {
    void *result;
    EQUAL(pthread_join(threads[i], &result), 0, "pthread_join");
    EQUAL((long)result, i + 1, "result of a thread");
  }
  EQUAL(pthread_join(holder, NULL), 0, "pthread_join of the holder");
  EQUAL(pthread_mutex_lock(&robust), EOWNERDEAD, "lock of a dead owner");
  pass();
}
