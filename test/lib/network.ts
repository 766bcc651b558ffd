/** A network namespace of a test's own, which stands for the host's: nothing in it touches this machine's network. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { PATIENCE } from './patience.ts';

/** How long a program may take. */
const TIMEOUT_MS = 30_000 * PATIENCE;

/** A network that goes with its test. */
export interface TestNetwork {
  /** Program under which others run in it. */
  readonly under: readonly string[];
  /** Runs a program in it, fails unless its exit code is 0, and returns what it printed. */
  run(...words: readonly string[]): string;
  close(): Promise<void>;
}

const SETUP = `
ip link set lo up
ip link add h0 type veth peer name h1
for one in h0 h1; do echo 1 > /proc/sys/net/ipv6/conf/$one/disable_ipv6; ip link set $one up; done
echo 0 > /proc/sys/net/ipv6/conf/h0/disable_ipv6
ip addr add 10.9.0.1/24 dev h0
ip addr add fd09::1/64 dev h0 nodad
echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range
echo ready
exec sleep 100000
`;

/** Makes one with loopback, and an interface h0 that has 10.9.0.1/24 and fd09::1/64. */
export async function openNetwork(): Promise<TestNetwork> {
  const holder = spawn('unshare', ['--net', 'sh', '-ec', SETUP], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(holder, 'exit');
  const [first] = (await once(holder.stdout, 'data')) as [Buffer];
  assert.equal(String(first), 'ready\n');
  const under = ['nsenter', '-t', String(holder.pid), '--net'];
  return {
    under,
    run: (...words) => {
      const [program = '', ...rest] = [...under, ...words];
      const { status, stdout, stderr } = spawnSync(program, rest, { encoding: 'utf8', timeout: TIMEOUT_MS });
      assert.equal(status, 0, `${words.join(' ')}\n${stdout}${stderr}`);
      return stdout;
    },
    close: async () => {
      holder.kill('SIGKILL');
      await ended;
    },
  };
}
