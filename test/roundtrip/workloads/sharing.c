// cc: -pthread -lutil
// Two processes that share one thing, named by the first argument: this one, outside, and its child, inside,
// whose pid is written to the file `inside`. With `own` as second argument they share nothing of the kind.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <pty.h>
#include <sched.h>
#include <stdbool.h>
#include <semaphore.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/keyctl.h>

#include "workload.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static const char *mode;
static bool own;
static int flag[2];
static char stack[1 << 16] __attribute__((aligned(16)));

static bool is(const char *name) { return strcmp(mode, name) == 0; }

static void must(long result, const char *what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
}

static void tell(const char *name, int pid) {
  FILE *file = fopen(".part", "w");
  fprintf(file, "%d", pid);
  fclose(file);
  must(rename(".part", name), "rename");
}

// The child is set up: the parent may go on.
static void signalReady(void) {
  must(write(flag[1], "x", 1), "write");
  close(flag[0]);
  close(flag[1]);
}

static void waitReady(void) {
  char byte;
  must(read(flag[0], &byte, 1), "read");
  close(flag[0]);
  close(flag[1]);
}

static void idle(void) {
  while (!stopping()) nap(10);
  _exit(0);
}

static struct sockaddr_un address(const char *name) {
  struct sockaddr_un value = {.sun_family = AF_UNIX};
  snprintf(value.sun_path, sizeof value.sun_path, "%s", name);
  return value;
}

static int bound(int type, const char *name) {
  struct sockaddr_un value = address(name);
  int fd = socket(AF_UNIX, type, 0);
  must(bind(fd, (struct sockaddr *)&value, sizeof value), "bind");
  if (type == SOCK_STREAM) must(listen(fd, 5), "listen");
  return fd;
}

static int connected(int type, const char *name) {
  struct sockaddr_un value = address(name);
  int fd = socket(AF_UNIX, type, 0);
  must(connect(fd, (struct sockaddr *)&value, sizeof value), "connect");
  return fd;
}

static void sendDescriptor(int through, int fd) {
  char control[CMSG_SPACE(sizeof fd)] = {0};
  struct iovec data = {.iov_base = "x", .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  must(sendmsg(through, &message, 0), "sendmsg");
}

static void *sharedMemory(int fd) {
  int flags = fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED;
  void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, fd, 0);
  must(memory == MAP_FAILED ? -1 : 0, "mmap");
  return memory;
}

static int cloneInside(void *unused) {
  (void)unused;
  if (!is("table")) {
    for (int stream = 0; stream < 3; stream++) close(stream);
  }
  for (;;) pause();
  return 0;
}

int main(int argc, char **argv) {
  mode = argc > 1 ? argv[1] : "nothing";
  own = argc > 2;
  must(pipe(flag), "pipe");
  int fds[2] = {-1, -1};
  int file = -1;
  int *memory = NULL;

  // Before the border comes into being.
  if (is("file") || is("mapping") || is("writableMapping") || is("uring") || is("lock")) {
    file = open("data", O_RDWR | O_CREAT, 0600);
    must(ftruncate(file, 4096), "ftruncate");
  }
  if (is("mapping")) {
    memory = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
    must(memory == MAP_FAILED ? -1 : 0, "mmap");
    close(file);
  }
  if (is("writableMapping")) {
    memory = sharedMemory(file);
    close(file);
  }
  if (is("device")) file = open("/dev/null", O_RDWR);
  if (is("path")) file = open(".", O_PATH);
  if (is("directory")) file = open(".", O_RDONLY);
  if (is("anonymous") || is("futex")) memory = sharedMemory(-1);
  if (is("pipe")) must(pipe(fds), "pipe");
  if (is("fifo")) must(mkfifo("fifo", 0600), "mkfifo");
  if (is("unix") || is("sent")) must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), "socketpair");
  if (is("segment")) {
    file = shmget(own ? IPC_PRIVATE : 0x57a5, 4096, IPC_CREAT | 0600);
    must(file, "shmget");
  }
  if (is("semaphores")) {
    file = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600);
    must(file, "semget");
  }
  if (is("queue")) {
    file = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    must(file, "msgget");
  }
  if (is("terminal")) must(openpty(&fds[0], &fds[1], NULL, NULL, NULL), "openpty");
  // Both are in it; one with its own enters it later.
  int space = is("uts")      ? CLONE_NEWUTS
              : is("ipc")    ? CLONE_NEWIPC
              : is("net")    ? CLONE_NEWNET
              : is("mnt")    ? CLONE_NEWNS
              : is("cgroup") ? CLONE_NEWCGROUP
              : is("user")   ? CLONE_NEWUSER
                             : 0;
  if (space != 0 && !own) must(unshare(space), "unshare");
  if (is("time") && !own) must(unshare(CLONE_NEWTIME), "unshare");
  if (is("keyring") && !own) must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL), "keyctl");

  int flags = 0;
  if (!own && is("table")) flags = CLONE_FILES;
  if (!own && is("fs")) flags = CLONE_FS;
  if (!own && is("mm")) flags = CLONE_VM;
  if (!own && is("sighand")) flags = CLONE_VM | CLONE_SIGHAND;
  if (flags != 0) {
    close(flag[0]);
    close(flag[1]);
    int child = clone(cloneInside, stack + sizeof stack, flags | SIGCHLD, NULL);
    must(child, "clone");
    if (is("table")) {
      // What the test asks for changes the table from outside.
      tell("inside", child);
      ready();
      int opened = -1;
      while (!stopping()) {
        if (opened < 0 && access("open", F_OK) == 0) {
          opened = open("/etc/passwd", O_RDONLY);
          tell("opened", opened);
        }
        if (opened >= 0 && access("close", F_OK) == 0) {
          close(opened);
          opened = -1;
          unlink("open");
          tell("closed", 0);
        }
        nap(2);
      }
    }
    tell("inside", child);
    ready();
    while (!stopping()) nap(10);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    pass();
  }

  if (is("session")) prctl(PR_SET_CHILD_SUBREAPER, 1);
  int parent = getpid();
  int child = fork();
  must(child, "fork");
  if (child == 0) {
    int null = open("/dev/null", O_RDWR);
    for (int stream = 0; stream < 3; stream++) dup2(null, stream);
    close(null);
    if (is("group")) setpgid(0, 0);
    else setsid();
    if (is("session") && !own) {
      // Its child's child becomes a child of the parent outside, and stays in the session.
      int between = fork();
      must(between, "fork");
      if (between == 0) {
        int other = fork();
        must(other, "fork");
        if (other == 0) idle();
        _exit(0);
      }
      waitpid(between, NULL, 0);
    }
    if (space != 0 && own) must(unshare(space), "unshare");
    if (is("pipe") && !own) close(fds[1]);
    if (is("unix") && !own) close(fds[1]);
    if (is("sent")) {
      // Into the queue of the socket outside, or of the one inside.
      file = open("data", O_RDWR | O_CREAT, 0600);
      sendDescriptor(fds[0], file);
      if (!own) close(fds[1]);
    }
    if (is("memfd")) {
      file = memfd_create("shared", 0);
      must(ftruncate(file, 4096), "ftruncate");
      sharedMemory(file);
      tell("memfd", file);
    }
    if (is("fifo")) open("fifo", O_RDWR);
    if (is("fifo") && own) open("fifo", O_RDWR);
    if (is("listener")) file = bound(SOCK_STREAM, "socket");
    if (is("listener") && own) {
      connected(SOCK_STREAM, "socket");
      connected(SOCK_STREAM, "socket");
      must(accept(file, NULL, NULL), "accept");
    }
    if (is("datagram")) file = bound(SOCK_DGRAM, "socket");
    if (is("datagram") && own) connected(SOCK_DGRAM, "socket");
    if (is("flight")) {
      must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), "socketpair");
      file = open("data", O_RDWR | O_CREAT, 0600);
      sendDescriptor(fds[0], file);
      close(file);
    }
    if (is("segment")) {
      must((long)shmat(file, NULL, 0), "shmat");
      if (own) must((long)shmat(file, NULL, 0), "shmat");
    }
    if (is("semaphores")) {
      struct sembuf up = {.sem_num = 0, .sem_op = 1};
      must(semop(file, &up, 1), "semop");
      if (own) {
        up.sem_num = 1;
        must(semop(file, &up, 1), "semop");
      }
    }
    if (is("queue")) {
      struct {
        long type;
        char text[8];
      } message = {1, "hello"};
      must(msgsnd(file, &message, 8, 0), "msgsnd");
      if (own) must(msgrcv(file, &message, 8, 0, 0), "msgrcv");
    }
    if (is("terminal") && !own) close(fds[0]);
    if (is("lock")) must(flock(open("data", O_RDWR), LOCK_EX), "flock");
    if (is("lock") && own) must(flock(file, LOCK_UN), "flock");
    if (is("futex") && own) memory = NULL;
    prctl(PR_SET_PTRACER, parent);
    signalReady();
    idle();
  }

  waitReady();
  if (is("file") && own) close(file);
  if (is("device") && own) close(file);
  if (is("path") && own) close(file);
  if (is("directory") && own) close(file);
  if (own && memory != NULL) munmap(memory, 4096);
  if (is("pipe")) {
    close(fds[0]);
    if (own) close(fds[1]);
  }
  if (is("unix") || is("sent")) {
    close(fds[0]);
    if (own) close(fds[1]);
  }
  if (is("memfd") && !own) {
    char path[64];
    FILE *in = fopen("memfd", "r");
    must(fscanf(in, "%d", &file) == 1 ? 0 : -1, "memfd");
    fclose(in);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", child, file);
    must(open(path, O_RDWR), "open");
  }
  if (is("fifo") && !own) must(open("fifo", O_RDWR), "open");
  if (is("listener") && !own) connected(SOCK_STREAM, "socket");
  if (is("datagram") && !own) connected(SOCK_DGRAM, "socket");
  if (is("segment")) {
    if (!own) must((long)shmat(file, NULL, 0), "shmat");
    shmctl(file, IPC_RMID, NULL);
  }
  if (is("semaphores") && !own) {
    struct sembuf up = {.sem_num = 1, .sem_op = 1};
    must(semop(file, &up, 1), "semop");
  }
  if (is("queue") && !own) {
    struct {
      long type;
      char text[8];
    } message;
    must(msgrcv(file, &message, 8, 0, 0), "msgrcv");
  }
  if (is("terminal")) {
    close(fds[1]);
    if (own) close(fds[0]);
  }
  if (is("group") && !own) {
    int other = fork();
    must(other, "fork");
    if (other == 0) {
      must(setpgid(0, child), "setpgid");
      idle();
    }
    nap(20);
  }
  if (is("time") && !own) {
    // Only children enter it: this other one is outside.
    int other = fork();
    must(other, "fork");
    if (other == 0) idle();
  }
  if (is("tracer") && !own) must(ptrace(PTRACE_SEIZE, child, NULL, NULL), "ptrace");
  if (is("lock") && !own) {
    close(file);
    int waiting = fork();
    must(waiting, "fork");
    if (waiting == 0) {
      flock(open("data", O_RDWR), LOCK_EX);
      idle();
    }
    nap(50);
  }
  if (is("lock") && own) close(file);
  if (is("futex") && !own) {
    int waiting = fork();
    must(waiting, "fork");
    if (waiting == 0) {
      syscall(SYS_futex, memory, FUTEX_WAIT, 0, NULL, NULL, 0);
      _exit(0);
    }
    tell("waiting", waiting);
    nap(50);
  }
  if (is("uring")) {
    struct io_uring_params parameters = {0};
    int ring = syscall(SYS_io_uring_setup, 4, &parameters);
    if (ring >= 0 && !own)
      must(syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, &file, 1), "io_uring_register");
    tell("uring", ring);
    close(file);
  }
  tell("inside", child);
  ready();
  for (bool sent = false; !stopping(); nap(2)) {
    waitpid(-1, NULL, WNOHANG);
    // The test asks for it when everything was collected.
    if (!is("unix") || own || sent || access("send", F_OK) != 0) continue;
    sendDescriptor(fds[1], 0);
    tell("sent", 1);
    sent = true;
  }
  if (is("semaphores")) semctl(file, 0, IPC_RMID);
  if (is("queue")) msgctl(file, IPC_RMID, NULL);
  while (waitpid(-1, NULL, WNOHANG) > 0) continue;
  pass();
}
