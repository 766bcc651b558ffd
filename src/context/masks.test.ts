import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MASKED_PATHS, READ_ONLY_PATHS } from './masks.ts';

test('paths are absolute, canonical, in /proc or /sys, and in one list once', () => {
  const paths = [...MASKED_PATHS, ...READ_ONLY_PATHS].map((mask) => mask.path);
  assert.equal(new Set(paths).size, paths.length);
  for (const path of paths) {
    assert.match(path, /^\/(proc|sys)(\/[a-z0-9_*-]+)+$/);
    // A masked path below another one would cover something that is covered already.
    assert.ok(!paths.some((other) => path.startsWith(`${other}/`)), path);
  }
});

test('what escapes used is covered', () => {
  const masked = new Set(MASKED_PATHS.map((mask) => mask.path));
  for (const name of [
    'kcore',
    'keys',
    'latency_stats',
    'timer_list',
    'sched_debug',
    'scsi',
    'asound',
    'acpi',
  ]) {
    assert.ok(masked.has(`/proc/${name}`), name);
  }
  for (const path of [
    '/proc/interrupts',
    '/sys/firmware',
    '/sys/kernel/security',
    '/sys/devices/virtual/powercap',
  ]) {
    assert.ok(masked.has(path), path);
  }
  assert.deepEqual(
    READ_ONLY_PATHS.map((mask) => mask.path),
    ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
  );
});
