/** The network of a guest against that of the host, and against containers behind veth and a bridge. */
import { attachEmptyHooks } from './empty-hooks.ts';
import { nativeProgram } from './native-programs.ts';
import {
  HOST_ADDRESS,
  LEAST_ADDRESS,
  type NetClient,
  NetworkWorld,
  type Rounds,
  SERVICE_ADDRESS,
} from './network-world.ts';
import type { Comparison, Result, Scenario, Target } from './scenario.ts';
import { ServiceCgroup } from './service-cgroup.ts';
import { compare, figure, median } from './statistics.ts';

const AS_HOST = { relation: 'at least', value: 0.97 } as const;
const OUTBOUND = { relation: 'at least', value: 0.85 } as const;
const OVER_BRIDGE = { relation: 'at least', value: 1.7 } as const;
const SOCKET = { relation: 'at most', value: 12 } as const;
const ONE = '10.9.0.5';
const TWO = '10.9.0.6';

/** Speeds over speeds of the host, so that 1 is native; and over those of a service of the host, which is in cgroups too. */
export const network: Scenario = {
  name: 'network',
  about:
    'TCP and UDP between host and guests, by time that passes and by CPU time of all who take part: speed over that of the host',
  run: measure,
};

/** What is done, and what it is held to where a guest is the server, the client, or both are guests. */
const KINDS: Readonly<
  Record<string, { readonly server?: Target; readonly client?: Target; readonly both?: Target }>
> = {
  stream: { server: AS_HOST, client: AS_HOST, both: AS_HOST },
  'tcp-rr': { server: AS_HOST, client: AS_HOST, both: AS_HOST },
  'udp-rr': { server: AS_HOST, client: AS_HOST, both: AS_HOST },
  many: { server: AS_HOST, client: AS_HOST, both: AS_HOST },
  connect: { server: AS_HOST, client: OUTBOUND },
};
const SOCKETS = ['socket', 'udp-socket'];
/** Who does the same as a service of the host. */
const AS_SERVICE = { server: 'serviceServer', client: 'serviceClient', both: 'serviceBoth' } as const;
/** Who does it with the mechanisms of a guest's network and nothing behind them. */
const AS_LEAST = { server: 'leastServer', client: 'leastClient' } as const;

async function* measure(): AsyncIterable<Result> {
  using service = new ServiceCgroup();
  using hooked = new ServiceCgroup('hooked');
  await attachEmptyHooks(hooked.unified);
  using world = new NetworkWorld();
  const { control } = world;
  for (const [name, address] of [
    ['one', ONE],
    ['two', TWO],
  ] as const)
    control.vserver(
      'run',
      '-d',
      '--name',
      name,
      ...world.flags(address),
      '--',
      '/bench/net',
      'serve',
      '0.0.0.0',
    );
  control.vserver('set', 'one', 'network.policy.peers=[two]');
  control.vserver('run', '-d', '--name', 'plain', ...world.flags(), '--', 'sleep', '86400');
  const [left = [], right = []] = world.addContainers();
  const host = world.serve([...world.inHost(), world.program], HOST_ADDRESS);
  const asService = [...world.inHost(), ...service.commandLine(world.program)];
  const services = world.serve(asService, SERVICE_ADDRESS);
  // The least that it takes: a cgroup, a filter, a supervisor that makes the sockets, and hooks without a program that does anything.
  const asLeast = [...world.inHost(), ...hooked.commandLine(nativeProgram('supervisor')), world.program];
  const least = world.serve(asLeast, LEAST_ADDRESS);
  const broker = world.brokerOf('one');
  const onHost = (to: string): readonly string[] => [...world.inHost(), world.program, 'client', to];
  const inGuest = (name: string, to: string): readonly string[] =>
    control.argv('exec', '--interactive', name, '/bench/net', 'client', to);
  const clients = {
    host: { name: 'host', pids: host, argv: onHost(HOST_ADDRESS) },
    server: { name: 'guest serves', pids: world.serversOf('one'), argv: onHost(ONE) },
    client: { name: 'guest asks', pids: [...host, broker], argv: inGuest('one', HOST_ADDRESS) },
    both: { name: 'guest asks guest', pids: [...world.serversOf('two'), broker], argv: inGuest('one', TWO) },
    plain: { name: 'guest with network: host', pids: host, argv: inGuest('plain', HOST_ADDRESS) },
    serviceServer: { name: 'service serves', pids: services, argv: onHost(SERVICE_ADDRESS) },
    serviceClient: { name: 'service asks', pids: host, argv: [...asService, 'client', HOST_ADDRESS] },
    serviceBoth: {
      name: 'service asks service',
      pids: services,
      argv: [...asService, 'client', SERVICE_ADDRESS],
    },
    // Of these the supervisor alone.
    supervised: {
      name: 'service with a bare supervisor asks',
      pids: host,
      argv: [
        ...world.inHost(),
        ...service.commandLine(nativeProgram('supervisor')),
        ...[world.program, 'client', HOST_ADDRESS],
      ],
    },
    leastServer: { name: 'service behind empty hooks serves', pids: least, argv: onHost(LEAST_ADDRESS) },
    leastClient: {
      name: 'service behind empty hooks asks',
      pids: host,
      argv: [...asLeast, 'client', HOST_ADDRESS],
    },
    bridge: {
      name: 'veth + bridge',
      pids: world.serve([...right, world.program], '10.8.0.3'),
      argv: [...left, world.program, 'client', '10.8.0.3'],
    },
  } satisfies Record<string, NetClient>;
  const names = Object.keys(clients) as (keyof typeof clients)[];
  const rounds = world.drive(
    Number(process.env['ROUNDS'] ?? 30),
    [...Object.keys(KINDS), ...SOCKETS],
    Object.values(clients),
  );
  const of = (kind: string, name: keyof typeof clients): Rounds =>
    rounds.get(kind)?.[names.indexOf(name)] ?? { wall: [], used: [] };
  const against = function* (
    kind: string,
    name: keyof typeof clients,
    peer: keyof typeof clients,
    target?: Target,
  ): Iterable<Comparison> {
    for (const time of ['wall', 'used'] as const) {
      const what = `${kind}${time === 'used' ? ', CPU' : ''}`;
      yield compare(
        { name: `${what}: ${clients[name].name}`, values: of(kind, name)[time] },
        { name: clients[peer].name, values: of(kind, peer)[time] },
        { unit: 'us', perUnit: 1000, isSpeed: true, target },
      );
    }
  };
  for (const [kind, targets] of Object.entries(KINDS)) {
    for (const name of ['server', 'client', 'both'] as const) {
      yield* against(kind, name, 'host', targets[name]);
      yield* against(kind, name, AS_SERVICE[name]);
    }
    for (const name of ['server', 'client'] as const) {
      yield* against(kind, AS_LEAST[name], 'host');
      yield* against(kind, name, AS_LEAST[name]);
    }
    // What is left when the guest's scheduling and filter are taken out.
    yield* against(kind, 'client', 'plain');
    yield* against(kind, 'both', 'bridge', kind === 'stream' ? OVER_BRIDGE : undefined);
    // How far a host is above that, which has no guests.
    yield* against(kind, 'host', 'bridge');
  }
  for (const kind of SOCKETS) {
    const { wall } = of(kind, 'client');
    yield figure(`${kind}(2) in a guest`, 'us', median(wall) / 1000, kind === 'socket' ? SOCKET : undefined);
    yield* against(kind, 'client', 'host');
  }
  for (const kind of ['connect', ...SOCKETS]) {
    yield* against(kind, 'supervised', 'host');
    yield* against(kind, 'client', 'supervised');
  }
}
