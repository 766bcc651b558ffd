/** Finds the host's programs the VM tier is made of. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Program → the Debian package that brings it. */
const PACKAGES = {
  'apt-get': 'apt',
  'apt-cache': 'apt',
  'apt-config': 'apt',
  busybox: 'busybox-static',
  dpkg: 'dpkg',
  mke2fs: 'e2fsprogs',
  'qemu-system-x86_64': 'qemu-system-x86',
  setpriv: 'util-linux',
} as const;

// A root shell with a user's PATH (su without -) still finds mke2fs.
const SYSTEM_DIRECTORIES = ['/usr/sbin', '/sbin'];

/**
 * The absolute path of a program.
 *
 * @throws Error that names the Debian package when no directory of PATH has it
 */
export function findProgram(name: keyof typeof PACKAGES): string {
  const directories = [...(process.env['PATH'] ?? '').split(delimiter), ...SYSTEM_DIRECTORIES];
  const path = directories.map((directory) => join(directory, name)).find(isExecutable);
  if (path === undefined) {
    throw new Error(`cannot run the vm tier: found no ${name}; need: apt-get install ${PACKAGES[name]}`);
  }
  return path;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
