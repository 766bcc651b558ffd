import { type Data, Program, type Result } from '../sys/program.ts';
import type { Syscalld } from '../sys/syscalld.ts';
import type { RootAttributes } from './helper/tasks.ts';

const NS = 1_000_000_000n;

/** What storage needs of the syscall machine. */
export type StorageMachine = Pick<Syscalld, 'abi' | 'run' | 'newObject' | 'drop' | 'signal'>;

/** Opens a directory without following anything: of the operator's choice (`at` undefined), or below an open one. */
export function openDirectory(program: Program, path: string, at?: Result): Result {
  const how = program.struct('open_how', {
    flags: program.flags('O_RDONLY', 'O_DIRECTORY', 'O_NOFOLLOW', 'O_CLOEXEC'),
    resolve:
      at === undefined ? 0 : program.flags('RESOLVE_BENEATH', 'RESOLVE_NO_SYMLINKS', 'RESOLVE_NO_XDEV'),
  });
  return program.sys('openat2', [at ?? program.flags('AT_FDCWD'), path, how, how.length], { about: path });
}

/** Puts the times of a file where utimensat(2) reads them: Node has no nanoseconds. The last access is as the last change. */
export function putTimes(
  program: Program,
  { mtimeSeconds, mtimeNanoseconds }: Pick<RootAttributes, 'mtimeSeconds' | 'mtimeNanoseconds'>,
): Data {
  const times = program.data(32, 'times');
  for (const at of [0, 16]) {
    program.put(times.at(at), mtimeSeconds, 8);
    program.put(times.at(at + 8), mtimeNanoseconds, 8);
  }
  return times;
}

/** Returns a time as `putTimes` takes it. */
export function timesOf(mtimeNs: bigint): Pick<RootAttributes, 'mtimeSeconds' | 'mtimeNanoseconds'> {
  const nanoseconds = ((mtimeNs % NS) + NS) % NS;
  return { mtimeSeconds: Number((mtimeNs - nanoseconds) / NS), mtimeNanoseconds: Number(nanoseconds) };
}

/** Opens a copy of the mount that a directory is in, which shows nothing that is mounted below it. */
export function openOneMount(program: Program, path: string): Result {
  const flags = program.flags('OPEN_TREE_CLONE', 'OPEN_TREE_CLOEXEC', 'AT_EMPTY_PATH');
  return program.sys('open_tree', [openDirectory(program, path), '', flags], { about: path });
}

/**
 * Deletes a directory with all it holds; nothing outside it is touched, whatever links or mounts it holds.
 *
 * @param parent path whose components the operator owns
 * @param name one path component
 * @throws StepError ENOENT when there is no such directory, EXDEV when something is mounted on or below it
 */
export async function removeDirectory(
  machine: StorageMachine,
  what: string,
  parent: string,
  name: string,
): Promise<void> {
  const program = new Program(machine.abi);
  const above = openDirectory(program, parent);
  program.removeTree(openDirectory(program, name, above));
  program.sys('unlinkat', [above, name, program.flags('AT_REMOVEDIR')], { about: name });
  await machine.run(what, program);
}
