import type { Obstacle } from '../../errors.js';
import type { VerifyContext } from '../../objects/slice.js';
import { readVdso } from '../../objects/vdso.js';
import { commandOf } from '../../procfs/describe.js';
import { readProcIfAlive } from '../../procfs/read.js';
import { parseStat } from '../../procfs/stat.js';
import type { LoadedImage } from '../loadImage.js';
import { verifyMappedFile } from '../mm/mappedFile.js';

/** Looks for everything that keeps an image from being restarted on this machine as it is now. */
export function verifyImage(image: LoadedImage, context: VerifyContext): Obstacle[] {
  return [
    ...verifyVdso(image),
    ...verifyPids(image),
    ...[...image.mappedFiles.values()].flatMap((file) => verifyMappedFile(file, context.force)),
    ...[...image.files.values()].flatMap((file) => file.verify(context)),
    ...image.processes.flatMap(({ message, states, threads }) => [
      ...states.flatMap((state) => state.verify(message.pid)),
      ...threads.flatMap((thread) => thread.states.flatMap((state) => state.verify(thread.message.tid))),
    ]),
  ];
}

/** All task ids of an image. */
export function tidsOf(image: LoadedImage): number[] {
  return image.processes.flatMap(({ message }) => message.threads.map(({ tid }) => tid));
}

/** Task ids of the image that tasks of this machine have. */
export function takenTids(image: LoadedImage): number[] {
  return tidsOf(image).filter((tid) => readProcIfAlive(`/proc/${tid}/stat`) !== undefined);
}

function verifyPids(image: LoadedImage): Obstacle[] {
  return takenTids(image).flatMap((tid) => {
    const text = readProcIfAlive(`/proc/${tid}/stat`);
    if (text === undefined) return [];
    const stat = parseStat(text);
    const command = commandOf(tid) ?? stat.comm;
    if (stat.state === 'Z') {
      return [
        {
          pid: tid,
          what: `the pid is taken by a zombie, ${command}`,
          advice: `its parent ${stat.parent} (${commandOf(stat.parent) ?? 'gone'}) has to wait for it, or to end`,
        },
      ];
    }
    return [
      {
        pid: tid,
        what: `the pid is taken by ${command}`,
        advice: 'end that process, or wait until it has ended',
      },
    ];
  });
}

/** Code of the vdso is in the middle of running, or pointed at, in any process. */
function verifyVdso({ header }: LoadedImage): Obstacle[] {
  if (header.vdsoSize === 0) return [];
  const own = readVdso();
  if (own !== undefined && Buffer.from(header.vdsoSha256).equals(own.sha256)) return [];
  return [
    {
      where: 'vdso',
      what: `this kernel's vdso is not that of ${header.kernelRelease}, where the image was made`,
      advice: 'restart it under that kernel',
    },
  ];
}
