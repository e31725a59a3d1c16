import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { findProgram, Job, STASIS, skipUnlessRoot, sleep } from './job.js';

/** A real program, as its users run it, whose output does not depend on when it is interrupted. */
interface Program {
  /** What has to be on the machine. */
  readonly needs: readonly string[];
  readonly command: readonly [string, ...string[]];
  /** Makes the files that it works on. */
  prepare?(directory: string): void;
  /** How long it runs undisturbed, milliseconds, about: checkpoints are made within that time. */
  readonly runsMs: number;
  /** The files that have to be as after an undisturbed run. */
  readonly results: readonly string[];
}

const PYTHON = `
import mmap, os, struct, threading, time
shared = mmap.mmap(-1, 4096)
lock = threading.Lock()
total = 0
def add(n):
    global total
    for i in range(n):
        with lock:
            total += i
        if i % 50 == 0:
            time.sleep(0.001)
children = []
for c in range(2):
    pid = os.fork()
    if pid == 0:
        for i in range(1, 300):
            shared[c * 8:c * 8 + 8] = struct.pack('q', i * (c + 1))
            time.sleep(0.002)
        os._exit(7)
    children.append(pid)
threads = [threading.Thread(target=add, args=(5000,)) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(total, codes, struct.unpack('qq', shared[:16]), flush=True)
`;

const PERL = `
my %seen; my $sum = 0; $| = 1;
$SIG{ALRM} = sub { $main::alarms++ };
for my $i (1 .. 400) {
  my $key = $i * 7919 % 1009; $seen{$key}++; $sum += $key;
  select(undef, undef, undef, 0.002); print "$i\\n" if $i % 50 == 0;
}
open(my $out, '>', 'sum') or die; print $out join(',', $sum, scalar(keys %seen)), "\\n"; close $out;
`;

const POOL = `
import concurrent.futures, time
def work(n):
    time.sleep(0.004)
    return sum(i * i % 7 for i in range(n * 40))
if __name__ == '__main__':
    with concurrent.futures.ProcessPoolExecutor(max_workers=3) as pool:
        print(sum(pool.map(work, range(500))), flush=True)
`;

/** Background groups, one of them stopped for a while, and a trap. */
const JOB_CONTROL = `
set -m
trap 'echo usr1 >> status' USR1
(for i in $(seq 80); do echo $i; sleep 0.005; done > a; exit 3) & a=$!
(for i in $(seq 80); do echo $i; sleep 0.005; done > b; exit 4) & b=$!
kill -STOP $b
while jobs | grep -q 'Running.*> b'; do sleep 0.005; done
jobs | sed 's/[+-]//' | cut -c1-14 >> status
wait $a; echo "a $?" >> status
kill -CONT $b
kill -USR1 $$
while wait $b; code=$?; [ $code -gt 128 ]; do :; done; echo "b $code" >> status
(exit 5) | cat; echo "$? \${PIPESTATUS[0]}" >> status
`;

const DASH = `
count=0
trap 'count=$((count + 1))' ALRM
work() { i=0; while [ $i -lt 150 ]; do i=$((i + 1)); echo "$1 $i"; sleep 0.003; done; return $2; }
work one 3 > one & first=$!
work two 4 > two & second=$!
for i in 1 2 3 4 5; do kill -ALRM $$; sleep 0.1; done
wait $first; echo "$?" >> status
wait $second; echo "$?" >> status
echo "$count" >> status
`;

/** Children that are waited for late, and an alarm that comes again and again. */
const ZOMBIES = `
use Time::HiRes qw(ualarm sleep); $| = 1;
my ($alarms, @children) = (0);
$SIG{ALRM} = sub { $alarms++ };
ualarm(20_000, 20_000);
for my $n (1 .. 12) {
  my $pid = fork(); if (!$pid) { $SIG{ALRM} = 'IGNORE'; exit $n }
  push @children, $pid;
}
my $sum = 0;
for my $i (1 .. 200) { sleep(0.003); $sum += $i * 31 % 17 }
my @codes = map { waitpid($_, 0); $? >> 8 } @children;
open(my $out, '>', 'codes') or die; print $out join(',', $sum, @codes, $alarms > 5 ? 'alarms' : 'none'), "\\n"; close $out;
`;

const NODE = `
import { createHash } from 'node:crypto';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';

const hash = (text) => createHash('sha256').update(text).digest('hex');
if (isMainThread) {
  let signals = 0;
  process.on('SIGUSR2', () => signals++);
  const worker = new Worker(new URL(import.meta.url));
  const hashed = new Promise((resolve) => worker.once('message', resolve));
  for (let i = 0; i < 150; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    await appendFile('lines', i + ' ' + hash('line ' + i) + '\\n');
    if (i % 10 === 0) process.kill(process.pid, 'SIGUSR2');
  }
  const lines = hash(await readFile('lines'));
  await writeFile('sum', [lines, await hashed, signals > 5].join('\\n'));
} else {
  let last = '';
  for (let i = 0; i < 60000; i++) last = hash(last + i);
  parentPort.postMessage(last);
}
`;

const GO = `
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	signals := make(chan os.Signal, 100)
	signal.Notify(signals, syscall.SIGUSR1)
	var told int64
	go func() {
		for range signals {
			atomic.AddInt64(&told, 1)
		}
	}()
	reader, writer, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	go func() {
		for n := 0; n < 200; n++ {
			time.Sleep(2 * time.Millisecond)
			fmt.Fprintln(writer, n)
		}
		writer.Close()
	}()
	lines := make(chan int)
	go func() {
		sum := 0
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			n, _ := strconv.Atoi(scanner.Text())
			sum += n
		}
		lines <- sum
	}()
	ticker, ticks := time.NewTicker(5*time.Millisecond), int64(0)
	go func() {
		for range ticker.C {
			atomic.AddInt64(&ticks, 1)
		}
	}()
	sums := make([]uint64, 64)
	results := make(chan int)
	var group sync.WaitGroup
	for g := range sums {
		group.Add(1)
		go func(g int) {
			defer group.Done()
			var words [][]byte
			for i := uint64(1); i < 9_000_000; i++ {
				sums[g] = sums[g]*31 + i%uint64(g+7)
				if i%1000 == 0 {
					words = append(words, make([]byte, 1000))[len(words)/10:]
				}
				if i%3_000_000 == 0 {
					results <- g
				}
			}
		}(g)
	}
	go func() { group.Wait(); close(results) }()
	count := 0
	for range results {
		count++
		syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	}
	total := uint64(0)
	for _, sum := range sums {
		total ^= sum
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	fmt.Println(count, total, <-lines, atomic.LoadInt64(&told) > 0, atomic.LoadInt64(&ticks) > 10, memory.NumGC > 10)
}
`;

const SQL = `
create table t (n integer primary key, x integer);
begin;
insert into t with recursive c(n) as (select 1 union all select n + 1 from c where n < 400000) select n, n * n % 7919 from c;
update t set x = x + (select count(*) from t as u where u.n % 1000 = t.n % 1000 and u.n < 6000) where n < 5000;
select count(*), sum(x) from t;
commit;
select sum(n * x) from t;
`;

const MAKEFILE = `
objects = $(patsubst %.c,%.o,$(wildcard part*.c))
all: objects.sums
objects.sums: $(objects)
\tcat $(sort $^) | cksum > $@
%.o: %.c
\tcc -O2 -frandom-seed=1 -c -o $@ $<
`;

const PROGRAMS: Readonly<Record<string, Program>> = {
  'a bash script with a pipeline into gzip': {
    needs: ['bash', 'gzip', 'seq'],
    command: ['bash', 'script.sh'],
    prepare(directory) {
      const script =
        'for i in $(seq 150); do echo "line $i $((i * i))"; sleep 0.003; done | gzip -n > out.gz; echo "${PIPESTATUS[@]}" > status\n';
      writeFileSync(join(directory, 'script.sh'), script);
    },
    runsMs: 900,
    results: ['out.gz', 'status'],
  },
  'python3 with threads, a lock and a shared mmap between forked children': {
    needs: ['python3'],
    command: [pythonPath(), 'program.py'],
    prepare: (directory) => writeFileSync(join(directory, 'program.py'), PYTHON),
    runsMs: 800,
    results: ['out'],
  },
  'node with timers, a thread pool, a worker and signals': {
    needs: [],
    command: [process.execPath, 'program.mjs'],
    prepare: (directory) => writeFileSync(join(directory, 'program.mjs'), NODE),
    runsMs: 900,
    results: ['lines', 'sum'],
  },
  perl: {
    needs: ['perl'],
    command: ['perl', 'program.pl'],
    prepare: (directory) => writeFileSync(join(directory, 'program.pl'), PERL),
    runsMs: 900,
    results: ['out', 'sum'],
  },
  'python3 with a process pool': {
    needs: ['python3'],
    command: [pythonPath(), 'pool.py'],
    prepare: (directory) => writeFileSync(join(directory, 'pool.py'), POOL),
    runsMs: 700,
    results: ['out'],
  },
  'bash with job control': {
    needs: ['bash', 'seq'],
    command: ['bash', 'script.sh'],
    prepare: (directory) => writeFileSync(join(directory, 'script.sh'), JOB_CONTROL),
    runsMs: 900,
    results: ['a', 'b', 'status'],
  },
  'dash with background jobs and a trap': {
    needs: ['dash'],
    command: ['dash', 'script.sh'],
    prepare: (directory) => writeFileSync(join(directory, 'script.sh'), DASH),
    runsMs: 900,
    results: ['one', 'two', 'status'],
  },
  'perl with an alarm and zombies': {
    needs: ['perl'],
    command: ['perl', 'program.pl'],
    prepare: (directory) => writeFileSync(join(directory, 'program.pl'), ZOMBIES),
    runsMs: 600,
    results: ['codes'],
  },
  'Go with goroutines, garbage, signals, timers and a pipe': {
    needs: ['go'],
    command: ['./program'],
    prepare: (directory) => buildGo(directory),
    runsMs: 900,
    results: ['out'],
  },
  'go build with compilers and a linker': {
    needs: ['go'],
    command: ['sh', '-c', 'HOME=$PWD GOCACHE=$PWD/cache exec go build -a -trimpath -o built small.go'],
    prepare: (directory) =>
      writeFileSync(join(directory, 'small.go'), 'package main\nfunc main() { println("small") }\n'),
    runsMs: 900,
    results: ['built'],
  },
  'xz -T2': {
    needs: ['xz'],
    command: ['xz', '-T2', '-1', '-k', '--block-size=1MiB', 'data'],
    prepare: (directory) => writeFileSync(join(directory, 'data'), pseudoRandomText(6 << 20)),
    runsMs: 900,
    results: ['data.xz'],
  },
  'make -j2 on a C project': {
    needs: ['make', 'cc'],
    command: ['make', '-j2'],
    prepare(directory) {
      writeFileSync(join(directory, 'Makefile'), MAKEFILE);
      for (let i = 0; i < 48; i++) {
        writeFileSync(
          join(directory, `part${i}.c`),
          `#include <stdio.h>\nint part${i}(int x) { return x * ${i} + printf("%d", x); }\n`,
        );
      }
    },
    runsMs: 900,
    results: ['objects.sums'],
  },
  'sqlite3 in the middle of a transaction': {
    needs: ['sqlite3'],
    command: ['sqlite3', '-init', 'program.sql', 'data.db', '.quit'],
    prepare: (directory) => writeFileSync(join(directory, 'program.sql'), SQL),
    runsMs: 700,
    results: ['out'],
  },
};

/** Parts of the undisturbed time after which a run is interrupted. */
const MOMENTS = [0.1, 0.3, 0.55];

for (const [name, program] of Object.entries(PROGRAMS)) {
  const missing = program.needs.filter((needed) => findProgram(needed) === undefined);
  const skip = skipUnlessRoot || (missing.length > 0 && `${missing.join(', ')} is not on this machine`);
  test(`${name}: checkpointed, killed and restarted at several moments`, { skip }, async () => {
    await using undisturbed = startProgram(program);
    const started = Date.now();
    assert.equal(await undisturbed.end, 0, undisturbed.read('err'));
    const took = Date.now() - started;
    const wanted = resultsOf(undisturbed, program);
    let interrupted = 0;
    for (const moment of MOMENTS) {
      await using job = startProgram(program);
      await sleep(moment * took);
      if (await checkpointByCommand(job)) {
        interrupted++;
        restartByCommand(job);
      } else await job.end;
      assert.deepEqual(resultsOf(job, program), wanted, `interrupted after ${moment * took} ms`);
    }
    assert.ok(interrupted >= 2, `${interrupted} runs were interrupted before they were done`);
  });
}

test('an image goes through a pipe and a compressor', { skip: skipUnlessRoot || needs('zstd') }, async () => {
  await using job = await new Job().startWorkload('pipes');
  const script = `${process.execPath} ${STASIS} checkpoint --kill ${job.pid} | zstd -q | zstd -dq | ${process.execPath} ${STASIS} restart --copy-status`;
  const pipeline = spawn('/bin/sh', ['-c', script], { stdio: ['ignore', 'ignore', 'pipe'] });
  let errors = '';
  pipeline.stderr.on('data', (text) => {
    errors += text;
  });
  const ended = new Promise((resolve) => pipeline.on('exit', resolve));
  await job.end;
  await sleep(100);
  job.stop();
  assert.equal(await job.result(), 'PASS');
  assert.equal(await ended, 0, errors);
});

test('restart passes the exit status and signals on', { skip: skipUnlessRoot }, async (context) => {
  const restarted = async (script: string, act: (pid: number) => void): Promise<unknown> => {
    await using job = new Job();
    job.start('/bin/sh', ['-c', script]);
    await job.until(() => readdirSync(job.directory).includes('ready'), 'ready');
    assert.ok(await checkpointByCommand(job));
    const stasis = spawn(process.execPath, [STASIS, 'restart', '--copy-status', job.image], {
      stdio: 'ignore',
    });
    const ended = new Promise((resolve) => stasis.on('exit', (code, signal) => resolve(code ?? signal)));
    await sleep(250);
    act(stasis.pid ?? 0);
    job.stop();
    return await ended;
  };
  const wait = 'touch ready; until [ -e stop ]; do sleep 0.01; done;';
  await context.test('a status', async () => {
    assert.equal(await restarted(`${wait} exit 42`, () => undefined), 42);
  });
  await context.test('a deadly signal', async () => {
    assert.equal(await restarted(`${wait} kill -KILL $$`, () => undefined), 'SIGKILL');
  });
  await context.test('a signal that the program handles', async () => {
    const script = `trap 'exit 9' TERM; touch ready; while :; do sleep 0.01; done`;
    assert.equal(await restarted(script, (pid) => process.kill(pid, 'SIGTERM')), 9);
  });
  await context.test('--detach prints the pid and leaves', async () => {
    await using job = await new Job().startWorkload('eventfds');
    const { pid } = job;
    assert.ok(await checkpointByCommand(job));
    const { stdout, status } = spawnSync(STASIS, ['restart', '--detach', job.image], { encoding: 'utf8' });
    assert.equal(status, 0);
    assert.equal(stdout, `${pid}\n`);
    job.stop();
    assert.equal(await job.result(), 'PASS');
  });
});

let goProgram: Buffer | undefined;

/** Built once. */
function buildGo(directory: string): void {
  const path = join(directory, 'program');
  if (goProgram === undefined) {
    writeFileSync(join(directory, 'program.go'), GO);
    execFileSync('go', ['build', '-o', path, 'program.go'], {
      cwd: directory,
      env: { ...process.env, GOCACHE: join(directory, 'cache'), HOME: directory },
    });
    goProgram = readFileSync(path);
  }
  writeFileSync(path, goProgram, { mode: 0o755 });
}

function startProgram(program: Program): Job {
  const job = new Job();
  mkdirSync(job.directory, { recursive: true });
  program.prepare?.(job.directory);
  const [command, ...args] = program.command;
  return job.start(command, args);
}

/** Tries again while the tree has, for a moment, what is not supported; false when it has ended before. */
async function checkpointByCommand(job: Job): Promise<boolean> {
  for (let tries = 0; tries < 100; tries++) {
    const { status, stderr } = spawnSync(STASIS, ['checkpoint', '-o', job.image, '--kill', String(job.pid)], {
      encoding: 'utf8',
    });
    if (status === 0) {
      assert.equal(await job.end, 'SIGKILL');
      return true;
    }
    if (/there is no process|it has ended/.test(stderr) && !isAlive(job.pid)) return false;
    assert.match(stderr, /did not stop/, stderr);
    await sleep(5);
  }
  return assert.fail('no moment without anything unsupported');
}

function restartByCommand(job: Job): void {
  const { status, stderr } = spawnSync(STASIS, ['restart', '--copy-status', job.image], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  assert.equal(status, 0, stderr);
}

function isAlive(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'latin1').includes(') Z ');
  } catch {
    return false;
  }
}

function resultsOf(job: Job, { results }: Program): Record<string, string> {
  return Object.fromEntries(
    results.map((name) => {
      const path = job.path(name);
      const digest = createHash('sha256').update(readFileSync(path)).digest('hex');
      return [name, `${statSync(path).size} ${digest}`];
    }),
  );
}

/** Text that compresses, but not to nothing. */
function pseudoRandomText(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let state = 1;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    bytes[i] = 97 + ((state >>> 16) % 20);
  }
  return bytes;
}

function needs(name: string): string | false {
  return findProgram(name) === undefined ? `${name} is not on this machine` : false;
}

/** The interpreter itself: what is called python3 may be a script that looks for it. */
function pythonPath(): string {
  if (findProgram('python3') === undefined) return 'python3';
  return execFileSync('python3', ['-c', 'import sys; print(sys.executable)'], { encoding: 'utf8' }).trim();
}
