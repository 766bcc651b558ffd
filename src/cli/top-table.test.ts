import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GuestStat } from '../guest/accounting.ts';
import { formatSummary, formatTop, rowsBetween, sortRows } from './top-table.ts';

const MIB = 1024 ** 2;

function row(xid: number, values: Partial<GuestStat> = {}): GuestStat {
  return {
    xid,
    processes: 1,
    tasks: 2,
    virtualBytes: 8 * MIB,
    residentBytes: MIB,
    userMs: 0,
    systemMs: 0,
    uptimeMs: 60_000,
    name: `g${xid}`,
    ...values,
  };
}

test('the share of CPU time is that between two looks', () => {
  const before = { atMs: 1000, rows: [row(0), row(5, { userMs: 100 }), row(6, { userMs: 900 })] };
  const now = {
    atMs: 3000,
    rows: [
      row(0, { userMs: 200 }),
      row(5, { userMs: 900, systemMs: 700 }),
      // Started anew in between: what it used before is another run's.
      row(6, { userMs: 40, uptimeMs: 50 }),
      row(7, { userMs: 30 }),
    ],
  };
  assert.deepEqual(
    rowsBetween(before, now).map((one) => one.cpuPercent),
    [10, 75, 0, 0],
  );
});

test('rows are sorted below the host', () => {
  const rows = rowsBetween(
    { atMs: 0, rows: [] },
    { atMs: 1, rows: [row(0), row(7, { name: 'b' }), row(6, { name: 'c', residentBytes: 9 }), row(5)] },
  );
  const order = (
    ...how: Parameters<typeof sortRows> extends [unknown, ...infer Rest] ? Rest : never
  ): number[] => sortRows(rows, ...how).map(({ xid }) => xid);
  assert.deepEqual(order('memory'), [0, 5, 7, 6]);
  assert.deepEqual(order('memory', true), [0, 6, 5, 7]);
  assert.deepEqual(order('name'), [0, 7, 6, 5]);
  assert.deepEqual(order('context'), [0, 5, 6, 7]);
});

test('the table and the line above it', () => {
  const rows = rowsBetween(
    { atMs: 0, rows: [row(0), row(5)] },
    { atMs: 1000, rows: [row(0), row(5, { userMs: 255, name: 'a\x1b' })] },
  );
  assert.equal(formatSummary(rows, 'cpu'), '1 guests, 1 processes, 25.5 % CPU, 1MiB resident, by cpu');
  assert.equal(
    formatTop(rows),
    [
      'CTX  PROC  TASKS  %CPU   RSS   VSZ  TIME  UPTIME  NAME',
      '  0     1      2   0.0  1MiB  8MiB  0:00      1m  g0',
      '  5     1      2  25.5  1MiB  8MiB  0:00      1m  a\\x1b',
      '',
    ].join('\n'),
  );
});
