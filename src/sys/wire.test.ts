import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { endianness } from 'node:os';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { CLIENT_FD, MACHINE_LIMITS, OP } from './program.ts';
import {
  CLIENT_PTY,
  DOWN,
  encodeFrame,
  type Frame,
  FrameReader,
  intAt,
  ints,
  longAt,
  OBJECT_KIND,
  parseHello,
  UP,
} from './wire.ts';

const HEADER = readFileSync(new URL('../../native/wire.h', import.meta.url), 'utf8').replaceAll(
  /\/\*.*?\*\//gs,
  '',
);

/** The members of an enum of native/wire.h, in camel case and without their prefix. */
function enumOf(name: string, prefix: string): Readonly<Record<string, number>> {
  const body = new RegExp(`enum ${name} ?\\{([^}]*)\\}`).exec(HEADER)?.[1];
  assert.ok(body !== undefined, `no enum ${name}`);
  const members: Record<string, number> = {};
  let next = 0;
  for (const member of body
    .split(',')
    .map((text) => text.trim())
    .filter((text) => text !== '')) {
    const [, key = '', value] = /^(\w+)(?: = (\d+))?$/.exec(member) ?? assert.fail(member);
    if (value !== undefined) next = Number(value);
    assert.ok(key.startsWith(prefix), key);
    const camel = key
      .slice(prefix.length)
      .toLowerCase()
      .replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
    members[camel] = next++;
  }
  return members;
}

function define(name: string): number {
  const text = new RegExp(`#define ${name} \\(?([0-9u* ]+)`).exec(HEADER)?.[1] ?? assert.fail(name);
  return text.split('*').reduce((product, factor) => product * Number.parseInt(factor, 10), 1);
}

describe('numbers are those of native/wire.h:', () => {
  test('operations', () => {
    const { count, ...operations } = enumOf('op', 'OP_');
    assert.deepEqual({ ...OP }, operations);
    assert.equal(count, Object.keys(OP).length);
  });
  test('frames', () => {
    assert.deepEqual({ ...DOWN }, enumOf('down', 'DOWN_'));
    assert.deepEqual({ ...UP }, enumOf('up', 'UP_'));
  });
  test('objects and clients', () => {
    assert.deepEqual({ ...OBJECT_KIND }, enumOf('object_kind', 'OBJECT_'));
    assert.deepEqual({ ...CLIENT_FD }, enumOf('', 'CLIENT_'));
    assert.equal(CLIENT_PTY, enumOf('client_message', 'CLIENT_')['pty']);
  });
  test('limits', () => {
    const { bytes, steps, imports, keeps, spawns } = MACHINE_LIMITS;
    assert.deepEqual(
      [bytes, steps, imports, keeps, spawns],
      ['PROGRAM', 'STEPS', 'IMPORTS', 'KEEPS', 'SPAWNS'].map((name) => define(`${name}_MAX`)),
    );
  });
});

test('a stream cut anywhere gives the frames that were put into it', () => {
  const frame = fc.record({
    type: fc.integer({ min: 1, max: 200 }),
    id: fc.integer({ min: 0, max: 2 ** 40 }),
    body: fc.uint8Array({ maxLength: 300 }),
  });
  fc.assert(
    fc.property(
      fc.array(frame),
      fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
      (frames, sizes) => {
        const stream = Buffer.concat(frames.map(({ type, id, body }) => encodeFrame(type, id, [body])));
        const reader = new FrameReader();
        const found: Frame[] = [];
        for (let at = 0, i = 0; at < stream.length; i++) {
          const size = sizes[i % sizes.length]!;
          for (const { type, id, body } of reader.push(Buffer.from(stream.subarray(at, at + size)))) {
            found.push({ type, id, body: Buffer.from(body) });
          }
          at += size;
        }
        assert.deepEqual(
          found,
          frames.map(({ type, id, body }) => ({ type, id, body: Buffer.from(body) })),
        );
      },
    ),
  );
});

test('integers come back as they went', () => {
  fc.assert(
    fc.property(fc.array(fc.integer()), (values) => {
      const bytes = ints(...values);
      assert.deepEqual(
        values.map((_, i) => intAt(bytes, i)),
        values,
      );
    }),
  );
  const long = Buffer.from(BigInt64Array.of(-7n).buffer);
  assert.equal(longAt(long, 0), -7);
});

const SIZE = endianness() === 'LE' ? 0x0050_0018 : 0x0018_0050; // 24 rows, 80 columns
const helloOf = (head: readonly number[], text: string): Buffer =>
  Buffer.concat([ints(...head), Buffer.from(text)]);

describe('parseHello()', () => {
  test('reads what the client sends', () => {
    const hello = parseHello(helloOf([42, 5, SIZE, 2], '/root\0list\0\0A=b=c\0__proto__=x\0=ignored\0'));
    assert.deepEqual(
      { ...hello, env: Object.entries(hello.env) },
      {
        pid: 42,
        tty: [true, false, true],
        rows: 24,
        columns: 80,
        cwd: '/root',
        argv: ['list', ''],
        env: [
          ['A', 'b=c'],
          ['__proto__', 'x'],
        ],
      },
    );
  });

  test('refuses fewer texts than it was promised', () => {
    for (const [count, text] of [
      [1, '/\0'],
      [0xffff_ffff, '/\0a\0'],
      [0x8000_0000, '/\0'],
      [0, 'no end'],
    ] as const) {
      assert.throws(() => parseHello(helloOf([1, 0, 0, count], text)), { code: 'short-hello' });
    }
    assert.throws(() => parseHello(Buffer.alloc(16)), { code: 'short-hello' });
  });

  test('never fails in another way, whatever comes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        try {
          const { argv, env } = parseHello(Buffer.from(bytes));
          assert.ok(argv.length <= bytes.length && Object.keys(env).length <= bytes.length);
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'short-hello');
        }
      }),
    );
  });
});
