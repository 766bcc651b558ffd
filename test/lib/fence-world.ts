/**
 * A fence in a world of its own: a network namespace that plays the host, one that plays everybody else, cgroups that play
 * guests, and in each of them a process that does as it is told.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { createFence, type Fence } from '../../src/network/fence.ts';
import { planPrepareSocket } from '../../src/network/fence-broker.ts';
import type { NetworkRules } from '../../src/network/rules.ts';
import { discoverCgroups } from '../../src/resources/cgroup-layout.ts';
import { Program } from '../../src/sys/program.ts';
import { type Machine, withMachine } from './machine.ts';

/** Runs what it reads, a line of JSON each: Python text, of which `_` is what comes back. */
const AGENT = `
import errno, json, os, select, socket, struct, sys, threading, time
names = dict(globals())
def code(f, *a):
    try: f(*a)
    except OSError as e: return errno.errorcode.get(e.errno, str(e.errno)) if e.errno else type(e).__name__
    return 'ok'
def tcp(at, family=socket.AF_INET, reuse=0, only=None):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(20)
    if reuse: s.setsockopt(socket.SOL_SOCKET, reuse, 1)
    if only is not None: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    s.bind(at); s.listen(); return s
def serve(s, word):
    def run():
        while True:
            try: c, peer = s.accept()
            except TimeoutError: continue
            except OSError: return
            c.sendall((word + ' ' + c.getsockname()[0] + ' ' + peer[0]).encode()); c.close()
    threads[s] = threading.Thread(target=run, daemon=True); threads[s].start(); return s
threads = {}
def stop(s): s.shutdown(2); threads[s].join() if s in threads else None; s.close()
def ask(at, family=socket.AF_INET, source=None, within=20):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(within)
    try:
        if source: s.bind(source)
        s.connect(at); return s.recv(200).decode()
    except OSError as e: return errno.errorcode.get(e.errno) or type(e).__name__
    finally: s.close()
def udp(at=None, family=socket.AF_INET, reuse=0):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(20)
    if reuse: s.setsockopt(socket.SOL_SOCKET, reuse, 1)
    if at: s.bind(at)
    return s
names.update(globals())
for line in sys.stdin:
    names['_'] = None
    try: exec(json.loads(line), names); out = {'value': names['_']}
    except Exception as e: out = {'error': type(e).__name__ + ': ' + str(e)}
    print(json.dumps(out), flush=True)
`;

/** A process somewhere in the world. */
export interface Agent {
  readonly pid: number;
  /** Runs Python and returns `_`; names stay for the next call. */
  run(code: string): Promise<unknown>;
  /** Runs Python and returns the value of an expression. */
  get(expression: string): Promise<unknown>;
}

/** The world. */
export interface World {
  readonly machine: Machine;
  readonly fence: Fence;
  /** The instance's directory in the cgroup2 tree. */
  readonly directory: string;
  /** In the fenced namespace, and in no guest. */
  readonly host: Agent;
  /** In a namespace of its own, at 10.7.0.100 and fd07::100. */
  readonly outside: Agent;
  /** A process in the cgroup of a number. */
  agent(nid: number): Promise<Agent>;
  /** The cgroup of a number; made if need be. */
  cgroup(nid: number): bigint;
  /** Does for a datagram socket what the broker does for all; `protocol` as in socket(2). */
  prepare(agent: Agent, name: string, protocol?: number): Promise<void>;
  /** Runs a program on the host's side of the namespace. */
  ip(...args: readonly string[]): void;
}

let worlds = 0;

/** Runs `body` in a world: the host has 10.7.0.1 to .9 and fd07::1 to ::9 on a link to the outside. */
export async function withWorld(body: (world: World) => Promise<void>): Promise<void> {
  const { unified } = discoverCgroups(
    readFileSync('/proc/self/mountinfo', 'utf8'),
    readFileSync('/proc/self/cgroup', 'utf8'),
  );
  worlds++;
  const directory = join(unified, `vserver-fence-${process.pid}-${worlds}`);
  const children: ChildProcess[] = [];
  const cgroups: string[] = [directory];
  mkdirSync(directory);
  try {
    const [inside, beyond] = [await holder(children), await holder(children)];
    const netns = `/proc/${inside}/ns/net`;
    const ip = (pid: number, args: readonly string[]): void => {
      const { status, stderr } = spawnSync('nsenter', [`--net=/proc/${pid}/ns/net`, 'ip', ...args], {
        encoding: 'utf8',
      });
      assert.equal(status, 0, `ip ${args.join(' ')}: ${stderr}`);
    };
    ip(inside, ['link', 'add', 'wire', 'type', 'veth', 'peer', 'name', 'wire', 'netns', String(beyond)]);
    for (const pid of [inside, beyond]) {
      ip(pid, ['link', 'set', 'lo', 'up']);
      ip(pid, ['link', 'set', 'wire', 'up']);
    }
    for (let i = 1; i < 10; i++) {
      ip(inside, ['addr', 'add', `10.7.0.${i}/24`, 'dev', 'wire']);
      ip(inside, ['addr', 'add', `fd07::${i}/64`, 'dev', 'wire', 'nodad']);
    }
    ip(inside, ['addr', 'add', '10.8.0.2/24', 'dev', 'wire']);
    ip(beyond, ['addr', 'add', '10.7.0.100/24', 'dev', 'wire']);
    ip(beyond, ['addr', 'add', '10.8.0.100/24', 'dev', 'wire']);
    ip(beyond, ['addr', 'add', '169.254.169.254/32', 'dev', 'wire']);
    ip(beyond, ['addr', 'add', 'fd07::100/64', 'dev', 'wire', 'nodad']);
    // The broker's group decides who may make ICMP echo sockets; here every group may.
    const range = 'echo 0 65535 >/proc/sys/net/ipv4/ping_group_range';
    assert.equal(spawnSync('nsenter', [`--net=${netns}`, 'sh', '-c', range]).status, 0);
    ip(inside, ['route', 'add', '169.254.169.254/32', 'dev', 'wire']);

    const cgroup = (nid: number): bigint => {
      const path = join(directory, String(nid));
      if (!cgroups.includes(path)) {
        mkdirSync(path);
        cgroups.push(path);
      }
      return statSync(path, { bigint: true }).ino;
    };
    await withMachine(async (machine) => {
      const fence = await createFence(machine.syscalld, { cgroup: directory, guestLevel: 2, netns });
      const host = await startAgent(children, netns);
      const outside = await startAgent(children, `/proc/${beyond}/ns/net`);
      await body({
        machine,
        fence,
        directory,
        host,
        outside,
        cgroup,
        ip: (...args) => ip(inside, args),
        agent: async (nid) => {
          cgroup(nid);
          return await startAgent(children, netns, join(directory, String(nid)));
        },
        prepare: async (agent, name, protocol = 0) => {
          const fd = Number(await agent.get(`${name}.fileno()`));
          const p = new Program(machine.abi);
          const pidfd = p.sys('pidfd_open', [agent.pid, 0]);
          const socket = p.sys('pidfd_getfd', [pidfd, fd, 0]);
          const [type, protocolOf] = [2, protocol].map((number) =>
            p.load(p.data(new Uint8Array(Int32Array.of(number).buffer))),
          );
          assert.ok(type && protocolOf);
          planPrepareSocket(p, p.import(fence.handles.objects.sockets), {
            socket,
            type,
            protocol: protocolOf,
          });
          await machine.syscalld.run('prepare a socket', p);
        },
      });
      fence.close();
    });
  } finally {
    await Promise.all(
      children.map(async (child) => {
        const ended = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
        child.kill('SIGKILL');
        await ended;
      }),
    );
    for (const path of cgroups.reverse()) await removeCgroup(path);
  }
}

/** A process that was killed leaves its cgroup a moment after its parent has heard of it. */
async function removeCgroup(path: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      rmdirSync(path);
      return;
    } catch (error) {
      if (tries === REMOVE_TRIES) throw error;
      await setTimeout(10);
    }
  }
}
const REMOVE_TRIES = 200;

/** A process that holds a network namespace of its own. */
async function holder(children: ChildProcess[]): Promise<number> {
  const child = spawn('unshare', ['--net', 'sh', '-c', 'echo; exec sleep 600'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  assert.ok(child.stdout && child.pid);
  await once(child.stdout, 'data');
  return child.pid;
}

async function startAgent(children: ChildProcess[], netns: string, cgroup?: string): Promise<Agent> {
  const join = cgroup === undefined ? '' : `echo $$ > '${cgroup}/cgroup.procs' && `;
  const words = [`--net=${netns}`, 'sh', '-c', `${join}exec "$@"`, 'sh', 'python3', '-c', AGENT];
  const child = spawn('nsenter', words, { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  const { stdin, stdout, pid } = child;
  assert.ok(stdin && stdout && pid);
  const lines = createInterface(stdout)[Symbol.asyncIterator]();
  const run = async (code: string): Promise<unknown> => {
    stdin.write(`${JSON.stringify(code)}\n`);
    const { value } = await lines.next();
    const answer = JSON.parse(String(value ?? '{"error":"it has ended"}')) as {
      readonly value?: unknown;
      readonly error?: string;
    };
    assert.equal(answer.error, undefined, `${code}: ${answer.error}`);
    return answer.value;
  };
  return { pid, run, get: async (expression) => await run(`_ = ${expression}`) };
}

/** Rules of a context with the addresses that end in a number. */
export const only = (host: number, more: Partial<NetworkRules> = {}): NetworkRules => ({
  addresses4: [{ address: `10.7.0.${host}`, prefix: 24 }],
  addresses6: [{ address: `fd07::${host}`, prefix: 64 }],
  ...more,
});

/** A guest whose addresses end in its number. */
export async function guest(world: World, nid: number, rules: NetworkRules = only(nid)): Promise<Agent> {
  await world.fence.setNetwork(nid, rules);
  await world.fence.bindGuest(world.cgroup(nid), nid);
  return await world.agent(nid);
}
