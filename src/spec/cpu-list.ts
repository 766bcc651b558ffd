import { UserError } from '../base/errors.ts';

/** More CPUs than any kernel is built for (NR_CPUS is at most 8192). */
const MAX_CPU = 8191;

/**
 * Parses a list of CPUs as the kernel writes it, for example `0,2-3`.
 *
 * @returns numbers, ascending, each once
 * @throws UserError invalid-value
 */
export function parseCpuList(text: string): readonly number[] {
  const cpus = new Set<number>();
  for (const part of text.trim().split(',')) {
    const [, first = '', last = first] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(part) ?? [];
    const [from, to] = [Number(first), Number(last)];
    if (first === '' || to < from || to > MAX_CPU)
      throw new UserError(
        'invalid-value',
        `cannot use ${JSON.stringify(text)} as CPUs; need numbers and ranges such as 0,2-3`,
      );
    for (let cpu = from; cpu <= to; cpu++) cpus.add(cpu);
  }
  return [...cpus].toSorted((a, b) => a - b);
}
