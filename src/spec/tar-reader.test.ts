import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { TarError, type TarMember, TarReader, type TarSink } from './tar-reader.ts';

interface Read {
  readonly member: TarMember;
  readonly sha256: string;
  readonly stored: number;
}

/** Reads an archive that comes in pieces of some size. */
function read(archive: Buffer, pieceBytes: number, isChecked = false): readonly Read[] {
  const found: Read[] = [];
  let now:
    | { member: TarMember; hash: ReturnType<typeof createHash>; size: number; stored: number }
    | undefined;
  const sink: TarSink = {
    member: (member) => {
      now = { member, hash: createHash('sha256'), size: 0, stored: 0 };
    },
    data: (bytes) => {
      now?.hash.update(bytes);
      if (now) [now.size, now.stored] = [now.size + bytes.length, now.stored + bytes.length];
    },
    hole: (bytes) => {
      now?.hash.update(Buffer.alloc(bytes));
      if (now) now.size += bytes;
    },
    end: () => {
      assert.ok(now);
      assert.equal(now.size, now.member.size, now.member.name);
      found.push({ member: now.member, sha256: now.hash.digest('hex'), stored: now.stored });
    },
  };
  const reader = new TarReader(sink);
  for (let at = 0; at < archive.length; at += pieceBytes) reader.push(archive.subarray(at, at + pieceBytes));
  reader.end(isChecked);
  return found;
}

const LONG = `${'d'.repeat(90)}/${'e'.repeat(90)}/${'f'.repeat(90)}`;
const SPARSE_BYTES = 3_000_000;

/** Makes an archive of a tree with the host's tar. */
function packed(...options: readonly string[]): { readonly archive: Buffer; readonly sparse: string } {
  const dir = mkdtempSync(join(tmpdir(), 'vserver-tar-'));
  try {
    mkdirSync(join(dir, LONG), { recursive: true });
    writeFileSync(join(dir, LONG, 'file'), 'deep\n');
    writeFileSync(join(dir, 'empty'), '');
    writeFileSync(join(dir, 'n\xe9'), 'x'.repeat(1000));
    symlinkSync(`/${LONG}/${'g'.repeat(90)}`, join(dir, 'link'));
    const sparse = join(dir, 'sparse');
    const fd = openSync(sparse, 'w');
    const whole = Buffer.alloc(SPARSE_BYTES);
    for (let at = 0; at < SPARSE_BYTES - 8192; at += 65_536) {
      writeSync(fd, 'data', at);
      whole.write('data', at);
    }
    truncateSync(sparse, SPARSE_BYTES);
    const { status, stdout, stderr } = spawnSync('tar', ['-C', dir, '-cSf', '-', ...options, '.'], {
      maxBuffer: 64 * 1024 * 1024,
    });
    assert.equal(status, 0, String(stderr));
    return { archive: stdout, sparse: createHash('sha256').update(whole).digest('hex') };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

describe('what GNU tar writes', () => {
  const formats: readonly (readonly string[])[] = [
    ['--format=gnu'],
    ['--format=pax', '--sparse-version=1.0'],
    ['--format=pax', '--sparse-version=0.1'],
    ['--format=pax', '--sparse-version=0.0'],
  ];
  for (const options of formats) {
    test(options.join(' '), () => {
      const { archive, sparse } = packed(...options, '--mtime=@-1.25');
      for (const pieceBytes of [archive.length, 8191, 100]) {
        const members = read(archive, pieceBytes);
        const named = (name: string): Read => {
          const one = members.find(({ member }) => member.name === name);
          assert.ok(one, name);
          return one;
        };
        assert.equal(named(`./${LONG}/file`).member.size, 5);
        assert.equal(named('./link').member.linkName, `/${LONG}/${'g'.repeat(90)}`);
        assert.equal(named('./empty').member.size, 0);
        assert.equal(named(Buffer.from('./n\xe9').toString('latin1')).member.size, 1000);
        assert.equal(named('./').member.type, 'directory');
        const file = named('./sparse');
        assert.equal(file.sha256, sparse);
        assert.ok(file.stored < SPARSE_BYTES / 2, 'its holes are not in the archive');
        const { mtimeSeconds, mtimeNanoseconds } = file.member;
        assert.deepEqual(
          [mtimeSeconds, mtimeNanoseconds],
          options[0] === '--format=gnu' ? [-2, 0] : [-2, 750_000_000],
        );
      }
    });
  }
});

test('an archive that is cut anywhere is not taken for a whole one', () => {
  const { archive } = packed('--format=pax');
  let refused = 0;
  for (let end = 1; end < archive.length - 10_240; end += 509) {
    try {
      read(archive.subarray(0, end), 65_536, true);
      assert.equal(end % 512, 0);
      assert.throws(() => read(archive.subarray(0, end), 65_536), TarError);
    } catch (error) {
      assert.ok(error instanceof TarError, String(error));
      refused++;
    }
  }
  assert.ok(refused > 10);
});

test('bytes that are changed anywhere give members or a TarError', () => {
  const { archive } = packed('--format=gnu');
  let seed = 1;
  const random = (below: number): number => {
    seed = (seed * 48_271) % 0x7fffffff;
    return seed % below;
  };
  for (let round = 0; round < 300; round++) {
    const changed = Buffer.from(archive.subarray(0, 20_000));
    for (let i = 0; i < 20; i++) changed[random(changed.length)] = random(256);
    // Its sum, so that more than the sum is tried.
    for (let at = 0; at + 512 <= changed.length && round % 2 === 0; at += 512)
      fixSum(changed.subarray(at, at + 512));
    try {
      read(changed, 4096);
    } catch (error) {
      const isOfHole = error instanceof RangeError && /Invalid|allocation/.test(error.message);
      assert.ok(error instanceof TarError || isOfHole, String(error));
    }
  }
});

function fixSum(block: Buffer): void {
  if (block.every((byte) => byte === 0)) return;
  block.fill(32, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
}
