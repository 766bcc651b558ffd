/** The cost of a packet with few and with many network contexts, by the fence's maps alone: nobody is in most of them. */
import assert from 'node:assert/strict';
import type { NetworkRules } from '../src/network/rules.ts';
import { guest, only, type World, withWorld } from '../test/lib/fence-world.ts';
import { nativeProgram } from './native-programs.ts';
import { drive, type NetClient, type Rounds, startServers } from './network-world.ts';
import type { Result, Scenario } from './scenario.ts';
import { compare } from './statistics.ts';

const KINDS = ['tcp-rr', 'udp-rr', 'connect'] as const;
const FEW = 10;
const SERVER = 2;
/** Number of the first context nobody is in. */
const FIRST = 100;
const AS_FEW = { relation: 'at least', value: 0.95 } as const;

/** SIZE (5000) contexts. */
export const networkContexts: Scenario = {
  name: 'network-contexts',
  about: 'a server in one of SIZE (5000) network contexts with an address of each family, against one of 10',
  run: measure,
};

async function* measure(): AsyncIterable<Result> {
  const size = Number(process.env['SIZE'] ?? 5000);
  let rounds: ReadonlyMap<string, readonly Rounds[]> | undefined;
  await withWorld(async (few) => {
    await withWorld(async (many) => {
      const clients = [await serve(few, FEW), await serve(many, size)];
      try {
        rounds = drive(nativeProgram('net'), Number(process.env['ROUNDS'] ?? 30), KINDS, clients);
      } finally {
        for (const { pids } of clients) for (const pid of pids) process.kill(pid, 'SIGKILL');
      }
    });
  });
  for (const kind of KINDS) {
    const [few, many] = rounds?.get(kind) ?? [];
    assert.ok(few && many);
    for (const time of ['wall', 'used'] as const)
      yield compare(
        { name: `${kind}${time === 'used' ? ', CPU' : ''}: ${size} contexts`, values: many[time] },
        { name: `${FEW} contexts`, values: few[time] },
        { unit: 'us', perUnit: 1000, isSpeed: true, target: AS_FEW },
      );
  }
}

/** Fills a world, and starts the servers in a context of it. */
async function serve(world: World, contexts: number): Promise<NetClient> {
  for (let nid = FIRST; nid < FIRST + contexts - 1; nid++) await world.fence.setNetwork(nid, rules(nid));
  await guest(world, SERVER, only(SERVER));
  const program = nativeProgram('net');
  const onHost = ['nsenter', `--net=/proc/${world.host.pid}/ns/net`];
  const enter = `echo 0 >'${world.directory}/${SERVER}/cgroup.procs' && exec "$0" "$@"`;
  const address = `10.7.0.${SERVER}`;
  const { pids } = startServers([...onHost, 'sh', '-c', enter, program], address);
  return { name: `${contexts}`, pids, argv: [...onHost, program, 'client', address] };
}

function rules(nid: number): NetworkRules {
  const [high, low] = [nid >> 8, nid & 0xff];
  return {
    addresses4: [{ address: `10.30.${high}.${low}`, prefix: 16 }],
    addresses6: [{ address: `fd30::${high.toString(16)}:${low.toString(16)}`, prefix: 64 }],
  };
}
