// Processes that share memory, tables, directories or handlers without being threads; children of threads; a first
// thread that has ended.
#include "workload.h"

struct shared {
  volatile int ending, value, descriptor, handled, ends;
  pid_t parent;
};
static struct shared *state;  // shared by all, whatever else they share
static int private_value;     // shared only by those that share memory
static char stacks[8][1 << 15];

static void on_first(int number) { (void)number, state->handled = 1; }
static void on_second(int number) { (void)number, state->handled = 2; }

static pid_t make(int index, int flags, int (*body)(void *)) {
  return MUST(clone(body, stacks[index] + sizeof *stacks, flags, NULL));
}

static int with_memory(void *argument) {
  (void)argument;
  while (!state->ending) {
    EQUAL(getppid(), state->parent, "parent");
    nap(2);
  }
  while (__atomic_load_n(&private_value, __ATOMIC_SEQ_CST) != 17) nap(1);
  private_value = 18;
  return 0;
}

static int with_files(void *argument) {
  (void)argument;
  while (!state->ending) nap(2);
  while (state->descriptor == 0) nap(1);
  if (fcntl(state->descriptor, F_GETFD) < 0) fail("the descriptor of the parent is not here");
  MUST(close(state->descriptor));
  state->descriptor = 0;
  return 0;
}

static int with_fs(void *argument) {
  (void)argument;
  while (!state->ending) nap(2);
  while (state->value == 0) nap(1);
  char path[256];
  CHECK(getcwd(path, sizeof path) && !strcmp(path, "/"), "working directory is %s", path);
  MUST(umask(0123));
  state->value = 0;
  return 0;
}

static int with_handlers(void *argument) {
  (void)argument;
  while (!state->ending) nap(2);
  while (private_value != 18) nap(1);
  signal(SIGUSR1, on_second);
  private_value = 19;
  return 0;
}

static int by_usr2(void *argument) {
  (void)argument;
  while (!state->ending) nap(2);
  return 4;
}

static void on_end(int number) { (void)number, state->ends++; }

static pid_t of_thread;
static void *maker(void *argument) {
  of_thread = MUST(fork());
  if (of_thread == 0) {
    while (!state->ending) nap(2);
    _exit(6);
  }
  while (!state->ending) nap(2);
  int status;
  EQUAL(waitpid(of_thread, &status, __WNOTHREAD), of_thread, "the thread's own child");
  EQUAL(status, 6 << 8, "its status");
  return argument;
}

static void *survivor(void *argument) {
  (void)argument;
  while (!state->ending) {
    nap(2);
    EQUAL(getpid() == (pid_t)syscall(SYS_gettid), 0, "being the first thread");
  }
  syscall(SYS_exit_group, 12);
  return NULL;
}

static pid_t leaderless(void) {
  pid_t child = MUST(fork());
  if (child != 0) return child;
  pthread_t thread;
  pthread_create(&thread, NULL, survivor, NULL);
  syscall(SYS_exit, 3);
  return 0;
}

int main(void) {
  state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  state->parent = getpid();
  signal(SIGUSR1, on_first);
  signal(SIGUSR2, on_end);
  pid_t memory = make(0, CLONE_VM | SIGCHLD, with_memory), files = make(1, CLONE_FILES | SIGCHLD, with_files),
        fs = make(2, CLONE_FS | SIGCHLD, with_fs),
        handlers = make(3, CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS | SIGCHLD, with_handlers),
        usr2 = make(4, SIGUSR2, by_usr2), headless = leaderless();
  pthread_t thread;
  pthread_create(&thread, NULL, maker, NULL);
  nap(20);
  ready();
  while (!stopping()) nap(2);
  state->ending = 1;
  int opened = MUST(open("/dev/null", O_RDONLY)), directory = MUST(open(".", O_PATH));
  state->descriptor = opened;
  reap(files);
  CHECK(fcntl(opened, F_GETFD) < 0, "the child has closed our descriptor");
  MUST(chdir("/"));
  state->value = 1;
  reap(fs);
  EQUAL(umask(0), 0123, "the umask that the child has set");
  MUST(fchdir(directory));
  private_value = 17;
  reap(memory);
  EQUAL(private_value == 18 || private_value == 19, 1, "what the child wrote into our memory");
  reap(handlers);
  EQUAL(private_value, 19, "what the other child wrote");
  raise(SIGUSR1);
  EQUAL(state->handled, 2, "the handler that the child has set");
  int status;
  MUST(pthread_join(thread, NULL));
  EQUAL(waitpid(headless, &status, 0), headless, "the process without its first thread");
  EQUAL(status, 12 << 8, "its status");
  while (state->ends == 0) nap(1);
  EQUAL(waitpid(usr2, &status, __WCLONE), usr2, "the child that ends by SIGUSR2");
  EQUAL(state->ends, 1, "signals of its end");
  pass();
}
