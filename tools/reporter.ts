/**
 * One report for any number of node:test runs: each test as the spec reporter prints it, then the skipped tests
 * grouped by reason, then the failed ones, each with what it found, so that the end of a log says it all, then a single
 * closing summary in node:test's own words, which CI recognises.
 */
import { relative } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { spec, type TestEvent } from 'node:test/reporters';

// node:test ends each run with these diagnostics; several runs have one summary here.
const SUMMARY_KEYS = [
  'tests',
  'suites',
  'pass',
  'fail',
  'cancelled',
  'skipped',
  'todo',
  'duration_ms',
] as const;
const SUMMARY_LINE = new RegExp(`^(${SUMMARY_KEYS.join('|')}) (\\d+(?:\\.\\d+)?)$`);

/** Of what a failed test found, at the end. */
const FAILURE_LINES_SHOWN = 30;

/**
 * Prints the events of `runs`, one run after the other, to `out`, which stays open. True when all is well: every run
 * ended, no test failed or was cancelled, and no skip is forbidden. When `mustRun` names anything, a skip is allowed
 * only if it says `needs <name>: …` with a name outside `mustRun`.
 */
export async function report(
  runs: readonly AsyncIterable<TestEvent>[],
  mustRun: readonly string[],
  out: NodeJS.WritableStream,
): Promise<boolean> {
  const totals = new Map<string, number>();
  const skips = new Map<string, string[]>();
  const failures: string[] = [];
  /** Names of the tests that are begun, outermost first. */
  const path: string[] = [];
  let succeeded = 0;
  const startedMs = performance.now();

  async function* merged(): AsyncGenerator<TestEvent> {
    for (const run of runs) {
      for await (const event of run) {
        if (event.type === 'test:diagnostic' && event.data.nesting === 0) {
          const [, key, value] = SUMMARY_LINE.exec(event.data.message) ?? [];
          if (key !== undefined) {
            totals.set(key, (totals.get(key) ?? 0) + Number(value));
            continue;
          }
        }
        if (event.type === 'test:pass' && event.data.skip !== undefined) {
          const reason = typeof event.data.skip === 'string' ? event.data.skip : 'no reason given';
          skips.set(reason, [...(skips.get(reason) ?? []), event.data.name]);
        }
        if (event.type === 'test:start') {
          path.length = event.data.nesting;
          path.push(event.data.name);
        }
        // A parent fails of its tests, and says no more than that.
        if (event.type === 'test:fail' && failureOf(event).failureType !== 'subtestsFailed')
          failures.push(describeFailure(event, path));
        // A summary with a file is that file's; the one without ends the run.
        if (event.type === 'test:summary' && event.data.file === undefined && event.data.success)
          succeeded += 1;
        yield event;
      }
    }
  }
  await pipeline(Readable.from(merged()), new spec(), out, { end: false });

  const forbidden = [...skips.keys()].filter((reason) => isForbidden(reason, mustRun));
  for (const [reason, names] of skips) {
    const verdict = forbidden.includes(reason) ? 'forbidden skip' : 'skipped';
    out.write(`\n${verdict}: ${reason}\n${names.map((name) => `  ${name}\n`).join('')}`);
  }
  for (const failure of failures) out.write(`\n${failure}\n`);
  totals.set('duration_ms', performance.now() - startedMs); // runs may overlap
  out.write(`\n${SUMMARY_KEYS.map((key) => `# ${key} ${totals.get(key) ?? 0}\n`).join('')}`);
  return succeeded === runs.length && forbidden.length === 0;
}

type Failure = Extract<TestEvent, { type: 'test:fail' }>;

/** What node:test wraps the error of a test in. */
function failureOf({ data }: Failure): { readonly failureType?: unknown; readonly cause?: unknown } {
  return data.details.error;
}

/** The file, the names of a test and of those around it, and the first lines of what it found. */
function describeFailure(event: Failure, path: readonly string[]): string {
  const { file, name, nesting } = event.data;
  const names = [...path.slice(0, nesting), name];
  const { cause } = failureOf(event);
  const text =
    cause instanceof Error ? (cause.stack ?? String(cause)) : String(cause ?? event.data.details.error);
  const lines = text.split('\n').filter((line) => !/^ *at .*node:internal/.test(line));
  const more = lines.length - FAILURE_LINES_SHOWN;
  const shown = [...lines.slice(0, FAILURE_LINES_SHOWN), ...(more > 0 ? [`… ${more} more lines`] : [])];
  const where = file === undefined ? '' : `${relative(process.cwd(), file)}: `;
  return `failed: ${where}${names.join(' > ')}\n${shown.map((line) => `  ${line}`).join('\n')}`;
}

function isForbidden(reason: string, mustRun: readonly string[]): boolean {
  if (mustRun.length === 0) return false;
  const name = /^needs ([a-z0-9-]+): /.exec(reason)?.[1];
  return name === undefined || mustRun.includes(name);
}
