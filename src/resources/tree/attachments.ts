import { closeSync, fstatSync, openSync } from 'node:fs';
import { isMessage } from '@bufbuild/protobuf';
import { UsageError } from '../../errors.js';
import { type External, ExternalSchema } from '../../image/generated/external_pb.js';
import { open } from '../../sys/uapi.js';
import { external, isStandardStream } from '../external.js';
import type { LoadedImage } from '../loadImage.js';

/** What a resource outside of the tree is given as its new end: by key, `fd:N`, a path, or `null`. */
export type Attachments = Readonly<Record<string, string>>;

interface Outside {
  readonly message: External;
  /** Its slots all over the tree, ascending. */
  readonly slots: readonly number[];
}

/**
 * The new ends of everything that led outside: those attached by key, and for the standard streams those
 * of this process.
 */
export class OutsideEnds implements Disposable {
  private readonly outside: readonly Outside[];
  private readonly opened: number[] = [];
  private readonly ends: number[] = [];
  private readonly endOf = new Map<string, number>();

  constructor(
    image: LoadedImage,
    private readonly slots: ReadonlyMap<number, readonly number[]>,
    private readonly attachments: Attachments,
  ) {
    this.outside = [...image.files.values()].flatMap((file) =>
      file.kind === external.kind && isMessage(file.message, ExternalSchema)
        ? [{ message: file.message, slots: this.slots.get(file.objref) ?? [] }]
        : [],
    );
    for (const key of Object.keys(attachments)) {
      if (this.outside.some(({ message }) => message.key === key)) continue;
      const known = this.outside.map(({ message }) => message.key);
      throw new UsageError(`nothing in the image has the key ${key}`, {
        reason: known.length === 0 ? 'nothing in it leads outside' : `its keys are ${known.join(', ')}`,
        advice: 'see them with stasis inspect',
      });
    }
  }

  /** Whether a key has a new end for all of its slots. */
  isAttached(key: string): boolean {
    return this.attachments[key] !== undefined || this.standardSlot(key) !== undefined;
  }

  /** Opens all new ends; `descriptors` are then to be given to the helper in their order. Throws UsageError. */
  open(): void {
    for (const { message, slots } of this.outside) {
      const attachment = this.attachments[message.key];
      const attached = attachment === undefined ? undefined : this.openTarget(attachment, message.flags);
      for (const slot of slots) {
        const fd = attached ?? (isStandardStream(slot) ? slot : this.standardSlot(message.key));
        if (fd === undefined) continue;
        if (!this.ends.includes(fd)) this.ends.push(fd);
        this.endOf.set(`${message.key} ${slot}`, this.ends.indexOf(fd));
      }
    }
  }

  /** Descriptors of this process. */
  get descriptors(): readonly number[] {
    return this.ends;
  }

  /** Which of the opened ends a slot gets. */
  indexOf(key: string, slot: number): number {
    return this.endOf.get(`${key} ${slot}`) ?? 0;
  }

  [Symbol.dispose](): void {
    for (const fd of this.opened.splice(0)) closeSync(fd);
  }

  /** The lowest standard stream that the key has anywhere: it serves for its other slots too. */
  private standardSlot(key: string): number | undefined {
    return this.outside
      .filter(({ message }) => message.key === key)
      .flatMap(({ slots }) => slots)
      .filter(isStandardStream)
      .sort((a, b) => a - b)[0];
  }

  private openTarget(target: string, flags: number): number {
    const number = /^fd:(\d+)$/.exec(target)?.[1];
    try {
      if (number !== undefined) {
        fstatSync(Number(number));
        return Number(number);
      }
      const path = target === 'null' ? '/dev/null' : target;
      const fd = openSync(path, (flags & (open.O_ACCMODE | open.O_APPEND)) | open.O_NOCTTY);
      this.opened.push(fd);
      return fd;
    } catch (error) {
      throw new UsageError(`${target} can't be attached`, {
        reason: error instanceof Error ? error.message : String(error),
        advice: 'name an open descriptor (fd:1), a file that exists, or null',
      });
    }
  }
}
