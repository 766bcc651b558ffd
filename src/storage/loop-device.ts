/**
 * Loop devices: a file as a block device.
 *
 * @see loop(4); LOOP_CONFIGURE since Linux 5.8. Numbers and layout are the same on all architectures (linux/loop.h).
 */
import { planNumberPath } from '../sys/number-path.ts';
import { planWait } from '../sys/planned-wait.ts';
import type { Arg, Program, Result } from '../sys/program.ts';

const LOOP_SET_CAPACITY = 0x4c07;
const LOOP_CONFIGURE = 0x4c0a;
const LOOP_CTL_GET_FREE = 0x4c82;
const LO_FLAGS_READ_ONLY = 1;
/** The device goes when nobody has it open or mounted any more. */
const LO_FLAGS_AUTOCLEAR = 4;
/** What is written is not in memory twice; ignored where the file system below cannot. */
const LO_FLAGS_DIRECT_IO = 16;
/** `struct loop_config`: fd at 0, block_size at 4, then `struct loop_info64` with lo_flags at 52. */
const CONFIG_BYTES = 304;
const FLAGS_AT = 8 + 52;
/** Somebody else may take the free device first: so many are asked for. */
const TRIES = 4;
const DEVICE = '/dev/loop';
const CONTROL = '/dev/loop-control';
/** Between tries to open that: 5 s in all. */
const MODULE_WAITS_MS = [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560];

/** Adds the steps that make a file a device, and open that. The device goes with its last user. */
export function planLoop(p: Program, file: Arg, { isReadOnly }: { readonly isReadOnly: boolean }): Result {
  const flags = LO_FLAGS_AUTOCLEAR | (isReadOnly ? LO_FLAGS_READ_ONLY : LO_FLAGS_DIRECT_IO);
  const at = p.flags('AT_FDCWD');
  const control = planControl(p);
  const config = p.data(CONFIG_BYTES, 'loop_config');
  p.store(config, file);
  p.put(config.at(FLAGS_AT), flags);
  const device = p.data(8, 'device');
  const done = p.label();
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    const free = p.sys('ioctl', [control, LOOP_CTL_GET_FREE, 0], { about: 'free loop device' });
    const path = planNumberPath(p, DEVICE, free);
    const fd = p.sys('openat', [at, path, p.flags(isReadOnly ? 'O_RDONLY' : 'O_RDWR', 'O_CLOEXEC'), 0], {
      about: 'loop device',
    });
    p.store(device, fd, 8);
    const next = p.label();
    const retry = attempt < TRIES ? { otherwise: { on: ['EBUSY'], to: next } } : {};
    p.sys('ioctl', [fd, LOOP_CONFIGURE, config], { about: 'set up loop device', ...retry });
    p.jump(done);
    p.place(next);
    if (attempt < TRIES) p.sys('close', [fd]);
  }
  p.place(done);
  p.sys('close', [control]);
  return p.load(device, 8);
}

/**
 * Adds the steps that open /dev/loop-control. The first open of all has the kernel load the module, and whoever opens it
 * meanwhile may be told that there is none: a modprobe that finds the module being loaded need not wait for it
 * (`misc_open`, drivers/char/misc.c).
 */
function planControl(p: Program): Result {
  const control = p.data(8, 'loop-control');
  const opened = p.label();
  for (const waitMs of [...MODULE_WAITS_MS, undefined]) {
    const next = p.label();
    const retry = waitMs === undefined ? {} : { otherwise: { on: ['ENODEV', 'ENXIO'], to: next } };
    const fd = p.sys('openat', [p.flags('AT_FDCWD'), CONTROL, p.flags('O_RDWR', 'O_CLOEXEC'), 0], {
      about: CONTROL,
      ...retry,
    });
    p.store(control, fd, 8);
    p.jump(opened);
    p.place(next);
    if (waitMs !== undefined) planWait(p, waitMs, 'the module');
  }
  p.place(opened);
  return p.load(control, 8);
}

/** Adds the step that makes a loop device as large as its file has become. */
export function planLoopGrown(p: Program, device: Arg): void {
  p.sys('ioctl', [device, LOOP_SET_CAPACITY, 0], { about: 'size of the loop device' });
}
