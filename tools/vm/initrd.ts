/** Builds the initramfs that turns the host's file tree into the root of a stock kernel. */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type CpioMember, DIRECTORY, EXECUTABLE, formatCpio, PLAIN_FILE } from './cpio.ts';
import type { StockKernel } from './fetch-kernel.ts';

/** What is loaded before there is a root; everything else the kernel asks of modprobe when it is used. */
const BOOT_MODULES: readonly string[] = [
  'virtio_pci',
  '9pnet_virtio',
  '9p',
  'overlay',
  'virtio_blk',
  'crc32c_generic',
  'ext4',
  'quota_v2',
];

/** One file of the initramfs beside those every boot has. */
export type InitrdFile = { readonly path: string; readonly data: Uint8Array };

/**
 * Builds an initramfs: static busybox, the boot modules of `kernel` in /modules and, in loading order, /modules/order,
 * and `files`. The caller brings /init.
 *
 * @param busyboxPath a static busybox
 * @returns the uncompressed archive, some 5 MB
 */
export function buildInitrd(
  kernel: StockKernel,
  busyboxPath: string,
  files: readonly InitrdFile[],
): Uint8Array {
  const modules = loadingOrder(
    readFileSync(join(kernel.modulesPath, 'modules.dep'), 'utf8'),
    readFileSync(join(kernel.modulesPath, 'modules.builtin'), 'utf8'),
    BOOT_MODULES,
  );
  const directories: readonly CpioMember[] = [
    'bin',
    'dev',
    'proc',
    'sys',
    'modules',
    'lower',
    'writes',
    'root',
  ].map((path) => ({ path, mode: DIRECTORY }));
  return formatCpio([
    ...directories,
    { path: 'bin/busybox', mode: EXECUTABLE, data: readFileSync(busyboxPath) },
    ...modules.map((path) => ({
      path: join('modules', basename(path)),
      mode: PLAIN_FILE,
      data: readFileSync(join(kernel.modulesPath, path)),
    })),
    {
      path: 'modules/order',
      mode: PLAIN_FILE,
      data: Buffer.from(modules.map((path) => `${basename(path)}\n`).join('')),
    },
    ...files.map(({ path, data }) => ({ path, mode: EXECUTABLE, data })),
  ]);
}

/**
 * The modules to load so that each of `names` is there, every one after those it needs, as paths of modules.dep.
 * A name that is built into the kernel needs none.
 *
 * @param modulesDep lines of `path: path…`, a module and what it needs (modules.dep(5))
 * @param modulesBuiltin lines of a path each
 * @throws Error when a name is neither a module nor built in
 */
export function loadingOrder(
  modulesDep: string,
  modulesBuiltin: string,
  names: readonly string[],
): readonly string[] {
  const needs = new Map<string, readonly string[]>();
  const pathOf = new Map<string, string>();
  for (const line of modulesDep.split('\n')) {
    const [path = '', rest = ''] = line.split(':');
    needs.set(
      path,
      rest.split(' ').filter((word) => word !== ''),
    );
    pathOf.set(moduleName(path), path);
  }
  const builtin = new Set(modulesBuiltin.split('\n').map(moduleName));
  const order = new Set<string>();
  const add = (path: string): void => {
    if (order.has(path)) return;
    for (const needed of needs.get(path) ?? []) add(needed);
    order.add(path);
  };
  for (const name of names) {
    const path = pathOf.get(name.replaceAll('-', '_'));
    if (path !== undefined) add(path);
    else if (!builtin.has(name.replaceAll('-', '_'))) {
      throw new Error(`cannot build an initramfs: found no module "${name}"; need: a kernel that has it`);
    }
  }
  return [...order];
}

/** `kernel/fs/9p/9p.ko.xz` → `9p`; file names mix - and _, module names have _ only. */
function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');
}
