/** The results of an inner test run, as lines of JSON in the order node:test reports them, and as a tree. */
import { relative } from 'node:path';
import type { EventData } from 'node:test';

/** One finished test of the inner run. */
export type InnerResult = {
  /** Relative to the checkout. */
  readonly file: string;
  readonly name: string;
  /** 0 for a test at the top of its file. */
  readonly nesting: number;
  readonly outcome: 'pass' | 'fail' | 'skip' | 'todo';
  /** Why it was skipped or is to do; '' when not said. */
  readonly reason: string;
  readonly durationMs: number;
  /** Message and stack of what it failed with. */
  readonly error: { readonly message: string; readonly stack: string } | null;
};

/** A test with the tests inside it. */
export type InnerTest = InnerResult & { readonly children: readonly InnerTest[] };

/** The value to write for an event of node:test. @param checkout what the file's path is made relative to */
export function formatResult(
  type: 'test:pass' | 'test:fail',
  event: EventData.TestPass | EventData.TestFail,
  checkout: string,
): InnerResult {
  const base = {
    // A file that failed before its first test is reported as a test named after it.
    file: relative(checkout, event.file ?? event.name),
    name: event.name,
    nesting: event.nesting,
    durationMs: Math.round(event.details.duration_ms),
    error: 'error' in event.details ? describe(event.details.error) : null,
  };
  // A skipped or to-do test arrives as passed or failed with a mark: a reason, or true.
  if (event.skip) return { ...base, outcome: 'skip', reason: event.skip === true ? '' : event.skip };
  if (event.todo) return { ...base, outcome: 'todo', reason: event.todo === true ? '' : event.todo };
  return { ...base, outcome: type === 'test:pass' ? 'pass' : 'fail', reason: '' };
}

/**
 * Reads the lines back as the tests of each file, in order. The end of a run that was cut short is left out: half a
 * line, and tests whose parent did not finish.
 *
 * @throws Error when a whole line is no result
 */
export function parseResults(text: string): ReadonlyMap<string, readonly InnerTest[]> {
  const files = new Map<string, InnerTest[]>();
  // node:test reports a test after the tests inside it, so those wait here, by nesting, for their parent.
  const waiting: InnerTest[][] = [];
  for (const line of text.split('\n').slice(0, -1)) {
    const result: unknown = JSON.parse(line);
    if (!isResult(result)) throw new Error(`cannot read a test result: found ${JSON.stringify(line)}`);
    const test = { ...result, children: waiting[result.nesting + 1] ?? [] };
    waiting[result.nesting + 1] = [];
    if (result.nesting > 0) {
      waiting[result.nesting] = [...(waiting[result.nesting] ?? []), test];
    } else {
      files.set(result.file, [...(files.get(result.file) ?? []), test]);
    }
  }
  return files;
}

/** The error node:test wrapped: the one the test threw, when it threw one. */
function describe(error: Error): { readonly message: string; readonly stack: string } {
  const thrown = error.cause instanceof Error ? error.cause : error;
  return { message: thrown.message, stack: thrown.stack ?? thrown.message };
}

function isResult(value: unknown): value is InnerResult {
  return (
    typeof value === 'object' &&
    value !== null &&
    ['file', 'name', 'outcome', 'reason'].every((key) => typeof Reflect.get(value, key) === 'string') &&
    ['nesting', 'durationMs'].every((key) => typeof Reflect.get(value, key) === 'number') &&
    typeof Reflect.get(value, 'error') === 'object'
  );
}
