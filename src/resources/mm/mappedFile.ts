import { statSync } from 'node:fs';
import type { Obstacle } from '../../errors.js';
import { type MappedFile, MappedFileSchema } from '../../image/generated/mm_pb.js';
import { decodePayload, type ImageRecord } from '../../image/reader.js';
import type { ImageWriter } from '../../image/writer.js';
import type { Refusal } from '../../objects/slice.js';
import { leadsTo, verifyFile } from '../pathFile.js';
import { buildIdOf } from './buildId.js';

export const MAPPED_FILE_RECORD = 49;

/** Why a mapped or executed file can't be mapped again. `heldPath` is a link of `/proc` that leads to it. */
export function refuseMappedFile(path: string, heldPath: string): Refusal | undefined {
  const stats = statSync(heldPath, { bigint: true });
  if (stats.isCharacterDevice() || stats.isBlockDevice()) {
    return { what: `memory of the device ${path}`, advice: 'mappings of devices are not supported' };
  }
  if (leadsTo(path, stats)) return undefined;
  if (path.startsWith('/SYSV')) {
    return { what: 'a System V shared memory segment', advice: 'not supported yet; detach it first' };
  }
  if (path.startsWith('/memfd:')) {
    return { what: `a mapping of the memory file ${path}`, advice: 'memfds are not supported yet' };
  }
  return {
    what: `a mapping of ${path}, which has been removed or replaced`,
    advice: 'restart the program, so that it uses the file that is there now',
  };
}

/** Writes the record of a mapped file. */
export function saveMappedFile(path: string, executed: boolean, objref: number, writer: ImageWriter): void {
  const stats = statSync(path, { bigint: true });
  writer.record(MAPPED_FILE_RECORD, objref, MappedFileSchema, {
    path,
    size: stats.size,
    modifiedNs: stats.mtimeNs,
    buildId: executed ? buildIdOf(path) : new Uint8Array(),
  });
}

export function loadMappedFile(record: ImageRecord): MappedFile {
  return decodePayload(record, MappedFileSchema, `mappedFile[${record.objref}]`);
}

/** A mapped file that is missing or has changed; one with the same build-id is the same. */
export function verifyMappedFile(file: MappedFile, force: boolean): Obstacle[] {
  const wanted = Buffer.from(file.buildId);
  const found = (): Buffer => Buffer.from(buildIdOf(file.path));
  const obstacles = verifyFile(file, 'mapped file', force, () => wanted.length > 0 && found().equals(wanted));
  if (wanted.length === 0) return obstacles;
  return obstacles.map((obstacle) =>
    statSync(file.path, { throwIfNoEntry: false }) === undefined
      ? obstacle
      : {
          ...obstacle,
          what: `${obstacle.what}, build-id ${found().toString('hex') || 'none'} instead of ${wanted.toString('hex')}`,
        },
  );
}
