/**
 * Kills clients, vserverd, syscalld, brokers, relay and guests' inits at random moments while clients start, stop,
 * change and delete guests, then looks whether what is told agrees with what is there, and whether everything can be
 * removed: `tools/node test/stress/sudden-ends.ts [ROUNDS [SEED]]`, as root. It is no tier: nothing in it is decided by
 * time, but how much is met depends on the machine.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { instanceCgroupName } from '../../src/resources/cgroup-layout.ts';
import { eventually, type Instance, type Outcome, withInstance } from '../lib/instance.ts';
import { openNetwork, type TestNetwork } from '../lib/network.ts';

const ROUNDS = Number(process.argv[2] ?? 200);
const SEED = Number(process.argv[3] ?? 1);
/** Operations that are under way at once in a round. */
const OPERATIONS = 5;
/** A check of everything after each so many rounds. */
const ROUNDS_PER_CHECK = 5;
const NAMES = ['a', 'b', 'c', 'd', 'e', 'f'] as const;

interface Guest {
  readonly name: string;
  readonly state: string;
  readonly network: { readonly addresses?: readonly string[] };
}

const STATES_AT_REST: readonly string[] = ['running', 'stopped', 'paused'];

/** xorshift32: the same seed asks for the same operations in the same order. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed | 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

const random = randomNumbers(SEED);
const choose = <T>(from: readonly T[]): T => from[random(from.length)]!;

function operation(): readonly string[] {
  const name = choose(NAMES);
  const at = NAMES.indexOf(name);
  const address = `10.9.0.${10 + at}`;
  const create = ['--ip', `${address}/24`, '--ip', `fd09::${10 + at}/64`, '--network-interface', 'h0'];
  return choose([
    ['create', '--name', name, ...create, '-m', '64m', '--', 'sleep', '1000'],
    ['create', '--name', name, '--template', 'busybox', '--disk', '32m', ...create, '--', 'sleep', '1000'],
    ['run', '-d', '--rm', '--name', name, ...create, '--', 'sleep', '1000'],
    ['run', '--rm', ...(random(2) === 0 ? [] : create), '--', 'sh', '-c', 'echo hi > /root/f'],
    ['start', name],
    ['start', name],
    ['start', name],
    ['stop', '-t', '0', name],
    ['restart', '-t', '0', name],
    ['exec', name, 'sh', '-c', 'cat /proc/meminfo /proc/stat > /root/f'],
    ['set', name, 'limits.memory=128m'],
    ['set', name, '--ip-add', `10.9.0.${30 + at}/24`],
    ['set', name, '--ip-rm', `10.9.0.${30 + at}`],
    ['pause', name],
    ['resume', name],
    ['kill', name],
    ['delete', '--force', name],
    ['clone', name, choose(NAMES)],
    ['snapshot', name],
    ['list', '-a'],
  ]);
}

/** Processes in the cgroups of an instance, and its daemons, by what they are. */
function processes(root: string): ReadonlyMap<string, readonly number[]> {
  const cgroup = `/${instanceCgroupName(root)}/`;
  const found = new Map<string, number[]>();
  const add = (kind: string, pid: number): void => {
    found.set(kind, [...(found.get(kind) ?? []), pid]);
  };
  const parents = new Map<number, number>();
  const daemons: number[] = [];
  const names = new Map<number, string>();
  for (const pid of readdirSync('/proc')
    .map(Number)
    .filter((n) => n > 0)) {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
      const status = readFileSync(`/proc/${pid}/status`, 'latin1');
      parents.set(pid, Number(/^PPid:\t(\d+)$/m.exec(status)?.[1]));
      names.set(pid, words[0] ?? '');
      const isIn = readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(cgroup);
      if (words[0] === 'syscalld' && words[2] === root) {
        add('syscalld', pid);
        daemons.push(pid);
      } else if (words.includes(root) && words.some((word) => /daemon.main\.[jt]s$/.test(word))) {
        add('vserverd', pid);
      } else if (isIn) add(words[0] === 'broker' || words[0] === 'init' ? words[0] : 'command', pid);
    } catch {
      // it has ended
    }
  }
  for (const [pid, parent] of parents) {
    const name = names.get(pid) ?? '';
    if (daemons.includes(parent) && name === 'relay') add(name, pid);
  }
  return found;
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended meanwhile
  }
}

async function round(v: Instance): Promise<readonly string[]> {
  const told: string[] = [];
  const clients = Array.from({ length: OPERATIONS }, () => {
    const words = operation();
    const client = v.spawn(words);
    client.stdin?.end();
    let stderr = '';
    client.stdout?.resume();
    client.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const ended = once(client, 'close').then(([code, signal]) => {
      told.push(`${words.join(' ')} -> ${code ?? signal} ${stderr.trim()}`);
      // A bug is never an answer.
      assert.notEqual(code, 70, `${words.join(' ')}\n${stderr}`);
    });
    return { client, ended };
  });
  for (let kills = random(3); kills >= 0; kills--) {
    await setTimeout(random(60));
    const kind = choose(['client', 'vserverd', 'syscalld', 'broker', 'relay', 'init', 'command', 'none']);
    if (kind === 'client') choose(clients).client.kill('SIGKILL');
    else {
      const pids = processes(v.root).get(kind);
      if (pids !== undefined) kill(choose(pids));
    }
    told.push(`killed ${kind}`);
  }
  await Promise.all(clients.map(({ ended }) => ended));
  return told;
}

/** Asks until vserverd answers; a client in the moment of its death is told so. */
async function ask(v: Instance, ...words: readonly string[]): Promise<Outcome> {
  return await eventually(words.join(' '), async () => {
    const outcome = await v.run(words);
    return outcome.stderr.includes('control plane gone') ? undefined : outcome;
  });
}

/** Waits until nothing is on its way, and compares what is told with what is there. */
async function check(v: Instance, network: TestNetwork): Promise<void> {
  const guests = await eventually('nothing on its way', async () => {
    const { code, stdout } = await ask(v, 'list', '-a', '--json');
    if (code !== 0) return undefined;
    const list = JSON.parse(stdout) as readonly Guest[];
    return list.every(({ state }) => STATES_AT_REST.includes(state)) ? list : undefined;
  });
  const expected = new Set<string>();
  for (const { name, state, network: own } of guests) {
    if (state === 'stopped') continue;
    for (const address of own.addresses ?? []) expected.add(address.replace(/\/.*/, ''));
    if (state === 'paused') assert.equal((await ask(v, 'resume', name)).code, 0, `resume ${name}`);
    const { code, stdout, stderr } = await ask(
      v,
      'exec',
      name,
      'sh',
      '-c',
      'cat /proc/meminfo >/dev/null; echo hi',
    );
    if (/has just ended|found it stopp/.test(stderr)) {
      // Its init was killed a moment ago; or its command was, and it was paused until now.
      for (const address of own.addresses ?? []) expected.delete(address.replace(/\/.*/, ''));
      await eventually('its end', async () => ((await ask(v, 'status', name)).code === 0 ? undefined : true));
    } else assert.deepEqual([code, stdout], [0, 'hi\n'], `${name}: ${stderr}`);
  }
  assert.deepEqual(addressesOf(network), [...expected].sort(), 'addresses on h0');
  console.log(guests.map(({ name, state }) => `${name} ${state}`).join(', '));
}

/** What guests have put on the interface. */
function addressesOf(network: TestNetwork): readonly string[] {
  const text = network.run('ip', '-o', 'addr', 'show', 'h0', 'scope', 'global');
  const all = [...text.matchAll(/inet6? ([^/ ]+)/g)].map(([, address]) => address ?? '');
  return all.filter((address) => !['10.9.0.1', 'fd09::1'].includes(address)).sort();
}

const network = await openNetwork();
try {
  await withInstance(
    async (v) => {
      await v.ok(['daemon', 'start']);
      for (let at = 1; at <= ROUNDS; at++) {
        for (const line of await round(v)) console.log(`  ${line}`);
        if (at % ROUNDS_PER_CHECK !== 0) continue;
        console.log(`round ${at}`);
        try {
          await check(v, network);
        } catch (error) {
          console.error(readFileSync(join(v.root, 'run/vserverd.log'), 'utf8'));
          throw error;
        }
      }
      await ask(v, 'delete', '--force', '--all');
      assert.deepEqual(addressesOf(network), []);
      for (const directory of ['etc/guests', 'lib/guests', 'run/guests', 'run/addresses'])
        if (existsSync(join(v.root, directory))) assert.deepEqual(readdirSync(join(v.root, directory)), []);
    },
    { under: network.under },
  );
} finally {
  await network.close();
}
