import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { UserError } from '../base/errors.ts';
import { parseGuestConfig } from '../guest/config.ts';
import type { GuestView } from './guest-view.ts';
import { limitKeys } from './guest-view.ts';
import { formatJson, formatJsonLine } from './json.ts';
import { formatProcesses, formatTrees, sortProcesses } from './ps-table.ts';
import { formatCpuTime, formatSpan, secondsSince } from './uptime.ts';
import { areRequiredMet, formatFindings, formatIssues } from './verbs/check.ts';
import { formatDaemonStatus } from './verbs/daemon.ts';
import { formatList, hasLabel } from './verbs/list.ts';
import { formatStatus } from './verbs/status.ts';

test('spans of time', () => {
  const spans = [0, 1, 59, 60, 61, 3600, 3661, 86_400, 90_061, 8_640_000];
  assert.deepEqual(spans.map(formatSpan), [
    '0s',
    '1s',
    '59s',
    '1m',
    '1m1s',
    '1h',
    '1h1m',
    '1d',
    '1d1h',
    '100d',
  ]);
  assert.deepEqual([0, 999, 61_000, 3_723_000].map(formatCpuTime), ['0:00', '0:00', '1:01', '1:02:03']);
  assert.equal(secondsSince(1000, 15.99), 5);
  assert.equal(secondsSince(-1, 15), 0);
  assert.equal(secondsSince(2000, 15), 0);
});

test('JSON does not steer a terminal', () => {
  const text = 'a\u001b[2J\u009b\u007f\u202e\n';
  assert.equal(formatJsonLine({ text }), '{"text":"a\\u001b[2J\\u009b\\u007f\\u202e\\n"}\n');
  assert.deepEqual(JSON.parse(formatJson([text])), [text]);
});

test('limits by the names of the configuration, each once', () => {
  assert.deepEqual(limitKeys(['cpuQuotaUs', 'cpuPeriodUs', 'memoryBytes']), ['limits.cpus', 'limits.memory']);
});

describe('tables', () => {
  const guest = {
    name: 'web',
    xid: 1000,
    state: 'running',
    initPid: 42,
    uptimeSeconds: 61,
    template: 'host',
    command: ['sh', '-c', 'x'.repeat(80)],
  } as unknown as GuestView; // the rest is not shown

  test('of guests', () => {
    const stopped = {
      ...guest,
      name: 'b',
      state: 'stopped',
      initPid: null,
      uptimeSeconds: null,
      command: ['a\nb'],
    };
    const broken = { name: 'c', state: 'broken', error: 'x' } as const;
    assert.equal(
      formatList([guest, stopped as GuestView, broken]),
      `NAME   XID  STATE    PID  UPTIME  TEMPLATE  COMMAND
web   1000  running   42    1m1s  host      sh -c ${'x'.repeat(43)}…
b     1000  stopped    -       -  host      a\\x0ab
c        -  broken     -       -  -         -
`,
    );
  });

  test('of processes', () => {
    const one = {
      pid: 5,
      nsPids: [5, 1],
      ppid: 1,
      uid: 65_536_000,
      state: 'S',
      threads: 1,
      residentBytes: undefined,
      cpuMs: 1000,
      name: 'x\u001b[m',
      argv: ['a\u001b[2J', 'b c'],
      guestPid: 1,
      guestUid: 0,
    };
    const processes = [one, { ...one, argv: [], guestUid: undefined }];
    assert.equal(
      formatProcesses([{ name: 'web', xid: 1000, processes }]),
      `GUEST   XID  PID  GPID  USER  STAT  RSS  TIME  COMMAND
web    1000    5     1     0  S       -  0:01  a\\x1b[2J b c
web    1000    5     1  host  S       -  0:01  [x\\x1b[m]
`,
    );
    const big = { ...one, pid: 4, residentBytes: 3 * 1024 ** 2, name: 'y' };
    const guests = [
      { name: 'web', xid: 1000, processes: [one] },
      { name: 'db', xid: 1001, processes: [{ ...one, pid: 9, name: 'a' }, big] },
    ];
    const order = (key: 'memory' | 'pid' | 'name'): string =>
      sortProcesses(guests, key)
        .map(({ name, processes }) => `${name} ${processes.map(({ pid }) => pid).join()}`)
        .join(', ');
    assert.equal(order('memory'), 'db 4, web 5, db 9');
    assert.equal(order('pid'), 'db 4, web 5, db 9');
    assert.equal(order('name'), 'db 9, web 5, db 4');
    const child = (pid: number, ppid: number, name: string): typeof one => ({
      ...one,
      pid,
      ppid,
      guestPid: pid - 40,
      name,
      argv: [],
    });
    const tree = [
      child(41, 7, 'init'),
      child(42, 41, 'sh'),
      child(43, 42, 'x\x1b'),
      child(44, 41, 'cron'),
      child(50, 9, 'ps'),
    ];
    assert.equal(
      formatTrees([{ name: 'web', xid: 1000, processes: tree }]),
      `web (1000)
├─1 [init]
│ ├─2 [sh]
│ │ └─3 [x\\x1b]
│ └─4 [cron]
└─10 [ps]
`,
    );
  });

  test('of findings', () => {
    const findings = [
      { name: 'a', ok: true, detail: 'fine', isRequired: true },
      { name: 'b', ok: false, detail: 'no', isRequired: false },
    ];
    assert.ok(areRequiredMet(findings));
    const failed = [...findings, { name: 'c', ok: false, detail: 'x; need y', isRequired: true }];
    assert.ok(!areRequiredMet(failed));
    assert.equal(
      formatFindings(failed),
      'WHAT  OK    DETAIL\na     yes   fine\nb     no    no\nc     FAIL  x; need y\n',
    );
  });
});

test('status in the words of Linux-VServer', () => {
  const running = { name: 'web', xid: 1000, state: 'running', processes: 3, uptimeSeconds: 61 };
  assert.equal(
    formatStatus(running),
    "Vserver 'web' is running at context '1000'\nNumber of processes: 3\nUptime: 1m1s\n",
  );
  const stopped = { ...running, state: 'stopped', processes: 0, uptimeSeconds: null };
  assert.equal(formatStatus(stopped), "Vserver 'web' is stopped\n");
});

test('status of the daemon names what is missing', () => {
  const finding = { name: 'busybox', ok: false, detail: '', isRequired: false };
  const text = formatDaemonStatus({
    vserverdPid: 2,
    syscalldPid: 1,
    version: '0.1.0',
    startedAt: '2026-01-01T00:00:00.000Z',
    root: null,
    guests: { running: 1, total: 2 },
    host: { ok: true, findings: [finding] },
  });
  assert.match(text, /^Guests: 1 running, 2 in all\nHost: fine, without busybox; see `vserver check`\n/m);
});

test('labels', () => {
  assert.ok(hasLabel({ team: 'web' }, 'team', 'web'));
  assert.ok(hasLabel({ team: 'web' }, 'team', ''));
  assert.ok(!hasLabel({ team: 'web' }, 'team', 'db'));
  assert.ok(!hasLabel({}, 'toString', ''));
});

test('every issue of a configuration file stands on a line', () => {
  try {
    parseGuestConfig('xid: 1\nfoo: 2\ncommand: x\n', '/etc/web.yaml');
    assert.fail('accepted');
  } catch (error) {
    assert.ok(error instanceof UserError);
    assert.deepEqual(formatIssues(error), [
      '/etc/web.yaml:1:6: cannot use 1 as "xid"; need a whole number from 2 to 65535',
      '/etc/web.yaml:2:1: unknown key "foo"',
    ]);
  }
});
