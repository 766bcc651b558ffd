import { chmodSync, copyFileSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { StateError, UserError } from '../base/errors.ts';
import { isStaticElf } from '../spec/elf-interpreter.ts';
import { readHead } from '../sys/files.ts';
import { Program } from '../sys/program.ts';
import { describeWaitStatus, runHostCommand, waitStatusOf } from './host-command.ts';
import { versionOf } from './host-files.ts';
import type { StorageMachine } from './machine.ts';
import { buildSkeleton } from './skeleton.ts';
import { link } from './tree-entries.ts';

/** Changes with what the tree is made of, so that older trees are not taken for it. */
const FORMAT = 1;
const PLACES = ['/usr/bin/busybox', '/bin/busybox', '/usr/local/bin/busybox'] as const;
const HEAD_BYTES = 4096;

/**
 * Returns the path of the host's static busybox.
 *
 * @throws UserError busybox-missing
 */
export function findBusybox(places: readonly string[] = PLACES): string {
  const found = places.find((path) => isStaticElf(readHead(path, HEAD_BYTES)));
  if (found !== undefined) return found;
  throw new UserError(
    'busybox-missing',
    'cannot prepare template "busybox": found no static busybox; need: apt-get install busybox-static',
  );
}

/** Returns a text that changes when another busybox is there. */
export function busyboxVersion(path: string): string {
  return `${FORMAT} ${path} ${versionOf(path)}`;
}

/** Writes `<workDir>/root`: busybox, a link for each of its applets, a fresh /etc. */
export async function buildBusybox(machine: StorageMachine, busybox: string, workDir: string): Promise<void> {
  const root = join(workDir, 'root');
  const applets = parseApplets(await listApplets(machine, busybox, join(workDir, 'applets')));
  buildSkeleton(
    workDir,
    applets.map((path) => link(path, '/bin/busybox')),
  );
  copyFileSync(busybox, join(root, 'bin/busybox'));
  chmodSync(join(root, 'bin/busybox'), 0o755);
}

/**
 * Reads what `busybox --list-full` prints: `usr/bin/awk` and the like, a line each. Other places are left out.
 *
 * @throws StateError busybox-broken when there is no shell among them
 */
export function parseApplets(text: string): readonly string[] {
  const wanted = /^(?:usr\/)?s?bin\/[^/\0]+$/;
  const applets = [...new Set(text.split('\n'))].filter(
    (path) => wanted.test(path) && path !== 'bin/busybox',
  );
  if (applets.includes('bin/sh')) return applets;
  throw new StateError(
    'busybox-broken',
    `cannot prepare template "busybox": found ${applets.length} applets and no shell; need Debian's busybox-static`,
  );
}

async function listApplets(machine: StorageMachine, busybox: string, output: string): Promise<string> {
  const what = 'list the applets of busybox';
  writeFileSync(output, '');
  const program = new Program(machine.abi);
  const object = machine.newObject();
  const status = runHostCommand(program, {
    title: 'busybox',
    namespaces: program.flags(),
    object,
    setUp: () => {
      const at = program.flags('AT_FDCWD');
      const fd = program.sys('openat', [at, output, program.flags('O_WRONLY', 'O_CLOEXEC')], {
        about: output,
      });
      program.sys('dup3', [fd, 1, 0], { about: 'stdout' });
    },
    exec: () => {
      program.sys('execve', [
        busybox,
        program.vector(['busybox', '--list-full']),
        program.vector(['PATH=/usr/bin:/bin']),
      ]);
    },
  });
  program.returns(status);
  const waitStatus = await waitStatusOf(machine, what, program, object);
  const text = readFileSync(output, 'utf8');
  unlinkSync(output);
  if (waitStatus === 0) return text;
  throw new StateError(
    'busybox-broken',
    `cannot ${what} in ${dirname(busybox)}: found ${describeWaitStatus(waitStatus)}; need exit code 0`,
  );
}
