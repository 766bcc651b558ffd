import type { Data, Program, Result } from './program.ts';

/** A 64-bit number in decimal, and a NUL. */
const DECIMAL_BYTES = 21;

/** Adds the step that writes a path ending in a number that is known only then: of a process, of a descriptor. */
export function planNumberPath(p: Program, prefix: string, number: Result): Data {
  const path = p.data(prefix.length + DECIMAL_BYTES, () => JSON.stringify(`${prefix}<n>`));
  p.putText(path, prefix);
  p.itoa(path.at(prefix.length), number);
  return path;
}
