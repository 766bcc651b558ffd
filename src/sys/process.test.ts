import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { identifyProcess, takesSignal } from './process.ts';

test('a signal comes through that is waited for or handled', () => {
  const proc = mkdtempSync(join(tmpdir(), 'vserver-proc-'));
  try {
    mkdirSync(join(proc, '7'));
    const status = (blocked: string, caught: string): void => {
      const lines = [
        'Name:\tSigBlk:\\n',
        `SigBlk:\t${blocked}`,
        'SigIgn:\tffffffffffffffff',
        `SigCgt:\t${caught}`,
      ];
      writeFileSync(join(proc, '7/status'), `${lines.join('\n')}\n`);
    };
    const { SIGTERM } = constants.signals;
    status('0000000000000000', '0000000000000000');
    assert.equal(takesSignal(7, SIGTERM, proc), false);
    assert.equal(takesSignal(7, 37, proc), false);
    status('0000000000004000', '0000000000000000');
    assert.equal(takesSignal(7, SIGTERM, proc), true);
    assert.equal(takesSignal(7, 37, proc), false);
    status('0000000000000000', '0000001000000000');
    assert.equal(takesSignal(7, 37, proc), true);
    assert.equal(takesSignal(8, SIGTERM, proc), true, 'it has ended');
  } finally {
    rmSync(proc, { recursive: true });
  }
});

test('a process is told by its start, whatever its name', () => {
  const proc = mkdtempSync(join(tmpdir(), 'vserver-proc-'));
  try {
    mkdirSync(join(proc, '7'));
    const fields = ['S', ...Array.from({ length: 18 }, () => '1'), '4711', '2'];
    const stat = (name: Uint8Array, state = 'S'): Buffer =>
      Buffer.concat([Buffer.from('7 ('), name, Buffer.from(`) ${[state, ...fields.slice(1)].join(' ')}\n`)]);
    writeFileSync(join(proc, '7/stat'), stat(Buffer.from('a) Z 1 (b')));
    assert.deepEqual(identifyProcess(7, proc), { pid: 7, startTicks: 4711 });
    writeFileSync(join(proc, '7/stat'), stat(Uint8Array.of(0xff, 0xc3, 0x28, 0x29)));
    assert.deepEqual(identifyProcess(7, proc), { pid: 7, startTicks: 4711 });
    writeFileSync(join(proc, '7/stat'), stat(Buffer.from('sh'), 'Z'));
    assert.equal(identifyProcess(7, proc), undefined, 'it has ended');
    assert.equal(identifyProcess(8, proc), undefined);
  } finally {
    rmSync(proc, { recursive: true });
  }
});
