import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { findProgram, Job, STASIS, skipUnlessRoot, workload } from './job.js';

/** Programs that have themselves checkpointed, and then tell who they are and how that ended. */
const SHELL = `
n=$((20 + 3))
${STASIS} checkpoint --restart-marker marker -o me.stasis $$
status=$?
if [ -e marker ]; then who=restarted; else who=original; fi
echo "$who $status $n" >> log
`;

const PYTHON = `
import os, signal, subprocess, time
told = []
signal.signal(signal.SIGCHLD, lambda *_: told.append(1))
child = subprocess.Popen(['${STASIS}', 'checkpoint', '--restart-marker', 'marker', '-o', 'me.stasis', str(os.getpid())])
while not told: time.sleep(0.01)
who = 'restarted' if os.path.exists('marker') else 'original'
print(who, child.wait(), 23, file=open('log', 'a'))
`;

/** Nobody but stasis has the other ends of the pipes from which its output is read. */
const CAPTURED = `
import os, subprocess
command = ['${STASIS}', 'checkpoint', '--restart-marker', 'marker', '-o', 'me.stasis', str(os.getpid())]
ended = subprocess.run(command, capture_output=True, text=True)
who = 'restarted' if os.path.exists('marker') else 'original'
print(who, ended.returncode, len(ended.stdout) + len(ended.stderr) + 23, file=open('log', 'a'))
`;

const SUBSTITUTED = `
out=$(${STASIS} checkpoint --restart-marker marker -o me.stasis $$ 2>&1 | tee out)
status=$?
if [ -e marker ]; then who=restarted; else who=original; fi
echo "$who $status 23" >> log
`;

interface Program {
  /** Its name by default. */
  readonly command?: string;
  readonly script: string;
  readonly args: readonly string[];
  readonly container?: boolean;
}

const PROGRAMS: Readonly<Record<string, Program>> = {
  sh: { script: SHELL, args: ['-e'] },
  bash: { script: SHELL, args: [] },
  // Somebody between the program and stasis.
  env: { script: SHELL.replaceAll(STASIS, `nice -n 1 sh -c '"$@"; exit $?' sh ${STASIS}`), args: ['sh'] },
  python3: { script: PYTHON, args: [] },
  'python3 with captured output': { command: 'python3', script: CAPTURED, args: [] },
  // The init of a pid namespace, in which stasis runs as well.
  'sh in a container': { command: 'sh', script: SHELL, args: ['-e'], container: true },
  'bash with captured output': { command: 'bash', script: SUBSTITUTED, args: [] },
};

for (const [name, { command = name, script, args, container }] of Object.entries(PROGRAMS)) {
  const skip = skipUnlessRoot || (findProgram(command) === undefined ? `there is no ${command} here` : false);
  test(`${name} has itself checkpointed, and goes on twice`, { skip }, async () => {
    await using job = new Job();
    writeFileSync(job.path('script'), script);
    if (container) job.start(workload('contain'), [command, ...args, 'script']);
    else job.start(command, [...args, 'script']);
    assert.equal(await job.end, 0, readFileSync(job.path('err'), 'utf8'));
    const wanted = ['original 0 23'];
    assert.deepEqual(lines(job), wanted);
    assert.ok(!existsSync(job.path('marker')));
    for (let time = 0; time < 2; time++) {
      const { status, stderr } = spawnSync(STASIS, ['restart', job.path('me.stasis')], {
        encoding: 'utf8',
        timeout: 20_000,
      });
      assert.equal(status, 0, stderr);
      wanted.push('restarted 0 23');
      assert.deepEqual(lines(job), wanted);
    }
  });
}

function lines(job: Job): string[] {
  return readFileSync(job.path('log'), 'utf8').trim().split('\n');
}
