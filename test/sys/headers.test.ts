import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileCalls, neverRestartedCalls, syscallNumbers } from '../../src/sys/arch/x86_64.js';
import type { Struct } from '../../src/sys/struct.js';
import * as structs from '../../src/sys/structs.js';
import * as uapi from '../../src/sys/uapi.js';

type AnyStruct = Struct<Record<string, never>>;

/** C expressions compiled against the system's headers and printed, each with a name. */
function compileAndRun(
  headers: readonly string[],
  expressions: ReadonlyMap<string, string>,
): Map<string, string> {
  const directory = mkdtempSync(join(tmpdir(), 'stasis-headers-'));
  try {
    const lines = [...expressions].map(([name, expression]) => {
      // Where the headers do not have a macro, nothing is printed.
      const isMacro = /^[A-Z_][A-Z0-9_a-z]*$/.test(expression);
      const print = `printf("%s %lld\\n", ${JSON.stringify(name)}, (long long)(${expression}));`;
      return isMacro ? `#ifdef ${expression}\n${print}\n#endif` : print;
    });
    const source = [
      '#define _GNU_SOURCE',
      ...headers.map((header) => `#include <${header}>`),
      'int main(void) {',
      ...lines,
      'return 0; }',
    ].join('\n');
    writeFileSync(join(directory, 'probe.c'), source);
    execFileSync('cc', ['-w', '-o', join(directory, 'probe'), join(directory, 'probe.c')], { stdio: 'pipe' });
    const output = execFileSync(join(directory, 'probe'), { encoding: 'utf8' });
    return new Map(
      output
        .trim()
        .split('\n')
        .map((line) => line.split(' ') as [string, string]),
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Structures that the headers of this machine may be too old for. */
const NEWER = ['struct pm_scan_arg', 'struct page_region'];

for (const value of Object.values(structs) as unknown as AnyStruct[]) {
  test(`${value.cName} has the layout of <${value.header}>`, (context) => {
    const expressions = new Map([['sizeof', `sizeof(${value.cName})`]]);
    for (const field of Object.keys(value.offsets)) {
      const member = MEMBERS[`${value.cName}.${field}`] ?? field;
      expressions.set(field, `__builtin_offsetof(${value.cName}, ${member})`);
    }
    let found: Map<string, string>;
    try {
      found = compileAndRun(['stdio.h', 'stdint.h', value.header], expressions);
    } catch (error) {
      if (!NEWER.includes(value.cName)) throw error;
      context.skip('the headers of this machine are older than that structure');
      return;
    }
    const expected = new Map([['sizeof', String(value.size)]]);
    for (const [field, offset] of Object.entries(value.offsets)) expected.set(field, String(offset));
    // Some grow, or end with a filler: what is there has to stand where it stood.
    if (['struct clone_args', 'struct sched_attr', 'struct sigevent'].includes(value.cName)) {
      assert.ok(Number(found.get('sizeof')) >= value.size);
      found.set('sizeof', String(value.size));
    }
    assert.deepEqual(Object.fromEntries(found), Object.fromEntries(expected));
  });
}

const MEMBERS: Readonly<Record<string, string>> = {
  'struct itimerspec.interval_sec': 'it_interval.tv_sec',
  'struct itimerspec.interval_nsec': 'it_interval.tv_nsec',
  'struct itimerspec.value_sec': 'it_value.tv_sec',
  'struct itimerspec.value_nsec': 'it_value.tv_nsec',
  'struct sigevent.value': 'sigev_value',
  'struct sigevent.signo': 'sigev_signo',
  'struct sigevent.notify': 'sigev_notify',
  'struct sigevent.tid': '_sigev_un._tid',
  'struct itimerval.interval_sec': 'it_interval.tv_sec',
  'struct itimerval.interval_usec': 'it_interval.tv_usec',
  'struct itimerval.value_sec': 'it_value.tv_sec',
  'struct itimerval.value_usec': 'it_value.tv_usec',
};

test('system call numbers are those of <asm/unistd_64.h>', () => {
  const { onDescriptor, ...others } = fileCalls;
  const numbers = { ...syscallNumbers, ...neverRestartedCalls, ...others, ...onDescriptor };
  const names = Object.keys(numbers);
  const found = compileAndRun(
    ['stdio.h', 'asm/unistd_64.h'],
    new Map(names.map((name) => [name, `__NR_${name}`])),
  );
  const known = Object.fromEntries(Object.entries(numbers).filter(([name]) => found.has(name)));
  assert.ok(Object.keys(known).length > 70);
  assert.deepEqual(
    Object.fromEntries(found),
    Object.fromEntries(Object.entries(known).map(([name, number]) => [name, String(number)])),
  );
});

test('constants are those of the headers', () => {
  const constants = new Map<string, number | bigint>();
  for (const group of Object.values(uapi)) {
    if (typeof group === 'object')
      for (const [name, value] of Object.entries(group)) constants.set(name, value);
  }
  // A name of ours, not of the headers; and one that glibc and the kernel have as different macros.
  const headers = [
    'stdio.h',
    'sys/ptrace.h',
    'elf.h',
    'sys/wait.h',
    'fcntl.h',
    'sys/file.h',
    'sys/mman.h',
    'sched.h',
    'linux/kcmp.h',
    'sys/mount.h',
    'sys/prctl.h',
    'linux/capability.h',
    'sys/ioctl.h',
    'poll.h',
    'sys/epoll.h',
    'signal.h',
  ];
  const found = compileAndRun(headers, new Map([...constants.keys()].map((name) => [name, name])));
  const compared = [...found].filter(([name]) => constants.has(name));
  assert.ok(compared.length > 90, `${compared.length} of ${constants.size} are known to the headers`);
  for (const [name, value] of compared) assert.equal(String(constants.get(name)), value, name);
});
