/** Constants of the kernel's interface, by header; `test/sys/headers.test.ts` compares each with C's. */

/** sys/ptrace.h */
export const ptraceRequest = {
  PTRACE_CONT: 7,
  PTRACE_DETACH: 17,
  PTRACE_SYSCALL: 24,
  PTRACE_SETOPTIONS: 0x4200,
  PTRACE_GETEVENTMSG: 0x4201,
  PTRACE_GETSIGINFO: 0x4202,
  PTRACE_GETREGSET: 0x4204,
  PTRACE_SETREGSET: 0x4205,
  PTRACE_SEIZE: 0x4206,
  PTRACE_INTERRUPT: 0x4207,
  PTRACE_PEEKSIGINFO: 0x4209,
  PTRACE_GETSIGMASK: 0x420a,
  PTRACE_SETSIGMASK: 0x420b,
  PTRACE_SECCOMP_GET_FILTER: 0x420c,
  PTRACE_SECCOMP_GET_METADATA: 0x420d,
  PTRACE_GET_RSEQ_CONFIGURATION: 0x420f,
  PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: 0x4211,
  PTRACE_PEEKUSR: 3,
} as const;

export const ptraceOption = {
  PTRACE_O_TRACESYSGOOD: 1,
  PTRACE_O_TRACEFORK: 2,
  PTRACE_O_TRACEVFORK: 4,
  PTRACE_O_TRACECLONE: 8,
  PTRACE_O_TRACEEXEC: 16,
  PTRACE_O_EXITKILL: 0x100000,
  PTRACE_O_SUSPEND_SECCOMP: 0x200000,
} as const;

export const ptraceEvent = {
  PTRACE_EVENT_FORK: 1,
  PTRACE_EVENT_VFORK: 2,
  PTRACE_EVENT_CLONE: 3,
  PTRACE_EVENT_EXEC: 4,
  PTRACE_EVENT_STOP: 128,
} as const;

export const PTRACE_PEEKSIGINFO_SHARED = 1;

/** elf.h */
export const regset = { NT_PRSTATUS: 1, NT_X86_XSTATE: 0x202 } as const;

/** sys/wait.h */
export const wait = { WNOHANG: 1, WUNTRACED: 2, WEXITED: 4, WNOWAIT: 0x1000000, __WALL: 0x40000000 } as const;

/** fcntl.h */
export const open = {
  O_RDONLY: 0,
  O_WRONLY: 1,
  O_RDWR: 2,
  O_ACCMODE: 3,
  O_CREAT: 0o100,
  O_EXCL: 0o200,
  O_NOCTTY: 0o400,
  O_TRUNC: 0o1000,
  O_APPEND: 0o2000,
  O_NONBLOCK: 0o4000,
  O_ASYNC: 0o20000,
  O_DIRECT: 0o40000,
  O_DIRECTORY: 0o200000,
  O_NOFOLLOW: 0o400000,
  O_NOATIME: 0o1000000,
  O_CLOEXEC: 0o2000000,
  O_PATH: 0o10000000,
  O_TMPFILE: 0o20200000,
} as const;

/** The kernel's own flag, shown in fdinfo on 64-bit systems; glibc's header hides it as 0. */
export const O_LARGEFILE = 0o100000;

export const fcntl = {
  F_DUPFD_CLOEXEC: 1030,
  F_GETFD: 1,
  F_SETFD: 2,
  F_GETFL: 3,
  F_SETFL: 4,
  F_SETLK: 6,
  F_OFD_SETLK: 37,
  F_GETOWN_EX: 16,
  F_SETPIPE_SZ: 1031,
  F_GETPIPE_SZ: 1032,
  FD_CLOEXEC: 1,
  F_RDLCK: 0,
  F_WRLCK: 1,
  AT_FDCWD: -100,
} as const;

/** sys/file.h */
export const flockOperation = { LOCK_SH: 1, LOCK_EX: 2, LOCK_NB: 4 } as const;

/** sys/mman.h */
export const prot = { PROT_NONE: 0, PROT_READ: 1, PROT_WRITE: 2, PROT_EXEC: 4 } as const;
export const mapFlag = {
  MAP_SHARED: 1,
  MAP_PRIVATE: 2,
  MAP_FIXED: 0x10,
  MAP_ANONYMOUS: 0x20,
  MAP_GROWSDOWN: 0x100,
  MAP_LOCKED: 0x2000,
  MAP_NORESERVE: 0x4000,
  MAP_FIXED_NOREPLACE: 0x100000,
} as const;
export const mremapFlag = { MREMAP_MAYMOVE: 1, MREMAP_FIXED: 2 } as const;
export const madvise = {
  MADV_RANDOM: 1,
  MADV_SEQUENTIAL: 2,
  MADV_DONTFORK: 10,
  MADV_MERGEABLE: 12,
  MADV_HUGEPAGE: 14,
  MADV_NOHUGEPAGE: 15,
  MADV_DONTDUMP: 16,
  MADV_WIPEONFORK: 18,
  MADV_POPULATE_WRITE: 23,
} as const;

/** linux/mman.h of 6.13 and later. */
export const MADV_GUARD_INSTALL = 102;

/** sched.h */
export const cloneFlag = {
  CLONE_VM: 0x100,
  CLONE_FS: 0x200,
  CLONE_FILES: 0x400,
  CLONE_SIGHAND: 0x800,
  CLONE_PARENT: 0x8000,
  CLONE_THREAD: 0x10000,
  CLONE_SYSVSEM: 0x40000,
  CLONE_NEWNS: 0x00020000,
  CLONE_NEWIPC: 0x08000000,
  CLONE_NEWPID: 0x20000000,
} as const;

/** linux/seccomp.h */
export const seccomp = {
  SECCOMP_MODE_STRICT: 1,
  SECCOMP_MODE_FILTER: 2,
  SECCOMP_SET_MODE_FILTER: 1,
  SECCOMP_FILTER_FLAG_TSYNC: 1,
  SECCOMP_FILTER_FLAG_SPEC_ALLOW: 4,
  SECCOMP_RET_USER_NOTIF: 0x7fc0_0000,
} as const;

/** linux/mount.h */
export const mountFlag = {
  MS_RDONLY: 1,
  MS_NOSUID: 2,
  MS_NODEV: 4,
  MS_NOEXEC: 8,
  MS_NOATIME: 1024,
  MS_NODIRATIME: 2048,
  MS_REC: 16384,
  MS_PRIVATE: 1 << 18,
  MS_SLAVE: 1 << 19,
  MS_RELATIME: 1 << 21,
} as const;

/** sys/epoll.h */
export const epollControl = {
  EPOLL_CTL_ADD: 1,
  EPOLL_CTL_MOD: 3,
} as const;

/** sys/epoll.h */
export const epollEvents = {
  EPOLLIN: 0x1,
  EPOLLPRI: 0x2,
  EPOLLOUT: 0x4,
  EPOLLRDNORM: 0x40,
  EPOLLRDBAND: 0x80,
  EPOLLWRNORM: 0x100,
  EPOLLWRBAND: 0x200,
  EPOLLRDHUP: 0x2000,
  EPOLLEXCLUSIVE: 2 ** 28,
  EPOLLWAKEUP: 2 ** 29,
  EPOLLONESHOT: 2 ** 30,
  EPOLLET: 2 ** 31,
} as const;

/** linux/kcmp.h */
export const kcmpType = {
  KCMP_FILE: 0,
  KCMP_VM: 1,
  KCMP_FILES: 2,
  KCMP_FS: 3,
  KCMP_SIGHAND: 4,
  KCMP_EPOLL_TFD: 7,
} as const;

/** linux/prctl.h */
export const prctl = {
  PR_TIMER_CREATE_RESTORE_IDS: 77,
  PR_TIMER_CREATE_RESTORE_IDS_OFF: 0,
  PR_TIMER_CREATE_RESTORE_IDS_ON: 1,
  PR_TIMER_CREATE_RESTORE_IDS_GET: 2,
  PR_SET_SECCOMP: 22,
  PR_SET_PDEATHSIG: 1,
  PR_GET_PDEATHSIG: 2,
  PR_GET_DUMPABLE: 3,
  PR_SET_DUMPABLE: 4,
  PR_GET_KEEPCAPS: 7,
  PR_SET_KEEPCAPS: 8,
  PR_SET_NAME: 15,
  PR_CAPBSET_DROP: 24,
  PR_GET_SECUREBITS: 27,
  PR_SET_SECUREBITS: 28,
  PR_SET_TIMERSLACK: 29,
  PR_GET_TIMERSLACK: 30,
  PR_SET_MM: 35,
  PR_SET_MM_MAP: 14,
  PR_SET_MM_MAP_SIZE: 15,
  PR_SET_CHILD_SUBREAPER: 36,
  PR_GET_CHILD_SUBREAPER: 37,
  PR_SET_NO_NEW_PRIVS: 38,
  PR_GET_TID_ADDRESS: 40,
  PR_SET_THP_DISABLE: 41,
  PR_GET_THP_DISABLE: 42,
  PR_CAP_AMBIENT: 47,
  PR_GET_TSC: 25,
  PR_SET_TSC: 26,
  PR_TSC_SIGSEGV: 2,
  PR_MCE_KILL: 33,
  PR_MCE_KILL_GET: 34,
  PR_MCE_KILL_SET: 1,
  PR_MCE_KILL_DEFAULT: 2,
  PR_GET_SPECULATION_CTRL: 52,
  PR_SET_SPECULATION_CTRL: 53,
  PR_SPEC_PRCTL: 1,
  PR_SPEC_DISABLE: 4,
  PR_SPEC_FORCE_DISABLE: 8,
  PR_SPEC_DISABLE_NOEXEC: 16,
  PR_SET_IO_FLUSHER: 57,
  PR_SET_MEMORY_MERGE: 67,
  PR_GET_MEMORY_MERGE: 68,
  PR_SET_MDWE: 65,
  PR_GET_MDWE: 66,
  PR_CAP_AMBIENT_RAISE: 2,
  PR_SET_VMA: 0x53564d41,
  PR_SET_VMA_ANON_NAME: 0,
} as const;

/** linux/capability.h */
export const LINUX_CAPABILITY_VERSION_3 = 0x20080522;
export const capability = {
  CAP_SYS_PTRACE: 19,
  CAP_SYS_ADMIN: 21,
  CAP_SYS_RESOURCE: 24,
  CAP_CHECKPOINT_RESTORE: 40,
} as const;

/** linux/fs.h: the ioctl and the page categories of PAGEMAP_SCAN (6.7; PAGE_IS_GUARD 6.15). */
export const pagemap = {
  PAGEMAP_SCAN: 0xc0606610,
  PAGE_IS_FILE: 4n,
  PAGE_IS_PRESENT: 8n,
  PAGE_IS_SWAPPED: 16n,
  PAGE_IS_PFNZERO: 32n,
  PAGE_IS_GUARD: 256n,
} as const;

/** sys/ioctl.h */
export const FIONREAD = 0x541b;

/** poll.h */
export const pollEvent = { POLLIN: 1, POLLOUT: 4, POLLERR: 8, POLLHUP: 16 } as const;

/** signal.h */
export const signal = {
  SIGTRAP: 5,
  SIGKILL: 9,
  SIGCHLD: 17,
  SIGCONT: 18,
  SIGSTOP: 19,
  SIGTSTP: 20,
  SIGTTIN: 21,
  SIGTTOU: 22,
  SIGURG: 23,
  SIGWINCH: 28,
} as const;
export const SIG_DFL = 0n;
export const SIG_IGN = 1n;
export const SIG_BLOCK_ALL = 0xffffffffffffffffn;
export const NSIG = 64;
/** sigaltstack(2): the thread runs on it (1), it is switched off (2). */
export const SS_DISABLE = 2;
export const SS_ONSTACK = 1;

/** linux/magic.h: the type of /proc in statfs(2). */
export const PROC_SUPER_MAGIC = 0x9fa0;

/** include/linux/sched.h: PF_KTHREAD as `/proc/PID/stat` shows it. */
export const PF_KTHREAD = 0x200000;
/** include/linux/sched.h: PF_IO_WORKER, a worker thread of io_uring. */
export const PF_IO_WORKER = 0x10;

/** Bytes. x86_64 has no other base page size. */
export const PAGE_SIZE = 4096;

/** No descriptor is larger, whatever `/proc/sys/fs/nr_open` allows. Source: fs/file.c. */
export const MAX_DESCRIPTOR = 0x4000_0000;
