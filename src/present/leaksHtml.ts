import { formatHolder, type Leak } from '../errors.js';
import type { LeakReport } from '../leaks.js';
import { PAGE_SCRIPT } from './leaksPageScript.js';
import { PAGE_STYLE } from './leaksPageStyle.js';
import { countText } from './text.js';

const ROW_HEIGHT = 44;
const PICTURE_WIDTH = 960;
const INSIDE_X = 20;
const OBJECT_X = 360;
const BORDER_X = 480;
const OUTSIDE_X = 700;
const BOX_WIDTH = 240;

/** One self-contained page about what leaks: it needs no network. */
export function leaksHtml(report: LeakReport): string {
  const open = report.leaks.filter(({ harmless, allowed }) => !harmless && !allowed);
  const verdict = report.contained ? 'contained' : `not contained: ${countText(open.length, 'leak')}`;
  const what = `${report.container ? 'container' : 'tree'} ${report.pid}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>stasis leaks: ${escapeText(what)}, ${escapeText(verdict)}</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
<header class="${report.contained ? 'good' : 'bad'}">
<h1>${escapeText(verdict)}</h1>
<p>${escapeText(what)}: ${countText(report.processes.length, 'process', 'processes')}, ${countText(report.objects, 'kernel object')}${report.method === 'bpf' ? ", compared with the kernel's own counts" : ', seen by /proc and kcmp only'}</p>
</header>
<main>
<section><h2>Processes inside</h2><ul class="tree">${tree(report)}</ul></section>
<section><h2>What crosses the border</h2>${picture(report)}</section>
<section>
<h2>All that is shared</h2>
<form id="filter">
<input id="search" type="search" placeholder="search: path, pid, command, kind" aria-label="search">
<label><input type="checkbox" name="leak" checked> leaks</label>
<label><input type="checkbox" name="allowed" checked> accepted</label>
<label><input type="checkbox" name="harmless"> harmless</label>
<output id="shown"></output>
</form>
<div id="leaks">${report.leaks.map(card).join('\n')}</div>
</section>
<section><h2>Not verified</h2>${unverified(report)}</section>
</main>
<script>${PAGE_SCRIPT}</script>
</body>
</html>
`;
}

function tree({ processes }: LeakReport): string {
  const inside = new Set(processes.map(({ pid }) => pid));
  const children = new Map<number, LeakReport['processes'][number][]>();
  for (const process of processes) {
    const parent = inside.has(process.parent) && process.parent !== process.pid ? process.parent : 0;
    const known = children.get(parent);
    if (known === undefined) children.set(parent, [process]);
    else known.push(process);
  }
  const below = (parent: number): string =>
    (children.get(parent) ?? [])
      .map(({ pid, comm, threads }) => {
        const more = threads > 1 ? `, ${threads} threads` : '';
        const inner = children.has(pid) ? `<ul>${below(pid)}</ul>` : '';
        return `<li><b>${pid}</b> ${escapeText(comm)}${more}${inner}</li>`;
      })
      .join('');
  return below(0);
}

/** Inside on the left, objects on the border, holders outside on the right. */
function picture({ leaks }: LeakReport): string {
  const crossing = leaks.filter(({ harmless }) => !harmless);
  if (crossing.length === 0) return '<p class="empty">Nothing that matters crosses the border.</p>';
  const insides = unique(crossing.flatMap(({ inside }) => inside.map(processText)));
  const outsides = unique(
    crossing.flatMap(({ outside, hidden }) => [
      ...outside.map(processText),
      ...(hidden > 0 ? ['hidden references'] : []),
    ]),
  );
  const rows = Math.max(insides.length, outsides.length, crossing.length);
  const height = rows * ROW_HEIGHT + 40;
  const y = (index: number, count: number): number =>
    40 + ((index + 0.5) * (height - 40)) / Math.max(1, count);
  const lines: string[] = [];
  const boxes: string[] = [];
  crossing.forEach((leak, index) => {
    const at = y(index, crossing.length);
    const tone = leak.allowed ? 'allowed' : 'leak';
    for (const name of unique(leak.inside.map(processText))) {
      lines.push(curve(INSIDE_X + BOX_WIDTH, y(insides.indexOf(name), insides.length), OBJECT_X, at, tone));
    }
    const others = unique([
      ...leak.outside.map(processText),
      ...(leak.hidden > 0 ? ['hidden references'] : []),
    ]);
    for (const name of others) {
      lines.push(
        curve(OBJECT_X + BOX_WIDTH, at, OUTSIDE_X, y(outsides.indexOf(name), outsides.length), tone),
      );
    }
    boxes.push(box(OBJECT_X, at, `${leak.kind} ${leak.name}`, tone));
  });
  insides.forEach((name, index) => {
    boxes.push(box(INSIDE_X, y(index, insides.length), name, 'inside'));
  });
  outsides.forEach((name, index) => {
    boxes.push(box(OUTSIDE_X, y(index, outsides.length), name, 'outside'));
  });
  return `<div class="picture"><svg viewBox="0 0 ${PICTURE_WIDTH} ${height}" role="img" aria-label="inside, shared objects, outside">
<text x="${INSIDE_X}" y="22" class="title">inside</text><text x="${OBJECT_X}" y="22" class="title">shared object</text><text x="${OUTSIDE_X}" y="22" class="title">outside</text>
<line x1="${BORDER_X}" y1="30" x2="${BORDER_X}" y2="${height}" class="border"/>
${lines.join('')}${boxes.join('')}
</svg></div>`;
}

function box(x: number, y: number, text: string, tone: string): string {
  const shown = text.length > 30 ? `${text.slice(0, 12)}…${text.slice(-17)}` : text;
  return `<g class="${tone}"><title>${escapeText(text)}</title><rect x="${x}" y="${y - 15}" width="${BOX_WIDTH}" height="30" rx="6"/><text x="${x + 10}" y="${y + 5}">${escapeText(shown)}</text></g>`;
}

function curve(x1: number, y1: number, x2: number, y2: number, tone: string): string {
  const middle = (x1 + x2) / 2;
  return `<path class="${tone}" d="M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}"/>`;
}

function card(leak: Leak): string {
  const tone = leak.harmless ? 'harmless' : leak.allowed ? 'allowed' : 'leak';
  const seen =
    leak.kernelCount === undefined ? '' : String(leak.kernelCount - leak.users - leak.own - leak.hidden);
  return `<article class="${tone}" data-tone="${tone}">
<h3><span>${escapeText(leak.kind)}</span> ${escapeText(leak.name)}</h3>
<p>${escapeText(leak.meaning)}</p>
<dl>
<dt>counted</dt><dd>${leak.kernelCount === undefined ? 'not by the kernel' : `${leak.kernelCount} in the kernel = ${leak.users} inside + ${seen} outside + ${leak.hidden} hidden${leak.own > 0 ? ` + ${leak.own} of stasis itself` : ''}`}</dd>
${entry('inside', leak.inside.map(formatHolder))}
${entry('outside', leak.outside.map(formatHolder))}
${entry('hidden', leak.hiddenIn)}
${entry('what to do', leak.harmless ? [] : [leak.advice])}
${leak.harmless ? '' : `<dt>accept</dt><dd><code>--allow-leak '${escapeText(leak.key)}'</code></dd>`}
</dl>
</article>`;
}

function entry(name: string, items: readonly string[]): string {
  return items.length === 0 ? '' : `<dt>${name}</dt><dd>${items.map(escapeText).join('<br>')}</dd>`;
}

function unverified({ notVerified }: LeakReport): string {
  if (notVerified.length === 0) return '<p class="empty">Every kind could be compared.</p>';
  const rows = notVerified.map(
    ({ kind, reason }) => `<tr><td>${escapeText(kind)}</td><td>${escapeText(reason)}</td></tr>`,
  );
  return `<p>Of these kinds only visible holders are known.</p><table>${rows.join('')}</table>`;
}

function processText({ pid, comm }: { readonly pid: number; readonly comm: string }): string {
  return `${pid} ${comm}`;
}

function unique(texts: readonly string[]): string[] {
  return [...new Set(texts)];
}

/** Names of files and commands may hold anything. */
function escapeText(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
