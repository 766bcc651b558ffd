/** One pass over the tasks of many guests, which their load averages are made of. */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { GUEST_LEVEL } from '../src/guest/host.ts';
import { discoverCgroups } from '../src/resources/cgroup-layout.ts';
import { TaskCounts } from '../src/resources/task-counts.ts';
import { withMachine } from '../test/lib/machine.ts';
import { run } from './native-programs.ts';
import type { Result, Scenario } from './scenario.ts';
import { figure, quantile } from './statistics.ts';

const TARGET = { relation: 'at most', value: 2 } as const;
const GONE_TIMEOUT_MS = 10_000;

/** SIZE cgroups (1000) of one `sleep` each, where guests have theirs; the passes are vserverd's own, by a syscalld. */
export const loads: Scenario = {
  name: 'loads',
  about: 'one pass over the tasks of SIZE (1000) cgroups of one `sleep` each: count, read, parse',
  run: measure,
};

async function* measure(): AsyncIterable<Result> {
  const size = Number(process.env['SIZE'] ?? 1000);
  const rounds = Number(process.env['ROUNDS'] ?? 200);
  await using groups = new Groups(size);
  const values: number[] = [];
  await withMachine(async ({ syscalld }) => {
    const first = syscalld.newObject();
    const counts = new TaskCounts(syscalld, GUEST_LEVEL);
    for (let round = -5; round < rounds; round++) {
      const from = performance.now();
      const counted = await counts.sample(groups.id, size);
      const tookMs = performance.now() - from;
      if (counted.size !== size) throw new Error(`counted ${counted.size} of ${size} groups`);
      if (round >= 0) values.push(tookMs);
    }
    // Its map and its iterator, which vserverd never gives back.
    const end = syscalld.newObject();
    for (let object = first + 1; object < end; object++) syscalld.drop(object);
  });
  for (const [name, part] of [
    ['fastest', 0],
    ['median', 0.5],
    ['p99', 0.99],
  ] as const) {
    const what = `pass over ${size} guests, ${name} of ${rounds}`;
    const target = part === 0.5 ? TARGET : undefined;
    yield figure(what, 'ms', quantile(values, part), target);
  }
}

/** Cgroups with a process in each, below one as an instance has it. */
class Groups implements AsyncDisposable {
  readonly #directory: string;

  constructor(size: number) {
    const { unified } = discoverCgroups(
      readFileSync('/proc/self/mountinfo', 'utf8'),
      readFileSync('/proc/self/cgroup', 'utf8'),
    );
    this.#directory = join(unified, `vserver-bench-loads-${process.pid}`);
    mkdirSync(this.#directory);
    const script =
      'cd "$1"; for i in $(seq "$2"); do mkdir $i; sleep 86400 </dev/null >/dev/null 2>&1 & echo $! > $i/cgroup.procs; done';
    run('sh', ['-c', script, 'sh', this.#directory, String(size)]);
  }

  get id(): bigint {
    return statSync(this.#directory, { bigint: true }).ino;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    writeFileSync(join(this.#directory, 'cgroup.kill'), '1');
    const events = join(this.#directory, 'cgroup.events');
    for (const from = Date.now(); readFileSync(events, 'utf8').includes('populated 1'); ) {
      if (Date.now() - from > GONE_TIMEOUT_MS)
        throw new Error(`cannot remove "${this.#directory}": found it in use`);
      await setTimeout(10);
    }
    for (const entry of readdirSync(this.#directory, { withFileTypes: true }))
      if (entry.isDirectory()) rmdirSync(join(this.#directory, entry.name));
    rmdirSync(this.#directory);
  }
}
