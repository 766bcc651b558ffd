/** Writes the seeds of the fuzzer's corpus: `node tools/make-corpus.ts [DIRECTORY]`. What it finds is added beside them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { loadAbi } from '../src/sys/abi.ts';
import { Program } from '../src/sys/program.ts';
import { DOWN, encodeFrame, ints } from '../src/sys/wire.ts';

const abi = loadAbi();

function program(build: (p: Program) => void): Buffer {
  const p = new Program(abi);
  build(p);
  return p.encode().bytes;
}

const everyOperation = program((p) => {
  const pair = p.data(8);
  const end = p.label();
  p.sys('pipe2', [pair, p.flags('O_CLOEXEC')], { ignore: ['EMFILE', 'ENFILE'] });
  const [from, to] = [p.load(pair), p.load(pair.at(4))];
  const child = p.spawn('child', { flags: p.flags('CLONE_NEWPID', 'CLONE_NEWNS'), object: 5 }, () => {
    const command = p.spawn('command', {}, () => {
      p.sys('execve', ['/bin/true', p.vector(['true', '-x']), p.vector(['A=b'])], { about: '/bin/true' });
    });
    p.fakeinit(command, to, 5);
  });
  p.expect(child, '!=', 0, 'EPROTO', 'a child');
  const digits = p.data(24);
  p.sys('write', [to, digits, p.itoa(digits, child)], { otherwise: { on: ['EPIPE', 'EAGAIN'], to: end } });
  const how = p.struct('open_how', { flags: p.flags('O_PATH'), resolve: p.flags('RESOLVE_BENEATH') });
  p.removeTree(p.sys('openat2', [p.import(3), 'var', how, how.length], { about: 'var' }), 'var');
  p.keep(from, 7);
  p.place(end);
  p.returns(digits);
});

const dataOnly = program((p) => {
  const place = p.data(8);
  const text = p.data(24);
  p.store(place, 1234567890123n, 8);
  const value = p.load(place, 8);
  p.expect(p.itoa(text, value), '==', 13, 'EPROTO', 'digits');
  p.expect(value, '&', 3, 'EPROTO', 'bits', { mask: 7 });
  p.expectBytes(text, Buffer.from('1234567890123'), 'EPROTO', 'text');
  const slot = p.data(8);
  p.pointer(slot, text);
  p.store(place.at(4), -1);
  p.returns(text.at(0, 13));
});

const bytes64 = (value: number): Buffer => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
const hello = Buffer.concat([ints(1, 7, 0x0050_0018, 2), Buffer.from('/root\0list\0--json\0PATH=/bin\0')]);
const worker = (kind: number, keeps: number, results: number, slice: number): Buffer =>
  Buffer.concat([
    ints(kind, 5, 4711, 0, 2, 1, 1, keeps, results, slice),
    Buffer.alloc(128 + 8 * results + slice),
  ]);

const seeds: Readonly<Record<string, Buffer>> = {
  'program-empty': Buffer.concat([Buffer.from('P'), program((p) => void p.sys('getpid', []))]),
  'program-data': Buffer.concat([Buffer.from('P'), dataOnly]),
  'program-every-operation': Buffer.concat([Buffer.from('P'), everyOperation]),
  'frames-run': Buffer.concat([
    Buffer.from('F'),
    encodeFrame(DOWN.run, 9, [ints(0, 2, 3, 0, 4, 1), everyOperation]),
  ]),
  'frames-log': Buffer.concat([
    Buffer.from('F'),
    encodeFrame(DOWN.log, 8, [bytes64(1 << 20), ints(5, 6), Buffer.from('/log\0')]),
    encodeFrame(DOWN.signal, 5, [ints(15)]),
    encodeFrame(DOWN.ready, 0),
  ]),
  'frames-client': Buffer.concat([
    Buffer.from('F'),
    encodeFrame(1, 3, [hello]), // the frame's id says how many descriptors came
    encodeFrame(1, 0, [ints(2, 15)]),
    encodeFrame(1, 0, [ints(3)]),
    encodeFrame(1, 1, [ints(4)]),
  ]),
  'frames-worker': Buffer.concat([
    Buffer.from('F'),
    encodeFrame(1, 1, [worker(1, 0, 0, 0)]),
    encodeFrame(1, 2, [worker(2, 2, 3, 16)]),
    encodeFrame(1, 0, [worker(3, 0, 0, 0)]),
  ]),
};

const directory = resolve(process.argv[2] ?? join(import.meta.dirname, '../test/fuzz/corpus'));
mkdirSync(directory, { recursive: true });
for (const [name, bytes] of Object.entries(seeds)) writeFileSync(join(directory, name), bytes);
