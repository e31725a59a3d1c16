// Makes the one thing that its argument names, each of which a checkpoint has to refuse by name.
#include "workload.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/user.h>
#include <stddef.h>

static char stack[1 << 16];

__attribute__((noreturn)) static int wait_here(void *argument) {
  (void)argument;
  for (;;) pause();
}

// Its child has the directory in common with its grandparent, and not with its parent.
static int share_and_leave(void *argument) {
  static char inner[1 << 16];
  MUST(clone(wait_here, inner + sizeof inner, CLONE_FS | SIGCHLD, NULL));
  MUST(unshare(CLONE_FS));
  return wait_here(argument);
}

__attribute__((noreturn)) static void *go_apart(void *argument) {
  MUST(unshare(CLONE_FILES));
  wait_here(argument);
}

__attribute__((noreturn)) static void *wait_in_thread(void *argument) { wait_here(argument); }

static void send_descriptor(int through, int fd) {
  char control[CMSG_SPACE(sizeof fd)] = {0};
  struct iovec data = {.iov_base = "x", .iov_len = 1};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  *CMSG_FIRSTHDR(&message) =
      (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd)};
  memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof fd);
  MUST(sendmsg(through, &message, 0));
}

static void make(const char *what) {
  int ends[2];
  if (!strcmp(what, "socket")) MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
  else if (!strcmp(what, "epoll")) {
    // What it watches is nowhere but in a message on its way.
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    int watched = MUST(eventfd(0, 0)), set = MUST(epoll_create1(0));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, watched, &(struct epoll_event){.events = EPOLLIN}));
    send_descriptor(ends[0], watched);
    MUST(close(watched));
  }
  else if (!strcmp(what, "timerfd")) MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  else if (!strcmp(what, "signalfd")) MUST(signalfd(-1, &(sigset_t){0}, 0));
  else if (!strcmp(what, "inotify")) MUST(inotify_init());
  else if (!strcmp(what, "memfd")) MUST(memfd_create("scratch", 0));
  else if (!strcmp(what, "unlinked")) MUST(open("gone", O_RDWR | O_CREAT, 0600)), MUST(unlink("gone"));
  else if (!strcmp(what, "fifo")) MUST(mkfifo("fifo", 0600)), MUST(open("fifo", O_RDWR));
  else if (!strcmp(what, "procfile")) MUST(open("/proc/uptime", O_RDONLY));
  else if (!strcmp(what, "packet pipe")) MUST(pipe2(ends, O_DIRECT));
  else if (!strcmp(what, "thread timer")) {
    pthread_t thread;
    pthread_create(&thread, NULL, wait_in_thread, NULL);
    timer_t timer;
    MUST(timer_create(CLOCK_THREAD_CPUTIME_ID, NULL, &timer));
  } else if (!strcmp(what, "seccomp")) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_acct, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, filter};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
  } else if (!strcmp(what, "namespace")) MUST(unshare(CLONE_NEWUTS));
  else if (!strcmp(what, "sysv")) {
    int id = MUST(shmget(IPC_PRIVATE, 4096, 0600));
    CHECK(shmat(id, NULL, 0) != (void *)-1, "shmat");
    MUST(shmctl(id, IPC_RMID, NULL));
  } else if (!strcmp(what, "device memory")) {
    int fd = MUST(open("/dev/zero", O_RDWR));
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED, "mmap");
  } else if (!strcmp(what, "shared across")) MUST(clone(share_and_leave, stack + sizeof stack, CLONE_FS | SIGCHLD, NULL)), nap(20);
  else if (!strcmp(what, "thread apart")) {
    pthread_t thread;
    pthread_create(&thread, NULL, go_apart, NULL);
    nap(20);
  }
  else if (!strcmp(what, "syscall dispatch")) {
    static char selector = 0;
    MUST(prctl(59, 1, 0, 0, &selector));
  } else if (!strcmp(what, "hardware breakpoint")) {
    pid_t child = MUST(fork());
    if (child == 0) wait_here(NULL);
    MUST(ptrace(PTRACE_SEIZE, child, 0, 0) | ptrace(PTRACE_INTERRUPT, child, 0, 0));
    EQUAL(waitpid(child, NULL, __WALL), child, "stopped child");
    MUST(ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[0]), &wait_here));
    MUST(ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg[7]), 1));
    MUST(ptrace(PTRACE_DETACH, child, 0, 0));
  }
  else if (!strcmp(what, "lost directory")) return;
  else if (!strcmp(what, "left group")) {
    pid_t leader = MUST(fork());
    if (leader == 0) setpgid(0, 0), nap(20), setpgid(0, getpgid(getppid())), wait_here(NULL);
    nap(10);
    if (MUST(fork()) == 0) setpgid(0, leader), wait_here(NULL);
    nap(30);
  } else if (!strcmp(what, "lease")) {
    int fd = MUST(open("leased", O_RDONLY | O_CREAT, 0600));
    MUST(fcntl(fd, F_SETLEASE, F_RDLCK));
  } else if (!strcmp(what, "traced")) {
    pid_t child = MUST(fork());
    if (child == 0) wait_here(NULL);
    MUST(ptrace(PTRACE_SEIZE, child, 0, 0));
  } else fail("nothing is called %s", what);
}

int main(int argc, char **argv) {
  int here = MUST(open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 1; i < argc; i++) make(argv[i]);
  MUST(fchdir(here));
  if (argc == 2 && !strcmp(argv[1], "lost directory")) MUST(mkdir("lost", 0700)), MUST(chdir("lost")), MUST(rmdir("../lost"));
  int done = MUST(openat(here, "ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  close(done);
  close(here);
  for (;;) pause();
}
