// SPDX-License-Identifier: MIT OR GPL-2.0-only
/**
 * The devices a guest may use, as an eBPF program of type cgroup/dev (Linux 4.15). Second fence behind `nodev` mounts
 * and the missing CAP_MKNOD: it holds whatever node a guest comes by.
 */
import { EbpfAssembler } from '../sys/bpf/assembler.ts';

/** A character device, or all of one major number. */
export interface Device {
  readonly major: number;
  readonly minor: number | 'any';
}

/** Memory devices without the host's memory, the terminals (Documentation/admin-guide/devices.txt). */
const ALLOWED_DEVICES: readonly Device[] = [
  { major: 1, minor: 3 }, // null
  { major: 1, minor: 5 }, // zero
  { major: 1, minor: 7 }, // full
  { major: 1, minor: 8 }, // random
  { major: 1, minor: 9 }, // urandom
  { major: 5, minor: 0 }, // tty
  { major: 5, minor: 2 }, // ptmx
  { major: 136, minor: 'any' }, // terminals of devpts
];

/** struct bpf_cgroup_dev_ctx (linux/bpf.h): u32 access_type (access << 16 | type), major, minor. */
const CONTEXT = { accessType: 0, major: 4, minor: 8 } as const;
const TYPE_MASK = 0xffff;
const BPF_DEVCG_DEV_CHAR = 2;

/** Returns the program: 1 allows, 0 refuses with EPERM. */
export function deviceFilter(devices: readonly Device[] = ALLOWED_DEVICES): Uint8Array {
  const a = new EbpfAssembler();
  a.loadWord(2, 1, CONTEXT.accessType).and(2, TYPE_MASK).jumpIfNotEqual(2, BPF_DEVCG_DEV_CHAR, 'refuse');
  a.loadWord(3, 1, CONTEXT.major).loadWord(4, 1, CONTEXT.minor);
  for (const [i, { major, minor }] of devices.entries()) {
    if (minor === 'any') {
      a.jumpIfEqual(3, major, 'allow');
    } else {
      a.jumpIfNotEqual(3, major, `next ${i}`).jumpIfEqual(4, minor, 'allow').label(`next ${i}`);
    }
  }
  return a.label('refuse').move(0, 0).exit().label('allow').move(0, 1).exit().assemble();
}
