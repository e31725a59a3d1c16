/** The version of this package, which images carry. `test/version.test.ts` compares it with package.json. */
export const VERSION = '0.3.0';
