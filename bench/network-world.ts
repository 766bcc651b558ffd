/** Namespaces that stand for a host and for two containers behind a bridge, and what is served in them. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { instanceCgroupName } from '../src/resources/cgroup-layout.ts';
import { ControlPlane } from './control-plane.ts';
import { nativeProgram, run } from './native-programs.ts';

/** The host's addresses, of which the others are for what runs as a service, and those of the containers. */
export const HOST_ADDRESS = '10.9.0.1';
export const SERVICE_ADDRESS = '10.9.0.2';
export const LEAST_ADDRESS = '10.9.0.3';
const CONTAINERS = ['10.8.0.2', '10.8.0.3'] as const;

const TRIES = 500;
/** Processes of `net serve`: one that waits, and one for each kind of server. */
const SERVERS = 5;

/** A client of `bench/native/net.c`, and the processes whose time is that of its work as well. */
export interface NetClient {
  readonly name: string;
  readonly pids: readonly number[];
  readonly argv: readonly string[];
}

/** Nanoseconds of one operation, in each round. */
export interface Rounds {
  readonly wall: number[];
  /** Of all processes that take part. */
  readonly used: number[];
}

/** A network of the bench's own, and a control plane in it; disposing it removes both. */
export class NetworkWorld implements Disposable {
  readonly control: ControlPlane;
  /** The program, on the host and, at /bench/net, in guests made with `flags`. */
  readonly program: string;
  readonly #host: number;
  readonly #others: number[] = [];

  constructor() {
    this.#host = hold();
    this.control = new ControlPlane(this.inHost());
    const directory = join(this.control.directory, 'bench');
    mkdirSync(directory);
    this.program = join(directory, 'net');
    copyFileSync(nativeProgram('net'), this.program);
    const ip = (text: string): string => run('nsenter', [...inside(this.#host), 'ip', ...text.split(' ')]);
    for (const text of [
      'link set lo up',
      'link add h0 type veth peer name h1',
      'link set h0 up',
      'link set h1 up',
      ...[HOST_ADDRESS, SERVICE_ADDRESS, LEAST_ADDRESS].map((address) => `addr add ${address}/24 dev h0`),
    ])
      ip(text);
  }

  /** Words before a command that runs on the host. */
  inHost(): readonly string[] {
    return ['nsenter', ...inside(this.#host)];
  }

  /** Options of a guest that has the program, and an address if one is given. */
  flags(address?: string): readonly string[] {
    const network =
      address === undefined ? ['--network', 'host'] : ['--network-interface', 'h0', '--ip', `${address}/24`];
    return [...network, '--volume', `${join(this.program, '..')}:/bench:ro`];
  }

  /** Two containers with a veth each, on a bridge of the host: what runs commands in each. */
  addContainers(): readonly (readonly string[])[] {
    const ip = (text: string): string => run('nsenter', [...inside(this.#host), 'ip', ...text.split(' ')]);
    ip('link add b0 type bridge');
    ip('link set b0 up');
    ip('addr add 10.8.0.1/24 dev b0');
    return CONTAINERS.map((address, i) => {
      const pid = hold();
      this.#others.push(pid);
      ip(`link add c${i} type veth peer name eth0 netns ${pid}`);
      ip(`link set c${i} master b0 up`);
      for (const text of ['link set lo up', `addr add ${address}/24 dev eth0`, 'link set eth0 up'])
        run('nsenter', [...inside(pid), 'ip', ...text.split(' ')]);
      return ['nsenter', ...inside(pid)];
    });
  }

  /** Starts the servers where a command line runs the program; returns their processes. */
  serve(line: readonly string[], address: string): readonly number[] {
    const { first, pids } = startServers(line, address);
    this.#others.push(first);
    return pids;
  }

  /** Processes of a guest that runs the servers. */
  serversOf(guest: string): readonly number[] {
    return waitForServers(this.control.initPid(guest));
  }

  /** The process that makes a guest's sockets. */
  brokerOf(guest: string): number {
    const [{ xid = 0 } = {}] = JSON.parse(this.control.vserver('inspect', guest, '--json')) as {
      xid?: number;
    }[];
    const cgroup = new RegExp(`/${instanceCgroupName(this.control.root)}/${xid}(/.*)?$`, 'm');
    const found = processes().find(
      ({ pid, name }) => name === 'broker' && cgroup.test(readFileSync(`/proc/${pid}/cgroup`, 'utf8')),
    );
    if (found === undefined) throw new Error(`no broker of guest "${guest}"`);
    return found.pid;
  }

  /** Lets clients work in turns: rounds of each kind and client. */
  drive(
    rounds: number,
    kinds: readonly string[],
    clients: readonly NetClient[],
  ): ReadonlyMap<string, readonly Rounds[]> {
    return drive(this.program, rounds, kinds, clients);
  }

  [Symbol.dispose](): void {
    try {
      this.control[Symbol.dispose]();
    } finally {
      for (const pid of [...this.#others, this.#host]) process.kill(pid, 'SIGKILL');
    }
  }
}

/** Lets clients of a program work in turns: rounds of each kind and client. */
export function drive(
  program: string,
  rounds: number,
  kinds: readonly string[],
  clients: readonly NetClient[],
): ReadonlyMap<string, readonly Rounds[]> {
  const words = clients.flatMap(({ pids, argv }) => [',', pids.join(',') || '-', ...argv]);
  const output = run(program, ['drive', String(rounds), ...kinds, ...words]);
  const found = new Map(
    kinds.map((kind): [string, Rounds[]] => [kind, clients.map(() => ({ wall: [], used: [] }))]),
  );
  for (const line of output.trim().split('\n')) {
    const [client = '', kind = '', wall, used] = line.split(' ');
    const it = found.get(kind)?.[Number(client)];
    it?.wall.push(Number(wall));
    it?.used.push(Number(used));
  }
  return found;
}

/** Starts the servers where a command line runs the program; the others end with the first. */
export function startServers(
  line: readonly string[],
  address: string,
): { readonly first: number; readonly pids: readonly number[] } {
  const first = background([...line, 'serve', address]);
  return { first, pids: waitForServers(first) };
}

function inside(pid: number): readonly string[] {
  return [`--net=/proc/${pid}/ns/net`];
}

/** Starts a process that holds a network namespace of its own. */
function hold(): number {
  const pid = background(['unshare', '--net', 'sleep', '86400']);
  return until('a network namespace', () =>
    processes().find((one) => one.pid === pid)?.name === 'sleep' ? pid : undefined,
  );
}

/** Starts a command that goes on; returns its process, which is a child of process 1. */
function background(words: readonly string[]): number {
  return Number(run('sh', ['-c', '"$@" >/dev/null 2>&1 </dev/null & echo $!', 'sh', ...words]));
}

interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly name: string;
}

function processes(): readonly Process[] {
  const found: Process[] = [];
  for (const pid of readdirSync('/proc')
    .map(Number)
    .filter((number) => number > 0)) {
    try {
      const [, name = '', parent] = /\((.*)\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')) ?? [];
      found.push({ pid, parent: Number(parent), name });
    } catch {
      // it has ended
    }
  }
  return found;
}

/** The servers below a process, once all of them are there. */
function waitForServers(ancestor: number): readonly number[] {
  return until('the servers', () => {
    const all = processes();
    const family = new Set([ancestor]);
    for (const { pid, parent } of all.toSorted((a, b) => a.pid - b.pid))
      if (family.has(parent)) family.add(pid);
    const servers = all.filter(({ pid, name }) => family.has(pid) && name === 'net').map(({ pid }) => pid);
    return servers.length === SERVERS ? servers : undefined;
  });
}

function until<T>(what: string, look: () => T | undefined): T {
  for (let i = 0; i < TRIES; i++) {
    const found = look();
    if (found !== undefined) return found;
    run('sleep', ['0.02']);
  }
  throw new Error(`${what}: not there after ${TRIES} looks`);
}
