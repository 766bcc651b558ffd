/** Where hostile code may find itself: in a guest's command or in an exec, on the host's programs or on busybox. */
import { chmodSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Instance, Outcome, RunOptions } from '../lib/instance.ts';
import { buildProbe, type Findings, parseFindings } from '../lib/probe.ts';

/** One way into a guest. */
export interface Place {
  /** For example `exec in busybox`. */
  readonly name: string;
  readonly verb: 'run' | 'exec';
  readonly template: 'host' | 'busybox';
  /** Runs a command there; `flags` are of `vserver run` or `vserver exec`. */
  run(argv: readonly string[], flags?: readonly string[], options?: RunOptions): Promise<Outcome>;
}

/** A security test: what got through, one line each; nothing when all is well. */
export type Check = (v: Instance, places: readonly Place[]) => Promise<readonly string[]>;

/** Where the probe is in a guest made by `places`. */
export const PROBE = '/probe';

/** The machine of the vm tier is an emulated one, some twenty times slower. */
export const IS_SLOW: boolean = process.env['VSERVER_TEST_VM'] === '1';

/** All of a list, or every third where that would take too long: what differs there is the kernel, not the cases. */
export function sample<T>(list: readonly T[]): readonly T[] {
  return IS_SLOW ? list.filter((_one, i) => i % 3 === 0) : list;
}

/** Flags that put the probe into a guest. */
export function withProbe(): readonly string[] {
  return ['--volume', `${buildProbe()}:${PROBE}:ro`];
}

/** Guests that `places` keeps running have the names of their templates. */
const TEMPLATES: readonly Place['template'][] = IS_SLOW ? ['host'] : ['host', 'busybox'];

/**
 * Starts a guest of each template and returns the ways in. The control plane is started with groups that are nobody's
 * business in a guest.
 */
export async function places(
  v: Instance,
  templates: readonly Place['template'][] = TEMPLATES,
): Promise<readonly Place[]> {
  // What the checks lay out to be attacked is not protected by our own directories.
  for (const directory of [dirname(v.root), v.scratch]) chmodSync(directory, 0o711);
  await v.ok(['daemon', 'start'], { under: ['setpriv', '--groups', '4,24,27'] });
  const list: Place[] = [];
  for (const template of templates) {
    const flags = ['--template', template, ...withProbe()];
    await v.ok(['run', '--detach', '--name', template, ...flags, '--', 'sleep', '3600']);
    list.push(
      {
        name: `run of ${template}`,
        verb: 'run',
        template,
        run: async (argv, more = [], options) =>
          await v.run(['run', ...flags, ...more, '--', ...argv], options),
      },
      {
        name: `exec in ${template}`,
        verb: 'exec',
        template,
        run: async (argv, more = [], options) =>
          await v.run(['exec', ...more, template, '--', ...argv], options),
      },
    );
  }
  return list;
}

/** Runs a verb of the probe in a place. @throws AssertionError when it did not answer */
export async function probe(
  place: Place,
  words: readonly string[],
  flags: readonly string[] = [],
): Promise<Findings> {
  const { code, stdout, stderr } = await place.run([PROBE, ...words], flags);
  if (code !== 0) throw new Error(`probe ${words.join(' ')}, ${place.name}: exit code ${code}\n${stderr}`);
  return parseFindings(stdout);
}

/** Asks of every finding of a verb, in every place, whether it is right. A probe without an answer is a breach too. */
export async function findingsOf(
  places: readonly Place[],
  words: readonly string[],
  isRight: (key: string, value: string | number) => boolean,
  flags: readonly string[] = [],
): Promise<readonly string[]> {
  const breaches: string[] = [];
  for (const place of places) {
    try {
      for (const [key, value] of Object.entries(await probe(place, words, flags)))
        if (!isRight(key, value)) breaches.push(`${place.name}: ${words[0]} ${key}: ${value}`);
    } catch (error) {
      breaches.push(`${place.name}: ${error}`);
    }
  }
  return breaches;
}
