// The rule of imports: every folder or file below src/ may import from its own layer and from lower ones.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** From top to bottom. What stands in one row may not import each other, except within a folder. */
const LAYERS = [
  ['cli'],
  ['present', 'index.ts'],
  ['checkpoint.ts', 'restart.ts', 'leaks.ts', 'inspect.ts', 'check.ts'],
  ['resources', 'freezer'],
  ['objects'],
  ['tracee', 'bpf', 'procfs', 'image'],
  ['sys'],
  ['errors.ts', 'version.ts'],
];

/** Within a row: the state of a tree is collected from what the freezer holds. */
const ALLOWED = new Map([['resources', new Set(['freezer'])]]);

/** Only these may import a foreign function interface. */
const FFI_LAYER = 'sys';

/** Returns one line for every import that breaks the rule. */
export function findViolations(root = 'src') {
  const files = readdirSync(root, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith('.ts') && !name.includes('generated'));
  return files.flatMap((file) => {
    const own = partOf(file);
    const imports = [
      ...readFileSync(join(root, file), 'utf8').matchAll(
        /(?:^(?:import|export)[^;]*? from |\bimport\()'([^']+)'/gms,
      ),
    ];
    return imports.flatMap(([, target]) => {
      if (target === 'koffi') return own === FFI_LAYER ? [] : [`${file}: only ${FFI_LAYER} may import koffi`];
      if (!target?.startsWith('.')) return [];
      const imported = partOf(relative(root, join(root, dirname(file), target)).replace(/\.js$/, '.ts'));
      if (imported === own || ALLOWED.get(own)?.has(imported)) return [];
      return layerOf(imported) > layerOf(own) ? [] : [`${file}: ${own} may not import ${imported}`];
    });
  });
}

function partOf(file) {
  return file.split('/')[0] ?? file;
}

function layerOf(part) {
  const layer = LAYERS.findIndex((row) => row.includes(part));
  if (layer < 0) throw new Error(`src/${part} has no layer: add it to scripts/layers.js`);
  return layer;
}
