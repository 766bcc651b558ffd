import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Dependent, Turns } from './turns.ts';

function guests(depends: Readonly<Record<string, readonly string[]>>): readonly Dependent[] {
  return Object.entries(depends).map(([name, names]) => ({
    name,
    config: { boot: { depends: names.map((other) => ({ name: other })) } },
  }));
}

const SOME = guests({ app: ['db', 'cache'], cache: [], db: ['disk'], disk: [], other: ['nobody'] });

test('each comes behind those it depends on, and goes before them', () => {
  const names = (turns: Turns<Dependent>): readonly string[] => turns.guests.map(({ name }) => name);
  assert.deepEqual(names(Turns.toStart(SOME)), ['disk', 'db', 'cache', 'app', 'other']);
  assert.deepEqual(names(Turns.toStop(SOME)), ['app', 'cache', 'db', 'disk', 'other']);
});

test('a turn comes when those before are done, well or not; who waits for nobody does not wait', async () => {
  const turns = Turns.toStart(SOME);
  const said: string[] = [];
  const gates = new Map(SOME.map(({ name }) => [name, Promise.withResolvers<void>()]));
  const all = turns.each(5, async ({ name }) => {
    said.push(`${name} begins`);
    await gates.get(name)!.promise;
    said.push(`${name} ends`);
  });
  await new Promise(setImmediate);
  assert.deepEqual(said, ['disk begins', 'cache begins', 'other begins']);
  gates.get('disk')!.resolve();
  await new Promise(setImmediate);
  assert.deepEqual(said.slice(3), ['disk ends', 'db begins']);
  for (const gate of gates.values()) gate.resolve();
  await all;
  assert.deepEqual(said.slice(-2), ['app begins', 'app ends']);
  const [first, second] = guests({ a: [], b: ['a'] }) as [Dependent, Dependent];
  const two = Turns.toStart([first, second]);
  const failed = assert.rejects(two.take(first, () => Promise.reject(new Error('no'))));
  assert.equal(await two.take(second, async () => 'on'), 'on');
  await failed;
});

test('a few at a time are enough, however they wait', async () => {
  const chain = guests(Object.fromEntries(Array.from({ length: 50 }, (_, i) => [`g${i}`, [`g${i + 1}`]])));
  const said: string[] = [];
  await Turns.toStart(chain).each(2, async ({ name }) => {
    said.push(name);
  });
  assert.equal(said[0], 'g49');
  assert.equal(said.length, 50);
});

test('a circle is told', () => {
  assert.throws(() => Turns.toStart(guests({ a: ['b'], b: ['c'], c: ['b'] })), {
    code: 'depends-cycle',
    message: /"b" depends on "c" depends on "b"/,
  });
});
