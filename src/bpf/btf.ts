import { readFileSync } from 'node:fs';
import { KernelTypesError } from '../errors.js';
import { mapFile } from '../sys/files.js';

/** Where a member lies in its structure. */
export interface Member {
  /** Bytes from the structure's start. */
  readonly offset: number;
  /** Bytes; 0 where the type has none that a load could take. */
  readonly size: number;
  /** The structure that it is, or points to; undefined for anything else. */
  readonly structure: string | undefined;
}

const VMLINUX = '/sys/kernel/btf/vmlinux';
const MAGIC = 0xeb9f;
/** Types that name or hold each other more often than that do so in a circle. */
const MAX_DEPTH = 32;
const HEADER_SIZE = 24;

/** `enum` of BTF kinds. Source: Documentation/bpf/btf.rst. */
const kind = {
  INT: 1,
  PTR: 2,
  ARRAY: 3,
  STRUCT: 4,
  UNION: 5,
  ENUM: 6,
  FUNC: 12,
  ENUM64: 19,
} as const;

/** Words behind the three of `struct btf_type`, by kind: so many, and so many for each of `vlen`. */
const FIXED_WORDS = Uint8Array.of(0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0);
const WORDS_EACH = Uint8Array.of(0, 0, 0, 0, 3, 3, 2, 0, 0, 0, 0, 0, 0, 2, 0, 3, 0, 0, 0, 3);

/** TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG: they name or qualify another type. */
const TRANSPARENT = new Set([8, 9, 10, 11, 18]);
const ITERATOR_PREFIX = 'bpf_iter_';
/** The first and the fifth character of that. */
const LETTER_B = 0x62;
const LETTER_I = 0x69;

/** What is looked for in a kernel's types. */
export interface WantedTypes {
  readonly structures: readonly string[];
  readonly iterators: readonly string[];
}

/**
 * The types of a kernel: where the members of its structures lie. Only what is asked for is read: a kernel
 * has 130,000 types.
 */
export class KernelTypes {
  private readonly words: Uint32Array;
  private readonly strings: Uint8Array;
  /** Word index of each type, by id, as far as they were gone through. */
  private readonly types: Uint32Array;
  private count = 1;
  private at = 0;
  /** How much of what is wanted was not met yet. */
  private awaited: number;
  /** By their first characters names are told apart before they are read. */
  private readonly first = new Uint8Array(256);
  private readonly keys = new Set<number>();
  private readonly structures = new Map<string, number>();
  private readonly iterators = new Map<string, number>();

  /**
   * Parses BTF data in this machine's byte order, to find members of the structures that are wanted.
   * Throws KernelTypesError.
   */
  constructor(
    data: Buffer,
    private readonly wanted: WantedTypes,
  ) {
    if (data.length < HEADER_SIZE || data.readUInt16LE(0) !== MAGIC) throw malformed('no BTF header');
    const headerSize = data.readUInt32LE(4);
    const typesStart = headerSize + data.readUInt32LE(8);
    const typesSize = data.readUInt32LE(12);
    const stringsStart = headerSize + data.readUInt32LE(16);
    const stringsSize = data.readUInt32LE(20);
    if (typesStart + typesSize > data.length || stringsStart + stringsSize > data.length) {
      throw malformed('its sections are longer than it is');
    }
    if (typesStart % 4 !== 0 || typesSize % 4 !== 0) throw malformed('its types are not aligned');
    const aligned = data.byteOffset % 4 === 0 ? data : Buffer.from(Uint8Array.from(data).buffer);
    this.words = new Uint32Array(aligned.buffer, aligned.byteOffset + typesStart, typesSize / 4);
    this.strings = data.subarray(stringsStart, stringsStart + stringsSize);
    this.types = new Uint32Array(this.words.length / 3 + 2);
    for (const name of wanted.structures) {
      this.first[name.charCodeAt(0)] = 1;
      this.keys.add(keyOf(Buffer.from(`${name}\0\0\0`), 0));
    }
    this.awaited = new Set(wanted.structures).size + new Set(wanted.iterators).size;
    this.advance(0);
  }

  /** Whether the kernel has an iterator of that name, such as `task_file`; its BTF id, or undefined. */
  iterator(name: string): number | undefined {
    return this.iterators.get(name);
  }

  /** A member by its path, such as `ns.inum`; undefined where this kernel has none of that name. */
  findMember(structure: string, path: string): Member | undefined {
    let id = this.structures.get(structure);
    let offset = 0;
    let member: { offset: number; type: number } | undefined;
    for (const name of path.split('.')) {
      if (id === undefined) return undefined;
      member = this.memberOf(id, name);
      if (member === undefined) return undefined;
      offset += member.offset;
      id = member.type;
    }
    if (id === undefined) return undefined;
    return { offset, size: this.sizeOf(id), structure: this.structureName(id) };
  }

  /** The size of a structure, bytes. */
  structureSize(structure: string): number | undefined {
    const id = this.structures.get(structure);
    return id === undefined ? undefined : this.sizeOf(id);
  }

  /** Goes on through the types until all that is wanted was met, and the type `least` as well. */
  private advance(least: number): void {
    const { words, strings, types, first, keys } = this;
    let { count, at } = this;
    while (at < words.length && (this.awaited > 0 || count <= least)) {
      const info = words[at + 1] as number;
      const own = (info >>> 24) & 31;
      types[count] = at;
      if (own === kind.STRUCT) {
        const name = words[at] as number;
        if (first[strings[name] as number] === 1 && keys.has(keyOf(strings, name))) {
          this.addStructure(this.text(name), count);
        }
      } else if (own === kind.FUNC) {
        const name = words[at] as number;
        if (strings[name] === LETTER_B && strings[name + 4] === LETTER_I)
          this.addIterator(this.text(name), count);
      } else if (own === 0 || own >= FIXED_WORDS.length) throw malformed(`type ${count} is of kind ${own}`);
      at += 3 + (FIXED_WORDS[own] as number) + (WORDS_EACH[own] as number) * (info & 0xffff);
      count++;
    }
    this.count = count;
    this.at = at;
  }

  /** The word index of a type; undefined where there is none. */
  private typeAt(id: number): number | undefined {
    if (id >= this.count) this.advance(id);
    return id > 0 && id < this.count ? this.types[id] : undefined;
  }

  private addStructure(name: string, id: number): void {
    if (this.structures.has(name)) return;
    this.structures.set(name, id);
    if (this.wanted.structures.includes(name)) this.awaited--;
  }

  private addIterator(name: string, id: number): void {
    const iterator = name.slice(ITERATOR_PREFIX.length);
    if (!name.startsWith(ITERATOR_PREFIX) || this.iterators.has(iterator)) return;
    this.iterators.set(iterator, id);
    if (this.wanted.iterators.includes(iterator)) this.awaited--;
  }

  /** A member of a structure or union, also of those without a name inside it. */
  private memberOf(id: number, wanted: string, depth = 0): { offset: number; type: number } | undefined {
    if (depth > MAX_DEPTH) throw malformed(`structure ${id} holds itself`);
    const start = this.typeAt(this.strip(id));
    if (start === undefined) return undefined;
    const { words } = this;
    const info = words[start + 1] as number;
    const own = (info >>> 24) & 31;
    if (own !== kind.STRUCT && own !== kind.UNION) return undefined;
    const hasBitfields = info >>> 31 === 1;
    for (let i = 0; i < (info & 0xffff); i++) {
      const at = start + 3 + 3 * i;
      const type = words[at + 1] as number;
      const bits = hasBitfields ? (words[at + 2] as number) & 0xff_ffff : (words[at + 2] as number);
      const name = words[at] as number;
      if (this.strings[name] === 0) {
        const inner = this.memberOf(type, wanted, depth + 1);
        if (inner !== undefined) return { offset: bits / 8 + inner.offset, type: inner.type };
      } else if (this.isText(name, wanted)) return { offset: bits / 8, type };
    }
    return undefined;
  }

  private sizeOf(id: number, depth = 0): number {
    if (depth > MAX_DEPTH) throw malformed(`type ${id} holds itself`);
    const at = this.typeAt(this.strip(id));
    if (at === undefined) return 0;
    switch (((this.words[at + 1] as number) >>> 24) & 31) {
      case kind.INT:
      case kind.STRUCT:
      case kind.UNION:
      case kind.ENUM:
      case kind.ENUM64:
        return this.words[at + 2] as number;
      case kind.PTR:
        return 8;
      case kind.ARRAY:
        return this.sizeOf(this.words[at + 3] as number, depth + 1) * (this.words[at + 5] as number);
      default:
        return 0;
    }
  }

  private structureName(id: number): string | undefined {
    let at = this.typeAt(this.strip(id));
    if (at !== undefined && (((this.words[at + 1] as number) >>> 24) & 31) === kind.PTR) {
      at = this.typeAt(this.strip(this.words[at + 2] as number));
    }
    if (at === undefined || (((this.words[at + 1] as number) >>> 24) & 31) !== kind.STRUCT) return undefined;
    return this.text(this.words[at] as number);
  }

  private strip(id: number): number {
    let current = id;
    for (let depth = 0; depth < MAX_DEPTH; depth++) {
      const at = this.typeAt(current);
      if (at === undefined || current === 0) return current;
      if (!TRANSPARENT.has(((this.words[at + 1] as number) >>> 24) & 31)) return current;
      current = this.words[at + 2] as number;
    }
    throw malformed(`type ${id} leads to itself`);
  }

  private isText(at: number, wanted: string): boolean {
    for (let i = 0; i < wanted.length; i++) {
      if (this.strings[at + i] !== wanted.charCodeAt(i)) return false;
    }
    return this.strings[at + wanted.length] === 0;
  }

  private text(at: number): string {
    let text = '';
    for (let i = at; this.strings[i]; i++) text += String.fromCharCode(this.strings[i] as number);
    return text;
  }
}

/** The running kernel's types. Throws KernelTypesError where it has none to read. */
export function readKernelTypes(wanted: WantedTypes): KernelTypes {
  let data: Buffer;
  try {
    data = mapFile(VMLINUX) ?? readFileSync(VMLINUX);
  } catch (cause) {
    throw new KernelTypesError(`${VMLINUX} can't be read`, {
      reason: cause instanceof Error ? cause.message : String(cause),
      advice: 'the kernel needs CONFIG_DEBUG_INFO_BTF',
      cause,
    });
  }
  return new KernelTypes(data, wanted);
}

/** Four characters as one number. */
function keyOf(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] as number) |
    ((bytes[at + 1] as number) << 8) |
    ((bytes[at + 2] as number) << 16) |
    ((bytes[at + 3] as number) << 24)
  );
}

function malformed(problem: string): KernelTypesError {
  return new KernelTypesError(`the kernel's types can't be read: ${problem}`, {
    advice: `report this with ${VMLINUX}`,
  });
}
