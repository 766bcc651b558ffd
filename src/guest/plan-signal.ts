/**
 * Steps on processes of a guest, named by their pids there: one that ends meanwhile cannot be taken for another of the
 * host.
 */
import type { Import, Program } from '../sys/program.ts';

/**
 * Adds a child of the worker's in a guest's pid namespace, which does something there; the program fails when it does not.
 *
 * @param object of the child
 */
export function planAmongProcesses(
  p: Program,
  init: Import,
  object: number,
  title: string,
  body: () => void,
): void {
  const pipe = p.data(8, 'pipe');
  p.sys('pipe2', [pipe, p.flags('O_CLOEXEC')]);
  const [reader, writer] = [p.load(pipe), p.load(pipe.at(4, 4))];
  p.sys('setns', [init, p.flags('CLONE_NEWPID')], { about: 'pid namespace' });
  p.spawn(title, { object }, () => {
    body();
    p.sys('write', [writer, 'k', 1]);
  });
  p.sys('close', [writer]);
  const got = p.sys('read', [reader, p.data(8), 1], { about: title });
  p.expect(got, '==', 1, 'ECHILD', title);
}

/** Adds the steps that signal processes of a guest. */
export function planSignals(
  p: Program,
  init: Import,
  object: number,
  guestPids: readonly number[],
  signal: number,
): void {
  planAmongProcesses(p, init, object, 'sender of signals', () => {
    for (const pid of guestPids) p.sys('kill', [pid, signal], { about: `process ${pid}` });
  });
}
