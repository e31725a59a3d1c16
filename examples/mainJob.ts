/**
 * The main job, for real: xz compresses a generated file with two threads; in the middle it is checkpointed
 * and ended; restarted from the image, it goes on; its output equals that of an undisturbed run.
 */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, createReadStream, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkpoint, inspect, restart } from '../src/index.js';
import { checkpointText, restartText } from '../src/present/report.js';

const SIZE_MIB = 100;
const COMMAND = ['xz', '-T2', '-0', '--block-size=4MiB', '--stdout', '--keep'];

await main();

async function main(): Promise<void> {
  if (process.getuid?.() !== 0) {
    say('the main job needs root: checkpoint and restart hold processes by ptrace and choose pids; try sudo');
    process.exitCode = 1;
    return;
  }
  if (spawnSync('xz', ['--version']).status !== 0) {
    say('the main job needs xz: apt-get install xz-utils');
    process.exitCode = 1;
    return;
  }
  const directory = mkdtempSync(join(tmpdir(), 'stasis-main-job-'));
  try {
    await run(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function run(directory: string): Promise<void> {
  const data = join(directory, 'data');
  const image = join(directory, 'job.stasis');
  generate(data);
  say(`1. an undisturbed run of ${COMMAND.join(' ')} on ${SIZE_MIB} MiB`);
  const begin = performance.now();
  await compress(data, join(directory, 'undisturbed.xz')).ended;
  const took = performance.now() - begin;
  say(`   took ${(took / 1000).toFixed(1)} s`);

  say('2. the same again, checkpointed in the middle and ended');
  const output = join(directory, 'interrupted.xz');
  const job = compress(data, output);
  await new Promise((resolve) => setTimeout(resolve, took / 2));
  const saved = await checkpoint(job.pid, { output: image, kill: true });
  await job.ended;
  say(`   ${checkpointText(saved)}`);
  say(`   ${statSync(output).size} bytes were written until then; nothing of it runs any more`);
  const { processes, external } = await inspect(image);
  for (const { tid, name } of processes[0]?.threads ?? []) say(`   in the image: thread ${tid} ${name}`);

  say('3. restarted from the image, it goes on where it was');
  // Descriptors that lead outside, inherited from whoever started this: xz does not use them.
  const attach = Object.fromEntries(external.map((key) => [key, 'null']));
  const restarted = await restart({ input: image, attach });
  say(`   ${restartText(restarted)}`);
  const end = await restarted.wait();
  if (end.kind !== 'exited' || end.status !== 0) throw new Error(`xz ended with ${JSON.stringify(end)}`);

  const [wanted, got] = [await digest(join(directory, 'undisturbed.xz')), await digest(output)];
  say(`   undisturbed: ${wanted}\n   interrupted: ${got}`);
  if (wanted !== got) throw new Error('the outputs differ');
  say('the output equals that of the undisturbed run');
}

function compress(data: string, output: string): { pid: number; ended: Promise<unknown> } {
  const [command = 'xz', ...args] = COMMAND;
  const target = openSync(output, 'w');
  // In a session of its own, and without a terminal.
  const child = spawn(command, [...args, data], { stdio: ['ignore', target, 'ignore'], detached: true });
  closeSync(target);
  return { pid: child.pid ?? 0, ended: new Promise((resolve) => child.on('exit', resolve)) };
}

/** Text that compresses to about a half, the same every time. */
function generate(path: string): void {
  const fd = openSync(path, 'w');
  const block = Buffer.alloc(1 << 20);
  let state = 12345;
  for (let i = 0; i < SIZE_MIB; i++) {
    for (let at = 0; at < block.length; at++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      block[at] = 97 + ((state >>> 24) & 15);
    }
    writeSync(fd, block);
  }
  closeSync(fd);
}

async function digest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
