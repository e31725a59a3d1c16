import { InternalError } from '../errors.js';
import type { Identity } from './census.js';

/** The number by which records of an image refer to an object; unique in the image, from 1 on. */
export type Objref = number & { readonly __objref: unique symbol };

/** A shared kernel object in the table. */
export interface TableObject {
  readonly objref: Objref;
  readonly kind: string;
  /** Its address in the kernel, or what stands for it; undefined where only kcmp(2) tells it apart. */
  readonly identity: Identity | undefined;
  /** References from inside the tree that were collected. */
  users: number;
  /** Its state is in the image. */
  checkpointed: boolean;
}

/**
 * The objects of a checkpoint. Each is collected before anything is saved, counting its users, and marked
 * when its state is written, as in the 2009 series' `ckpt_obj` table (checkpoint/objhash.c).
 */
export class ObjectTable {
  private readonly objects = new Map<Objref, TableObject>();
  private readonly byKey = new Map<string, TableObject>();

  /** A new object with one user. */
  add(kind: string, identity?: Identity): TableObject {
    const objref = (this.objects.size + 1) as Objref;
    const object = { objref, kind, identity, users: 1, checkpointed: false };
    this.objects.set(objref, object);
    return object;
  }

  /** The object of that kind and key, which gains a user, or a new one. */
  collect(kind: string, key: string): TableObject {
    const fullKey = `${kind} ${key}`;
    const known = this.byKey.get(fullKey);
    if (known !== undefined) {
      known.users++;
      return known;
    }
    const object = this.add(kind);
    this.byKey.set(fullKey, object);
    return object;
  }

  markCheckpointed(objref: Objref): void {
    const object = this.objects.get(objref);
    if (object === undefined) throw new InternalError(`object ${objref} was saved but not collected`);
    object.checkpointed = true;
  }

  /** Collected objects that were not saved. */
  unsaved(): TableObject[] {
    return [...this.objects.values()].filter((object) => !object.checkpointed);
  }
}
