/**
 * Runs inside the machine: `node tools/vm/run-tests.ts OUT FILE…` runs test files, paths relative to the checkout, one
 * after the other, writes one line of JSON per finished test to OUT/results.jsonl and a report for people to stdout.
 * Exit status 1: a test failed.
 */
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { formatResult, type InnerResult } from './results.ts';
import { NODE_OPTIONS } from './scripts.ts';

// A test or a file that hangs must cost less than the machine's whole time, so that the files after it still run.
const TEST_TIMEOUT_MS = 240_000;
const FILE_TIMEOUT_MS = 600_000;

const checkout = process.cwd();
const names = process.env['VM_TEST_NAMES'] ?? '';

/** Runs one file: alone, so that a leak is its own. */
async function runFile(file: string, write: (result: InnerResult) => void): Promise<void> {
  // The option `timeout` fails a test and lets it go on; only the signal ends the file's process.
  const signal = AbortSignal.timeout(FILE_TIMEOUT_MS);
  const events = run({
    cwd: checkout,
    files: [file],
    execArgv: [...NODE_OPTIONS],
    timeout: TEST_TIMEOUT_MS,
    signal,
    ...(names === '' ? {} : { testNamePatterns: [new RegExp(names)] }),
  });
  let stderr = '';
  events.on('test:stderr', ({ message }) => {
    stderr += message;
  });
  events.on('test:pass', (event) => write(formatResult('test:pass', event, checkout)));
  events.on('test:fail', (event) => {
    if (!event.todo) process.exitCode = 1;
    const result = formatResult('test:fail', event, checkout);
    // A file that ends outside its tests fails as "test failed"; what it said is the reason.
    const isWholeFile = result.name === result.file && result.error !== null;
    write(
      isWholeFile
        ? { ...result, error: { ...result.error, stack: `${result.error.stack}\n${stderr}` } }
        : result,
    );
  });
  for await (const text of events.compose(new spec())) process.stdout.write(text);
}

const [outDir = '/out', ...files] = process.argv.slice(2);
const resultsPath = join(outDir, 'results.jsonl');
for (const file of files) {
  await runFile(file, (result) => appendFileSync(resultsPath, `${JSON.stringify(result)}\n`));
}
