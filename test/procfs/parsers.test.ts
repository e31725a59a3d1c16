import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { ProcFormatError } from '../../src/errors.js';
import { parseCgroups } from '../../src/procfs/cgroup.js';
import { parseFdinfo } from '../../src/procfs/fdinfo.js';
import { LIMIT_NAMES, parseLimits, RLIM_INFINITY } from '../../src/procfs/limits.js';
import { parseLocks } from '../../src/procfs/locks.js';
import { parseMountinfo } from '../../src/procfs/mountinfo.js';
import { readProc } from '../../src/procfs/read.js';
import { parseMappings, parseRunningMappings } from '../../src/procfs/smaps.js';
import { parseStat } from '../../src/procfs/stat.js';
import { parseStatus } from '../../src/procfs/status.js';
import { parseSyscall } from '../../src/procfs/syscall.js';
import { parseMessageQueues, parseSegments, parseSemaphores } from '../../src/procfs/sysvipc.js';
import { parseTimers } from '../../src/procfs/timers.js';
import { listTree } from '../../src/procfs/tree.js';

const PARSERS: Readonly<Record<string, { parse: (text: string) => unknown; sample: () => string }>> = {
  stat: { parse: parseStat, sample: () => readProc('/proc/self/stat') },
  status: { parse: parseStatus, sample: () => readProc('/proc/self/status') },
  smaps: { parse: parseRunningMappings, sample: () => readProc('/proc/self/smaps') },
  maps: { parse: parseRunningMappings, sample: () => readProc('/proc/self/maps') },
  locks: { parse: parseLocks, sample: () => readProc('/proc/locks') },
  shm: { parse: parseSegments, sample: () => readProc('/proc/sysvipc/shm') },
  sem: { parse: parseSemaphores, sample: () => readProc('/proc/sysvipc/sem') },
  msg: { parse: parseMessageQueues, sample: () => readProc('/proc/sysvipc/msg') },
  fdinfo: { parse: parseFdinfo, sample: () => readProc('/proc/self/fdinfo/0') },
  cgroup: { parse: parseCgroups, sample: () => readProc('/proc/self/cgroup') },
  syscall: { parse: parseSyscall, sample: () => readProc('/proc/self/syscall') },
  timers: { parse: parseTimers, sample: () => readProc('/proc/self/timers') },
  mountinfo: { parse: parseMountinfo, sample: () => readProc('/proc/self/mountinfo') },
  limits: { parse: parseLimits, sample: () => readProc('/proc/self/limits') },
};

for (const [name, { parse, sample }] of Object.entries(PARSERS)) {
  test(`${name}: what this kernel writes is understood`, () => {
    assert.ok(parse(sample()));
  });

  test(`${name}: any other text is understood or refused, and never anything else`, () => {
    const refusedOrParsed = (text: string): void => {
      try {
        parse(text);
      } catch (error) {
        if (!(error instanceof ProcFormatError)) throw error;
      }
    };
    fc.assert(fc.property(fc.string({ unit: 'binary' }), refusedOrParsed));
    const text = sample();
    const damage = fc.tuple(fc.nat(text.length), fc.nat(40), fc.string());
    fc.assert(
      fc.property(damage, ([at, length, inserted]) => {
        refusedOrParsed(text.slice(0, at) + inserted + text.slice(at + length));
      }),
    );
  });
}

test('stat: a name may hold parentheses and spaces', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 15 }), (name) => {
      const text = readProc('/proc/self/stat').replace(/\(.*\)/s, () => `(${name})`);
      assert.equal(parseStat(text).comm, name);
    }),
  );
});

test('stat and status tell of this process', () => {
  const stat = parseStat(readProc('/proc/self/stat'));
  const status = parseStatus(readProc('/proc/self/status'));
  assert.equal(stat.pid, process.pid);
  assert.equal(stat.parent, process.ppid);
  assert.equal(stat.exitSignal, 17);
  assert.equal(status.uid.effective, process.geteuid?.());
  assert.deepEqual(status.gid.real, process.getgid?.());
  assert.equal(status.umask, process.umask());
});

test('smaps: ranges, flags and names', () => {
  const text = [
    '7f0000000000-7f0000001000 rw-s 00002000 00:01 77 /dev/zero (deleted)',
    'Size:                  4 kB',
    'VmFlags: rd wr sh mr mw me ms sd ',
    '7ffc00000000-7ffc00021000 rwxp 00000000 00:00 0                          [stack]',
    'VmFlags: rd wr gd ',
    '',
  ].join('\n');
  const [shared, stack] = parseMappings(text);
  assert.deepEqual(
    [shared?.start, shared?.end, shared?.offset, shared?.inode, shared?.shared, shared?.name],
    [0x7f0000000000n, 0x7f0000001000n, 0x2000n, 77n, true, '/dev/zero (deleted)'],
  );
  assert.ok(shared?.flags.has('mw') && !shared.flags.has('gd'));
  assert.ok(stack?.flags.has('gd') && stack.execute && stack.name === '[stack]');
});

test('smaps: ranges out of order are refused', () => {
  const line = (start: string, end: string): string => `${start}-${end} r--p 00000000 00:00 0 \n`;
  assert.throws(() => parseMappings(line('3000', '4000') + line('1000', '2000')), ProcFormatError);
  assert.throws(() => parseMappings(line('3000', '3000')), ProcFormatError);
});

test('fdinfo: what an epoll set watches', () => {
  const { epollTargets } = parseFdinfo(
    [
      'pos:\t0',
      'flags:\t02',
      'tfd:        4 events: c0000000 data: fedcba9876543210  pos:0 ino:c3 sdev:d',
      'tfd: 11111111 events:       19 data:                0  pos:-1 ino:20a1 sdev:1000005',
    ].join('\n'),
  );
  assert.deepEqual(epollTargets, [
    { fd: 4, events: 0xc000_0000, data: 0xfedc_ba98_7654_3210n },
    { fd: 11_111_111, events: 0x19, data: 0n },
  ]);
});

test('fdinfo: locks of all kinds', () => {
  const { locks, flags, position } = parseFdinfo(
    [
      'pos:\t12',
      'flags:\t0100002',
      'lock:\t1: POSIX  ADVISORY  WRITE 1234 08:01:99 10 14',
      'lock:\t2: FLOCK  ADVISORY  READ 1 08:01:99 0 EOF',
      'lock:\t3: OFDLCK ADVISORY  READ -1 08:01:99 7 7',
      'lock:\t4: LEASE  ACTIVE    READ 9 08:01:99 0 EOF',
    ].join('\n'),
  );
  assert.equal(position, 12n);
  assert.equal(flags, 0o100002);
  assert.deepEqual(
    locks.map(({ type, mode, pid, start, end }) => [type, mode, pid, start, end]),
    [
      ['POSIX', 'WRITE', 1234, 10n, 14n],
      ['FLOCK', 'READ', 1, 0n, undefined],
      ['OFDLCK', 'READ', -1, 7n, 7n],
      ['LEASE', 'READ', 9, 0n, undefined],
    ],
  );
});

test('limits: all sixteen, with unlimited as RLIM_INFINITY', () => {
  const text = LIMIT_NAMES.map((name, index) => `${name.padEnd(26)}${index}  unlimited  bytes`).join('\n');
  assert.deepEqual(
    parseLimits(text).map(({ soft, hard }) => [soft, hard]),
    LIMIT_NAMES.map((_, index) => [BigInt(index), RLIM_INFINITY]),
  );
});

test('the tree of this process has its threads', () => {
  const self = listTree(process.pid)[0];
  assert.equal(self?.pid, process.pid);
  assert.equal(self?.threads[0], process.pid);
  assert.equal(self?.threads.length, readdirSync('/proc/self/task').length);
});

test('locks: who holds, who waits, and for what', () => {
  const text = `1: POSIX  ADVISORY  WRITE 120 08:01:77 0 EOF
1: -> POSIX  ADVISORY  WRITE 121 08:01:77 0 EOF
2: OFDLCK ADVISORY  READ  -1 00:2a:5 0 9
`;
  assert.deepEqual(parseLocks(text), [
    { id: 1, waits: false, pid: 120, inode: '08:01:77' },
    { id: 1, waits: true, pid: 121, inode: '08:01:77' },
    { id: 2, waits: false, pid: -1, inode: '00:2a:5' },
  ]);
});

test('sysvipc: columns are found by their names', () => {
  const text = `       key      shmid perms                  size  cpid  lpid nattch
         1         32   600                  4096    10    11      3
`;
  assert.deepEqual(parseSegments(text), [{ id: 32, attachments: 3 }]);
  assert.throws(() => parseSegments(text.replace('nattch', 'other')), ProcFormatError);
});

test('mountinfo: mounts with their propagation, and names with blanks', () => {
  const text = `22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
30 27 254:1 /sub /mnt/a\\040b ro,nosuid master:3 propagate_from:2 - ext4 /dev/sd\\134x rw,discard
31 27 0:30 / /private rw - tmpfs none rw
32 27 0:31 / /never rw unbindable - tmpfs none rw
`;
  const [proc, bind, ...others] = parseMountinfo(text);
  assert.deepEqual(
    [proc, bind, ...others].map((mount) => mount?.propagation),
    ['shared', 'slave', 'private', 'unbindable'],
  );
  assert.deepEqual(bind, {
    device: '254:1',
    root: '/sub',
    mountpoint: '/mnt/a b',
    options: ['ro', 'nosuid'],
    propagation: 'slave',
    type: 'ext4',
    source: '/dev/sd\\x',
    superOptions: ['rw', 'discard'],
  });
  assert.throws(() => parseMountinfo('22 27 0:21 / /proc rw'), ProcFormatError);
});

test('timers: signals, threads, and the clocks of tasks', () => {
  const text = [
    'ID: 3\nsignal: 34/00007ffd12345678\nnotify: signal/tid.77\nClockID: -622\n',
    'ID: 9\nsignal: 14/0000000000000009\nnotify: none/pid.-1\nClockID: 1\n',
  ];
  assert.deepEqual(parseTimers(text.join('')), [
    {
      id: 3,
      signal: 34,
      value: 0x7ffd12345678n,
      notify: 0,
      target: { kind: 'tid', id: 77 },
      clock: -622,
    },
    { id: 9, signal: 14, value: 9n, notify: 1, target: { kind: 'pid', id: 0 }, clock: 1 },
  ]);
  assert.throws(() => parseTimers(text[0]?.slice(0, -1) ?? ''), ProcFormatError);
});

test('maps of a process that runs may be out of order', () => {
  const text = `2000-3000 rw-p 00000000 00:00 0
1000-2000 rw-p 00000000 00:00 0
`;
  assert.equal(parseRunningMappings(text).length, 2);
});

test('syscall: a call with its arguments, or none', () => {
  const waiting = '7 0x7ffd5f7c4ce0 0x2 0xffffffffffffffff 0x0 0x8 0x1f 0x7ffd5f7c4cb8 0x7f3f8a51d9ef\n';
  assert.deepEqual(parseSyscall(waiting), {
    number: 7,
    args: [0x7ffd5f7c4ce0n, 2n, 0xffff_ffff_ffff_ffffn, 0n, 8n, 0x1fn],
  });
  assert.equal(parseSyscall('running\n'), undefined);
  assert.equal(parseSyscall('-1 0x7ffd5f7c4cb8 0x7f3f8a51d9ef\n'), undefined);
  assert.throws(() => parseSyscall('7 0x1\n'), ProcFormatError);
});
