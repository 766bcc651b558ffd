/**
 * Runs scenarios on a stock kernel of Debian that has just booted, in the machine of the VM tier:
 * `tools/node bench/machine.ts bookworm memory`. For what is of the kernel and not of time: the machine is emulated. Results are
 * kept in `build/bench/<codename>/`.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { boot } from '../tools/vm/boot.ts';
import { fetchKernel } from '../tools/vm/fetch-kernel.ts';
import { BENCH_BUILD, nativeProgram } from './native-programs.ts';

const ROOT = resolve(import.meta.dirname, '..');
const TIMEOUT_MS = 1_800_000;

const [codename, ...scenarios] = process.argv.slice(2);
if (codename === undefined || scenarios.length === 0) {
  console.error('cannot bench: found no release and scenario; need for example "bookworm memory"');
  process.exit(2);
}
const kept = ['SIZE', 'ROUNDS', 'CACHES'].flatMap((name) => {
  const value = process.env[name];
  return value === undefined ? [] : [[name, value] as const];
});
const sleepers = nativeProgram('sleepers');
const result = await boot({
  kernel: fetchKernel(codename, join(ROOT, 'build/vm/kernels')),
  checkout: ROOT,
  command: [
    'sh',
    '-c',
    'cp -p "$0" /out/ && exec "$@"',
    sleepers,
    process.execPath,
    'bench/main.ts',
    ...scenarios,
  ],
  env: { BENCH_BUILD: '/out', ...Object.fromEntries(kept) },
  workDir: join(BENCH_BUILD, codename),
  timeoutMs: TIMEOUT_MS,
});
process.stdout.write(readFileSync(join(result.outDir, 'output.log'), 'utf8'));
process.exitCode = result.exitCode ?? 1;
