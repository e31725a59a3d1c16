import type { ImageDescription, ProcessDescription } from '../inspect.js';
import { bytesText, countText, indent, tableText } from './text.js';

/** What is in an image, for a person: summary, tree, then each process with its memory and descriptors. */
export function imageText(image: ImageDescription): string {
  return [
    summary(image),
    indent(treeText(image), 2),
    ...image.processes.map((process) => processText(process, image)),
    sharedText(image),
  ]
    .filter((part) => part !== '')
    .join('\n\n');
}

function summary(image: ImageDescription): string {
  const threads = image.processes.reduce((sum, process) => sum + process.threads.length, 0);
  const outside =
    image.external.length === 0
      ? 'nothing in it leads outside'
      : `leads outside: ${image.external.join(', ')} (restart --attach)`;
  return [
    `${countText(image.processes.length, 'process', 'processes')}, ${countText(threads, 'thread')}, ${bytesText(image.size)}`,
    `made ${image.createdAt} on ${image.hostname}, Linux ${image.kernelRelease}, by stasis ${image.stasisVersion}`,
    image.killed ? 'the original was ended' : 'the original went on',
    ...(image.container || image.innerPids
      ? [
          `${image.container ? 'a container' : 'from inside a container'}: restarted in a pid namespace of its own`,
        ]
      : []),
    outside,
  ].join('\n');
}

function treeText(image: ImageDescription): string {
  const lines: string[] = [];
  const add = (process: ProcessDescription, depth: number): void => {
    const stopped = process.stopped === 0 ? '' : ` (stopped by signal ${process.stopped})`;
    lines.push(`${'  '.repeat(depth)}${process.pid} ${process.command}${stopped}`);
    for (const child of image.processes) if (child.parent === process.pid) add(child, depth + 1);
    for (const { pid, parent, command, status } of image.zombies) {
      if (parent !== process.pid) continue;
      lines.push(`${'  '.repeat(depth + 1)}${pid} ${command} (ended ${endText(status)})`);
    }
  };
  const root = image.processes[0];
  if (root !== undefined) add(root, 0);
  return lines.join('\n');
}

/** A status word of wait4(2). */
function endText(status: number): string {
  return (status & 0x7f) === 0 ? `with status ${status >> 8}` : `by signal ${status & 0x7f}`;
}

function processText(process: ProcessDescription, image: ImageDescription): string {
  const led = (id: number): string => (id === 0 ? 'outside' : String(id));
  const threads = process.threads.map(({ tid, name }) => `${tid} ${name}`).join(', ');
  const memory = process.mappings.map(({ start, size, protection, name, saved }) => [
    start,
    bytesText(size),
    protection,
    saved === 0 ? '-' : bytesText(saved),
    name,
  ]);
  const parts = [
    `process ${process.pid}: ${process.command}`,
    `  group ${led(process.processGroup)}, session ${led(process.session)}, threads: ${threads}`,
    `  memory: ${bytesText(process.memory)} in the image`,
    indent(tableText([['from', 'size', 'prot', 'saved', 'what'], ...memory], [1, 3]), 4),
    `  descriptors:${process.descriptors.length === 0 ? ' none' : ''}`,
    indent(descriptorsText(process, image), 4),
  ];
  if (process.sharesDescriptorsWith.length > 0) {
    parts.push(`  its table of descriptors is also that of ${process.sharesDescriptorsWith.join(', ')}`);
  }
  return parts.filter((part) => part.trim() !== '').join('\n');
}

function descriptorsText(process: ProcessDescription, image: ImageDescription): string {
  const rows = process.descriptors.map(({ fd, closeOnExec, file }) => {
    const found = image.files.find(({ id }) => id === file);
    const others = (found?.users ?? [])
      .filter((user) => user.pid !== process.pid || user.fd !== fd)
      .map((user) => (user.pid === process.pid ? `fd ${user.fd}` : `${user.pid}:${user.fd}`));
    return [
      String(fd),
      closeOnExec ? 'cloexec' : '',
      found?.description ?? '',
      others.length === 0
        ? ''
        : `shared with ${others.slice(0, 6).join(', ')}${others.length > 6 ? ', …' : ''}`,
    ];
  });
  return tableText(rows, [0]);
}

function sharedText({ sharedMemory }: ImageDescription): string {
  if (sharedMemory.length === 0) return '';
  const rows = sharedMemory.map(({ id, size, saved, users }) => [
    `#${id}`,
    bytesText(size),
    `${bytesText(saved)} in the image`,
    `mapped by ${users.join(', ')}`,
  ]);
  return `shared memory:\n${indent(tableText(rows, [1]), 2)}`;
}
