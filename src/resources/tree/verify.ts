import type { Obstacle } from '../../errors.js';
import type { VerifyContext } from '../../objects/slice.js';
import { readVdso } from '../../objects/vdso.js';
import { commandOf } from '../../procfs/describe.js';
import { readProcIfAlive } from '../../procfs/read.js';
import { parseStat } from '../../procfs/stat.js';
import { isPidInUse } from '../../sys/process.js';
import type { LoadedImage } from '../loadImage.js';
import { verifyMappedFile } from '../mm/mappedFile.js';
import type { BirthPlan } from './births.js';

/** Looks for everything that keeps an image from being restarted on this machine as it is now. */
export function verifyImage(
  image: LoadedImage,
  plan: BirthPlan,
  context: VerifyContext,
  newPidNamespace: boolean,
): Obstacle[] {
  return [
    ...verifyVdso(image),
    ...plan.obstacles,
    ...(newPidNamespace ? [] : takenPids(image, plan).map(describeTaken)),
    ...[...image.mappedFiles.values()].flatMap((file) => verifyMappedFile(file, context.force)),
    ...[...image.files.values()].flatMap((file) => file.verify(context)),
    ...image.processes.flatMap(({ message, states, threads }) => [
      ...states.flatMap((state) => state.verify(message.pid)),
      ...threads.flatMap((thread) => thread.states.flatMap((state) => state.verify(thread.message.tid))),
    ]),
  ];
}

/** All pids that the tree needs while it is built: those of its tasks, and those of sessions and groups. */
export function neededPids(image: LoadedImage, plan: BirthPlan): number[] {
  return [
    ...image.members.flatMap(({ threads }) => threads.map(({ tid }) => tid)),
    ...plan.ghosts.map(({ pid }) => pid).filter((pid) => pid > 0),
  ];
}

/** Pids that the tree needs and that are in use on this machine. */
export function takenPids(image: LoadedImage, plan: BirthPlan): number[] {
  return neededPids(image, plan).filter(isPidInUse);
}

function describeTaken(pid: number): Obstacle {
  const text = readProcIfAlive(`/proc/${pid}/stat`);
  if (text === undefined) {
    return {
      pid,
      what: 'the pid is taken by a session or process group whose leader has ended',
      advice: `end its members, which ps -eo pid,pgid,sid,args | grep -w ${pid} shows`,
    };
  }
  const stat = parseStat(text);
  const command = commandOf(pid) ?? stat.comm;
  if (stat.state === 'Z') {
    return {
      pid,
      what: `the pid is taken by a zombie, ${command}`,
      advice: `its parent ${stat.parent} (${commandOf(stat.parent) ?? 'gone'}) has to wait for it, or to end`,
    };
  }
  return {
    pid,
    what: `the pid is taken by ${command}`,
    advice: 'end that process, wait until it has ended, or restart in a new pid namespace with --pidns',
  };
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
