/**
 * Runs benches: `npm run bench [-- start exec micro network network-scale network-contexts scale memory loads scheduler storage views unify]`, all without a name. Prints ratios of interleaved runs with
 * their spread, and keeps every result as a JSON line in `build/bench/<scenario>.jsonl`.
 *
 * ROUNDS sets the number of runs of each subject, SIZE the number of guests of `scale`, `network-scale` and `loads`. Nothing here passes or fails:
 * a target is printed beside its figure, for somebody who knows how quiet the machine was.
 */
import { appendFileSync, mkdirSync } from 'node:fs';
import { cpus, loadavg, release } from 'node:os';
import { join } from 'node:path';
import { exec } from './exec.ts';
import { loads } from './loads.ts';
import { memoryOfGuests } from './memory.ts';
import { micro } from './micro.ts';
import { BENCH_BUILD } from './native-programs.ts';
import { network } from './network.ts';
import { networkContexts } from './network-contexts.ts';
import { networkScale } from './network-scale.ts';
import { formatResults } from './report.ts';
import { scale } from './scale.ts';
import type { Result, Scenario } from './scenario.ts';
import { scheduler } from './scheduler.ts';
import { start } from './start.ts';
import { storage } from './storage.ts';
import { unify } from './unify.ts';
import { views } from './views.ts';

const SCENARIOS: readonly Scenario[] = [
  start,
  exec,
  micro,
  network,
  networkScale,
  networkContexts,
  scale,
  memoryOfGuests,
  loads,
  scheduler,
  storage,
  views,
  unify,
];

async function main(names: readonly string[]): Promise<number> {
  const unknown = names.filter((name) => !SCENARIOS.some((scenario) => scenario.name === name));
  if (unknown.length > 0) {
    const known = SCENARIOS.map(({ name }) => name).join(' ');
    console.error(`cannot bench: found "${unknown.join(' ')}"; need some of: ${known}`);
    return 2;
  }
  mkdirSync(BENCH_BUILD, { recursive: true });
  for (const scenario of SCENARIOS) {
    if (names.length > 0 && !names.includes(scenario.name)) continue;
    console.log(`\n${scenario.name}: ${scenario.about}`);
    const conditions = {
      scenario: scenario.name,
      at: new Date().toISOString(),
      kernel: release(),
      cpus: cpus().length,
      loadBefore: loadavg()[0],
    };
    const results: Result[] = [];
    for await (const result of scenario.run()) {
      results.push(result);
      appendFileSync(
        join(BENCH_BUILD, `${scenario.name}.jsonl`),
        `${JSON.stringify({ ...conditions, ...result })}\n`,
      );
    }
    process.stdout.write(formatResults(results));
    console.log(
      `Linux ${conditions.kernel}, ${conditions.cpus} CPUs, load ${conditions.loadBefore?.toFixed(1)} before`,
    );
  }
  return 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  // Node shows of a SuppressedError neither what went wrong nor what did so on the way out.
  throw error instanceof SuppressedError ? new AggregateError([error.error, error.suppressed]) : error;
}
