import type { Command } from 'commander';
import { imageText } from '../present/image.js';

const STANDARD_INPUT = 0;

export function addInspect(program: Command): void {
  program
    .command('inspect')
    .description('show what is in an image')
    .argument('[image]', 'the image; without it, or with -, standard input', '-')
    .option('--json', 'print it as JSON')
    .action(async (name: string, options: { readonly json?: boolean }) => {
      const { inspect } = await import('../inspect.js');
      const image = await inspect(name === '-' ? STANDARD_INPUT : name);
      process.stdout.write(`${options.json ? JSON.stringify(image, null, 2) : imageText(image)}\n`);
    });
}
