/**
 * Verbs that work on several guests: each is tried, the failures are told, and the first one gives the exit code.
 */
import { serializeError, UserError } from '../base/errors.ts';
import type { Guest } from '../guest/guest.ts';
import type { Registry } from '../guest/registry.ts';
import type { Turns } from '../guest/turns.ts';
import { exitCodeOf } from './exit-code.ts';
import { formatFailure } from './failure.ts';
import type { Io, Services } from './io.ts';
import { formatJson } from './json.ts';
import type { GlobalOptions, Verb } from './verb-types.ts';

/** Enough for the kernel's part to overlap; more would only lengthen queues. */
export const MAX_PARALLEL = 16;

/** The part of a parsed command line that names guests. */
export interface GuestsCommand {
  readonly verb: Verb;
  readonly operands: readonly string[];
  readonly options: object;
  readonly global: GlobalOptions;
}

/** How a verb goes over guests. */
export interface EachOptions {
  /** Which guests `--all` means; all of them unless given. */
  readonly isMeant?: (guest: Guest) => boolean;
  /** Order of those that `--all` means; by name unless given. */
  readonly compare?: (a: Guest, b: Guest) => number;
  /** Adds those that belong to the guests that `--all` and `--mark` mean. */
  readonly more?: (guests: readonly Guest[]) => readonly Guest[];
  /** In what order `--all` and `--mark` go over them, and who waits for whom. */
  readonly turns?: (guests: readonly Guest[]) => Turns<Guest>;
  /** Guests worked on at a time; 1 unless given. */
  readonly parallel?: number;
}

/** What became of one guest. */
export type Outcome<T> =
  | { readonly name: string; readonly value: T }
  | { readonly name: string; readonly error: unknown };

/** Returns which guests `--all` or `--mark` stand for; undefined without them. */
function groupOf({ options }: GuestsCommand): ((guest: Guest) => boolean) | undefined {
  const marks: unknown = 'mark' in options ? options.mark : [];
  if (Array.isArray(marks) && marks.length > 0)
    return (guest) => guest.config.boot.marks.some((mark) => marks.includes(mark));
  return 'all' in options && options.all === true ? () => true : undefined;
}

/**
 * Does something with each named guest, or with all of them, and goes on after a failure.
 *
 * Yields in the order of the command line, each as soon as it and those before it are done.
 */
export async function* eachGuest<T>(
  command: GuestsCommand,
  { manager }: Services,
  work: (guest: Guest) => Promise<T>,
  { isMeant = () => true, compare = () => 0, parallel = 1, more, turns: orderOf }: EachOptions = {},
): AsyncGenerator<Outcome<T>> {
  const { registry } = manager;
  const isInGroup = groupOf(command);
  if (isInGroup) for (const guest of registry.list()) readAgain(guest, registry);
  const meant = isInGroup ? registry.list().filter((guest) => isMeant(guest) && isInGroup(guest)) : [];
  const all = (more?.(meant) ?? meant).toSorted(compare);
  const turns = orderOf?.(all);
  const tasks = [
    ...(turns?.guests ?? all).map((guest) => ({ name: guest.name as string, find: () => guest })),
    // A guest named twice, or by name and xid, is worked on twice: the second time says what state it was in.
    ...command.operands.map((name) => ({ name, find: () => registry.find(name) })),
  ];
  const outcomes = tasks.map((task) => ({ task, ...Promise.withResolvers<Outcome<T>>() }));
  const waiting = outcomes.values();
  const inTurn = (guest: Guest): Promise<T> => (turns ? turns.take(guest, () => work(guest)) : work(guest));
  const workSome = async (): Promise<void> => {
    for (const { task, resolve } of waiting) resolve(await outcomeOf(task, inTurn));
  };
  for (let worker = 0; worker < Math.min(parallel, tasks.length); worker++) void workSome();
  for (const { promise } of outcomes) yield await promise;
}

/** What was written by hand since counts too; of a file that is broken by now whoever works on the guest will tell. */
function readAgain(guest: Guest, registry: Registry): void {
  if (guest.isEphemeral || guest.state !== 'stopped') return;
  try {
    guest.config = registry.readConfig(guest.name);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
  }
}

async function outcomeOf<T>(
  task: { readonly name: string; readonly find: () => Guest },
  work: (guest: Guest) => Promise<T>,
): Promise<Outcome<T>> {
  try {
    const guest = task.find();
    return { name: guest.name, value: await work(guest) };
  } catch (error) {
    return { name: task.name, error };
  }
}

/**
 * Does something with each named guest, or with all of them; prints the name of each that it was done with, and why it
 * was not with the others. With `--json` prints an array of `{name, error}` at the end.
 *
 * @returns the exit code: of the first failure, or 0
 */
export async function forEachGuest(
  command: GuestsCommand,
  io: Io,
  services: Services,
  work: (guest: Guest) => Promise<void>,
  options: EachOptions = {},
): Promise<number> {
  const results: object[] = [];
  let exitCode = 0;
  let names = '';
  let told: Promise<void> | undefined;
  // What is done while the caller takes what came before goes out together: each message wakes three processes.
  const tell = async (): Promise<void> => {
    while (names !== '') {
      const text = names;
      names = '';
      await io.out(text);
    }
    told = undefined;
  };
  for await (const outcome of eachGuest(command, services, work, options)) {
    const { name } = outcome;
    if ('error' in outcome) {
      await told;
      const code = await tellFailure(outcome.error, io, command.verb);
      exitCode ||= code;
      results.push({ name, error: serializeError(outcome.error) });
    } else {
      if (!command.global.json) {
        names += `${name}\n`;
        told ??= tell();
      }
      results.push({ name, error: null });
    }
  }
  await told;
  if (command.global.json) await io.out(formatJson(results));
  return exitCode;
}

/** Collects a value of each named guest, or of all; tells the failures. */
export async function collect<T>(
  command: GuestsCommand,
  io: Io,
  services: Services,
  work: (guest: Guest) => Promise<T>,
  options: EachOptions = {},
): Promise<{ readonly values: readonly T[]; readonly exitCode: number }> {
  const values: T[] = [];
  let exitCode = 0;
  for await (const outcome of eachGuest(command, services, work, options)) {
    if ('error' in outcome) {
      const code = await tellFailure(outcome.error, io, command.verb);
      exitCode ||= code;
    } else values.push(outcome.value);
  }
  return { values, exitCode };
}

/** Writes a failure to stderr and returns its exit code. */
export async function tellFailure(error: unknown, io: Io, verb: Verb): Promise<number> {
  await io.err(formatFailure(error));
  return exitCodeOf(error, verb);
}

/** Writes a warning to stderr: nothing failed, but it may not be what was meant. */
export async function warn(io: Io, text: string): Promise<void> {
  await io.err(`vserver: ${text}\n`);
}
