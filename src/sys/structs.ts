import { struct } from './struct.js';

/** clone3(2). */
export const cloneArgs = struct('struct clone_args', 'linux/sched.h', {
  flags: 'u64',
  pidfd: 'u64',
  child_tid: 'u64',
  parent_tid: 'u64',
  exit_signal: 'u64',
  stack: 'u64',
  stack_size: 'u64',
  tls: 'u64',
  set_tid: 'u64',
  set_tid_size: 'u64',
  cgroup: 'u64',
});

/** readv(2), process_vm_readv(2). */
export const iovec = struct('struct iovec', 'sys/uio.h', { iov_base: 'u64', iov_len: 'u64' });

/** prctl(2), PR_SET_MM_MAP. */
export const prctlMmMap = struct('struct prctl_mm_map', 'linux/prctl.h', {
  start_code: 'u64',
  end_code: 'u64',
  start_data: 'u64',
  end_data: 'u64',
  start_brk: 'u64',
  brk: 'u64',
  start_stack: 'u64',
  arg_start: 'u64',
  arg_end: 'u64',
  env_start: 'u64',
  env_end: 'u64',
  auxv: 'u64',
  auxv_size: 'u32',
  exe_fd: 'u32',
});

/** sigaltstack(2). */
export const stackT = struct('stack_t', 'signal.h', { ss_sp: 'u64', ss_flags: 's32', ss_size: 'u64' });

/** The kernel's own layout for rt_sigaction(2), which is not that of the C library. */
export const kernelSigaction = struct('struct sigaction', 'asm/signal.h', {
  sa_handler: 'u64',
  sa_flags: 'u64',
  sa_restorer: 'u64',
  sa_mask: 'u64',
});

/** prlimit(2). */
export const rlimit64 = struct('struct rlimit64', 'linux/resource.h', { rlim_cur: 'u64', rlim_max: 'u64' });

/** fcntl(2), F_SETLK and F_OFD_SETLK. */
export const flock = struct('struct flock', 'fcntl.h', {
  l_type: 'u16',
  l_whence: 'u16',
  l_start: 's64',
  l_len: 's64',
  l_pid: 's32',
});

/** ptrace(2), PTRACE_PEEKSIGINFO. */
export const peekSiginfoArgs = struct('struct __ptrace_peeksiginfo_args', 'sys/ptrace.h', {
  off: 'u64',
  flags: 'u32',
  nr: 's32',
});

/** ptrace(2), PTRACE_GET_RSEQ_CONFIGURATION. */
export const rseqConfiguration = struct('struct __ptrace_rseq_configuration', 'sys/ptrace.h', {
  rseq_abi_pointer: 'u64',
  rseq_abi_size: 'u32',
  signature: 'u32',
  flags: 'u32',
  pad: 'u32',
});

/** A critical section of rseq(2), as `rseq_cs` of the thread's area points to it. */
export const rseqCriticalSection = struct('struct rseq_cs', 'linux/rseq.h', {
  version: 'u32',
  flags: 'u32',
  start_ip: 'u64',
  post_commit_offset: 'u64',
  abort_ip: 'u64',
});

/** capget(2) with version 3: one header and two of the data. */
export const capHeader = struct('struct __user_cap_header_struct', 'linux/capability.h', {
  version: 'u32',
  pid: 's32',
});
export const capData = struct('struct __user_cap_data_struct', 'linux/capability.h', {
  effective: 'u32',
  permitted: 'u32',
  inheritable: 'u32',
});

/**
 * ioctl(2) PAGEMAP_SCAN (linux/fs.h of 6.7 and later; older headers do not have it, so that the probe
 * leaves it out there).
 */
export const pmScanArg = struct('struct pm_scan_arg', 'linux/fs.h', {
  size: 'u64',
  flags: 'u64',
  start: 'u64',
  end: 'u64',
  walk_end: 'u64',
  vec: 'u64',
  vec_len: 'u64',
  max_pages: 'u64',
  category_inverted: 'u64',
  category_mask: 'u64',
  category_anyof_mask: 'u64',
  return_mask: 'u64',
});

export const pageRegion = struct('struct page_region', 'linux/fs.h', {
  start: 'u64',
  end: 'u64',
  categories: 'u64',
});

/** poll(2). */
export const pollfd = struct('struct pollfd', 'poll.h', { fd: 's32', events: 'u16', revents: 'u16' });

/** setitimer(2). */
export const itimerval = struct('struct itimerval', 'sys/time.h', {
  interval_sec: 's64',
  interval_usec: 's64',
  value_sec: 's64',
  value_usec: 's64',
});

export const timespec = struct('struct timespec', 'time.h', { tv_sec: 's64', tv_nsec: 's64' });

export const itimerspec = struct('struct itimerspec', 'time.h', {
  interval_sec: 's64',
  interval_nsec: 's64',
  value_sec: 's64',
  value_nsec: 's64',
});

/** seccomp(2). */
export const sockFprog = struct('struct sock_fprog', 'linux/filter.h', { len: 'u16', filter: 'u64' });

/** ptrace(2), PTRACE_SECCOMP_GET_METADATA. */
export const seccompMetadata = struct('struct seccomp_metadata', 'linux/ptrace.h', {
  filter_off: 'u64',
  flags: 'u64',
});

/** timer_create(2): what is used of it. */
export const sigevent = struct('struct sigevent', 'signal.h', {
  value: 'u64',
  signo: 's32',
  notify: 's32',
  tid: 's32',
});

/** sched_setattr(2), first published size. */
export const schedAttr = struct('struct sched_attr', 'linux/sched/types.h', {
  size: 'u32',
  sched_policy: 'u32',
  sched_flags: 'u64',
  sched_nice: 's32',
  sched_priority: 'u32',
  sched_runtime: 'u64',
  sched_deadline: 'u64',
  sched_period: 'u64',
});

/** epoll_ctl(2); packed on x86_64 alone. */
export const epollEvent = struct('struct epoll_event', 'sys/epoll.h', { events: 'u32', data: 'u64' }, true);

/** kcmp(2), KCMP_EPOLL_TFD. */
export const kcmpEpollSlot = struct('struct kcmp_epoll_slot', 'linux/kcmp.h', {
  efd: 'u32',
  tfd: 'u32',
  toff: 'u32',
});
