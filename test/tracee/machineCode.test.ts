import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Assembler, CALL_CODE_SIZE } from '../../src/tracee/arch/x86_64/machineCode.js';
import { Registers } from '../../src/tracee/arch/x86_64/registers.js';

const skip = spawnSync('objdump', ['--version']).status === 0 ? false : 'objdump is not on this machine';

/** What objdump reads in the code, one instruction a line. */
function disassemble(write: (assembler: Assembler) => void): string[] {
  const assembler = new Assembler(Buffer.alloc(4096));
  write(assembler);
  const directory = mkdtempSync(join(tmpdir(), 'stasis-code-'));
  try {
    const path = join(directory, 'code');
    writeFileSync(path, assembler.bytes.subarray(0, assembler.length));
    const args = ['-D', '-b', 'binary', '-m', 'i386:x86-64', '-M', 'intel', '--no-show-raw-insn', path];
    return execFileSync('objdump', args, { encoding: 'utf8' })
      .split('\n')
      .map((line) => /^ *[0-9a-f]+:\t(.*)$/.exec(line)?.[1]?.trim().replace(/\s+/g, ' '))
      .filter((line) => line !== undefined);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test('a system call loads its arguments by the shortest move', { skip }, () => {
  assert.deepEqual(
    disassemble((assembler) => assembler.systemCall(9, [1n, 0x1_0000_0000n, 3n, 0x22n, -1n, 0n])),
    [
      'mov edi,0x1',
      'movabs rsi,0x100000000',
      'mov edx,0x3',
      'mov r10d,0x22',
      'movabs r8,0xffffffffffffffff',
      'mov r9d,0x0',
      'mov eax,0x9',
      'syscall',
    ],
  );
});

test('results are stored, loaded, moved and compared', { skip }, () => {
  assert.deepEqual(
    disassemble((assembler) =>
      assembler
        .storeResult(0x1122334455667788n)
        .loadAbsolute('r10', 0x1122334455667788n)
        .moveResult('r12')
        .jumpToEndOnError()
        .popFlags()
        .jumpBack(39)
        .markEnd(),
    ),
    [
      'movabs ds:0x1122334455667788,rax',
      'movabs rax,ds:0x1122334455667788',
      'mov r10,rax',
      'mov r12,rax',
      'cmp rax,0xfffffffffffff001',
      'jae 0x29',
      'popf',
      'jmp 0x27',
    ],
  );
});

test('all registers are restored, and the code goes on where it was', { skip }, () => {
  const registers = new Registers().set('rip', 0x7f1234567890n).set('rsp', 0x7ffc00000000n).set('r15', 15n);
  const lines = disassemble((assembler) => assembler.restoreRegisters(registers));
  assert.equal(lines.filter((line) => line.startsWith('mov')).length, 16);
  assert.ok(lines.includes('movabs rsp,0x7ffc00000000'));
  assert.ok(lines.includes('mov r15d,0xf'));
  assert.match(lines[16] ?? '', /^jmp QWORD PTR \[rip\+0x0\]/);
});

test('one call with everything takes no more than its share of the scratch area', () => {
  const assembler = new Assembler(Buffer.alloc(4096));
  for (const register of ['rdi', 'rsi', 'rdx', 'r10', 'r8', 'r9'] as const) {
    assembler.loadAbsolute(register, 0x1122334455667788n);
  }
  assembler.moveImmediate('rax', 0xffffffffn).syscall().storeResult(1n).jumpToEndOnError();
  assert.ok(assembler.length <= CALL_CODE_SIZE, `${assembler.length} bytes`);
});
