import { Walker } from '../bpf/walk.js';
import { BpfUnavailableError, KernelTypesError } from '../errors.js';
import { clockNow } from '../sys/clock.js';
import { isRestartBlockCall, type Registers } from '../tracee/arch/x86_64/registers.js';

/**
 * A call that was interrupted, and goes on for the time that remains: `struct restart_block` of
 * linux/restart_block.h. A futex with an absolute timeout has one as well: `remainingNanoseconds` is then not used.
 */
export interface RestartBlock {
  readonly kind: 'sleep' | 'poll' | 'futex' | 'futexUntil';
  /** By which the time is counted. Source: clock_gettime(2). */
  readonly clock: number;
  /** 0 when the time is over. */
  readonly remainingNanoseconds: bigint;
  /** Where a sleep, when it is interrupted, writes what is left of it; 0 for nowhere. */
  readonly remainder: bigint;
}

const CLOCK_MONOTONIC = 1;
const NANOSECONDS = 1_000_000_000n;
/** Clocks whose sleeps are hrtimers: those of processor time and of alarms have other restart blocks. */
const HRTIMER_CLOCKS = [0, 1, 7, 11];
const TT_NATIVE = 1;
const FUTEX_COMMAND_MASK = 0x7fn;
const FUTEX_WAIT = 0n;
const NR_POLL = 7n;
const NR_NANOSLEEP = 35n;
const NR_FUTEX = 202n;
const NR_RESTART_SYSCALL = 219n;
const NR_CLOCK_NANOSLEEP = 230n;

/** What only the kernel's own memory tells of held tasks, read by BPF where that is possible. */
export class HeldTasks {
  private blocks: ReadonlyMap<number, BlockRow> | undefined;
  private overruns: ReadonlyMap<string, number> | undefined;

  private constructor(private readonly walker: Walker | undefined) {}

  /** Loads what is needed, before anything is held. */
  static prepare(): HeldTasks {
    try {
      const walker = Walker.load();
      walker.prepareHeldTasks();
      return new HeldTasks(walker);
    } catch (error) {
      if (error instanceof BpfUnavailableError || error instanceof KernelTypesError)
        return new HeldTasks(undefined);
      throw error;
    }
  }

  /** The restart block of a task; undefined when it has none, or none that can be told. */
  restartBlock(tid: number, registers: Registers): RestartBlock | undefined {
    if (!isRestartBlockCall(registers)) return undefined;
    this.blocks ??= this.readBlocks();
    const row = this.blocks.get(tid);
    return row === undefined ? undefined : interpret(row, registers);
  }

  /** How often a timer has expired beyond the signal that is pending for it, so far. */
  overrun(pid: number, timer: number): number {
    this.overruns ??= this.readOverruns();
    return Math.max(this.overruns.get(`${pid} ${timer}`) ?? 0, 0);
  }

  private readBlocks(): ReadonlyMap<number, BlockRow> {
    const rows = this.walker?.walkRestartBlocks();
    const blocks = new Map<number, BlockRow>();
    if (rows === undefined) return blocks;
    const tid = rows.u32('tid');
    for (let row = 0; row < rows.count; row++) {
      blocks.set(tid(row), {
        sleepClock: rows.u32('sleepClock')(row),
        sleepType: rows.u32('sleepType')(row),
        sleepRemainder: rows.u64('sleepRemainder')(row),
        sleepExpires: rows.u64('sleepExpires')(row),
        futexAddress: rows.u64('futexAddress')(row),
        futexValue: rows.u64('futexValue')(row),
        futexTime: rows.u64('futexTime')(row),
        pollEntries: rows.u64('pollEntries')(row),
        pollCount: rows.u64('pollCount')(row),
        pollHasTimeout: rows.u32('pollHasTimeout')(row) !== 0,
        pollTime: rows.u64('pollSeconds')(row) * NANOSECONDS + rows.u64('pollNanoseconds')(row),
      });
    }
    return blocks;
  }

  private readOverruns(): ReadonlyMap<string, number> {
    const rows = this.walker?.walkTimers();
    const overruns = new Map<string, number>();
    if (rows === undefined) return overruns;
    const pid = rows.u32('tgid');
    const id = rows.u32('id');
    const overrun = rows.s32('overrun');
    for (let row = 0; row < rows.count; row++) overruns.set(`${pid(row)} ${id(row)}`, overrun(row));
    return overruns;
  }
}

interface BlockRow {
  readonly sleepClock: number;
  readonly sleepType: number;
  readonly sleepRemainder: bigint;
  readonly sleepExpires: bigint;
  readonly futexAddress: bigint;
  readonly futexValue: bigint;
  readonly futexTime: bigint;
  readonly pollEntries: bigint;
  readonly pollCount: bigint;
  readonly pollHasTimeout: boolean;
  readonly pollTime: bigint;
}

/**
 * The members of the block share their memory: the arguments of the call, which are still in the registers, tell
 * which of them it is, also when the call is being restarted for the second time.
 */
function interpret(row: BlockRow, registers: Registers): RestartBlock | undefined {
  const call = registers.get('orig_rax');
  const [first, second, third, fourth] = (['rdi', 'rsi', 'rdx', 'r10'] as const).map((name) =>
    registers.get(name),
  );
  const may = (...calls: bigint[]) => call === NR_RESTART_SYSCALL || calls.includes(call);
  const until = (kind: RestartBlock['kind'], clock: number, time: bigint, remainder = 0n): RestartBlock => {
    const remaining = time - clockNow(clock);
    return { kind, clock, remainingNanoseconds: remaining > 0n ? remaining : 0n, remainder };
  };
  const isPoll =
    row.pollEntries === first && row.pollCount === low(second) && row.pollHasTimeout && third !== 0n;
  if (may(NR_POLL) && isPoll) return until('poll', CLOCK_MONOTONIC, row.pollTime);
  if (may(NR_FUTEX) && row.futexAddress === first && row.futexValue === low(third)) {
    const isRelative = (low(second) & FUTEX_COMMAND_MASK) === FUTEX_WAIT;
    return until(isRelative ? 'futex' : 'futexUntil', CLOCK_MONOTONIC, row.futexTime);
  }
  const remainder = row.sleepType === TT_NATIVE ? row.sleepRemainder : 0n;
  const isSleep =
    row.sleepType <= TT_NATIVE &&
    HRTIMER_CLOCKS.includes(row.sleepClock) &&
    (call === NR_NANOSLEEP ? remainder === second : remainder === second || remainder === fourth);
  if (may(NR_NANOSLEEP, NR_CLOCK_NANOSLEEP) && isSleep)
    return until('sleep', row.sleepClock, row.sleepExpires, remainder);
  return undefined;
}

/** As an `int` argument is taken. */
function low(register: bigint | undefined): bigint {
  return (register ?? 0n) & 0xffff_ffffn;
}
