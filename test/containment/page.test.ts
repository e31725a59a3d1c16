import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { chromium } from 'playwright-core';
import type { LeakReport } from '../../src/leaks.js';
import { leaksHtml } from '../../src/present/leaksHtml.js';
import { Job, STASIS, skipWithoutBpf } from '../roundtrip/job.js';

const CHROMIUM = '/usr/bin/chromium';
const QUIET = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const skip = skipWithoutBpf || (existsSync(CHROMIUM) ? false : 'there is no /usr/bin/chromium');

test('the page about leaks works in a browser without a network', { skip }, async () => {
  await using job = await new Job().startWorkload('sharing', ['unix']);
  const { status } = spawnSync(process.execPath, [
    STASIS,
    'leaks',
    '--html',
    job.path('leaks.html'),
    job.read('inside'),
  ]);
  assert.equal(status, 3);
  await using browser = await chromium.launch({ executablePath: CHROMIUM, args: QUIET });
  const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('request', (request) => {
    if (!request.url().startsWith('file:')) problems.push(request.url());
  });
  await page.goto(`file://${job.path('leaks.html')}`);
  assert.match((await page.textContent('h1')) ?? '', /^not contained: 1 leak$/);
  assert.match((await page.textContent('.tree')) ?? '', new RegExp(`${job.read('inside')} sharing`));
  assert.equal(await page.locator('svg g.leak').count(), 1);
  assert.equal(await page.locator('svg g.outside').count(), 1);
  const visible = () => page.locator('#leaks article:visible').count();
  assert.equal(await visible(), 1, 'harmless ones are hidden at first');
  assert.match((await page.textContent('article.leak')) ?? '', /sharing\[\d+\] fd \d+ is connected to it/);
  await page.check('input[name=harmless]');
  assert.ok((await visible()) > 5);
  await page.fill('#search', 'libc.so');
  assert.equal(await visible(), 1);
  assert.match((await page.textContent('#shown')) ?? '', /^1 of \d+$/);
  await page.fill('#search', 'zzzz');
  assert.equal(await visible(), 0);
  await page.fill('#search', '');
  const background = () => page.evaluate('getComputedStyle(document.body).backgroundColor');
  const light = await background();
  await page.emulateMedia({ colorScheme: 'dark' });
  assert.notEqual(await background(), light);
  assert.deepEqual(problems, []);
  const shots = process.env.SCREENSHOTS;
  if (shots !== undefined) {
    await page.uncheck('input[name=harmless]');
    await page.screenshot({ path: `${shots}/dark.png`, fullPage: true });
    await page.emulateMedia({ colorScheme: 'light' });
    await page.screenshot({ path: `${shots}/light.png`, fullPage: true });
  }
  job.stop();
});

test('names from outside are text, and never markup', () => {
  const holder = { pid: 2, comm: '<script>alert(1)</script>', fd: 3 };
  const report: LeakReport = {
    contained: false,
    pid: 1,
    container: false,
    method: 'bpf',
    processes: [{ pid: 1, parent: 0, comm: '"><img src=x>', threads: 1 }],
    objects: 1,
    objectsByKind: { file: 1 },
    leaks: [
      {
        kind: 'file',
        name: '/tmp/<b>&\'"',
        key: 'file:/tmp/<b>',
        identity: '0x1',
        kernelCount: 2,
        users: 1,
        own: 0,
        inside: [holder],
        outside: [holder],
        hidden: 0,
        hiddenIn: [],
        harmless: false,
        allowed: false,
        meaning: '',
        advice: '',
      },
    ],
    notVerified: [],
    steps: [],
  };
  const html = leaksHtml(report);
  assert.doesNotMatch(html, /<img|<b>&|<script>alert/);
});
