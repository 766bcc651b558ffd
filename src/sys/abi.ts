/**
 * The kernel's numbers on this machine, as its headers state them: `build/abi.json`, printed by `native/abi.c`.
 */
import { readFileSync } from 'node:fs';
import { BugError, SysError } from '../base/errors.ts';

/** Numbers of one architecture's system calls, by name. */
export interface SyscallTable {
  readonly arch: string;
  /** `AUDIT_ARCH_*`: how seccomp tells architectures apart. */
  readonly auditArch: number;
  readonly syscalls: Readonly<Record<string, number>>;
}

/** A kernel structure: its size and the [offset, bytes] of each field. */
export interface StructLayout {
  readonly size: number;
  readonly [field: string]: number | readonly [number, number];
}

/** What `native/abi.c` prints. */
export interface Abi extends SyscallTable {
  readonly littleEndian: boolean;
  readonly pointerBytes: number;
  readonly pageBytes: number;
  readonly errnos: Readonly<Record<string, number>>;
  readonly constants: Readonly<Record<string, number>>;
  /** The 32-bit system calls the same kernel answers, where its headers name them. */
  readonly compat: SyscallTable | null;
  readonly structs: Readonly<Record<string, StructLayout>>;
}

/**
 * Reads `abi.json`.
 *
 * @throws SysError `abi-missing` when the native part has not been built
 */
export function loadAbi(path: string | URL = new URL('../../build/abi.json', import.meta.url)): Abi {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new SysError('abi-missing', 'cannot read "build/abi.json": found no build; need `make -C native`', {
      syscall: 'open',
      errno: 2,
      errnoName: 'ENOENT',
      cause,
    });
  }
  return JSON.parse(text) as Abi; // written by our own build
}

/** Returns the sum of named constants, for example `flags(abi, 'MS_REC', 'MS_PRIVATE')`. */
export function flags(abi: Abi, ...names: readonly string[]): number {
  let sum = 0n;
  for (const name of names) {
    const value = abi.constants[name];
    if (value === undefined)
      throw new BugError('unknown-constant', `cannot encode "${name}": found no such constant`);
    sum |= BigInt(value);
  }
  return Number(sum);
}

/** Returns the offset of a structure's field. */
export function offsetOf(abi: Abi, struct: string, field: string): number {
  return fieldOf(abi, struct, field)[0];
}

/** Returns how many bytes a structure's field has. */
export function widthOf(abi: Abi, struct: string, field: string): number {
  return fieldOf(abi, struct, field)[1];
}

function fieldOf(abi: Abi, struct: string, field: string): readonly [number, number] {
  const at = abi.structs[struct]?.[field];
  if (at === undefined || typeof at === 'number') {
    throw new BugError('unknown-field', `cannot encode "${struct}.${field}": found no such field`);
  }
  return at;
}

/** Returns the size of a structure in bytes. */
export function sizeOf(abi: Abi, struct: string): number {
  const layout = abi.structs[struct];
  if (layout === undefined)
    throw new BugError('unknown-field', `cannot encode "${struct}": found no such structure`);
  return layout.size;
}

/** Returns the name of an error number, `E<n>` if the headers have none. */
export function errnoName(abi: Abi, errno: number): string {
  for (const [name, value] of Object.entries(abi.errnos)) if (value === errno) return name;
  return `E${errno}`;
}
