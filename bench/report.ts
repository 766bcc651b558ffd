/** Formats results for a person. */
import { formatTable } from '../src/base/text-table.ts';
import type { Result, Target } from './scenario.ts';
import type { Spread } from './statistics.ts';

/** Formats the results of one scenario as two tables, comparisons and figures, and a line for each skip. */
export function formatResults(results: readonly Result[]): string {
  const comparisons = results.filter((result) => result.kind === 'comparison');
  const figures = results.filter((result) => result.kind === 'figure');
  const skips = results.filter((result) => result.kind === 'skip');
  const right = (title: string) => ({ title, align: 'right' }) as const;
  const compared = formatTable(
    [
      { title: 'WHAT' },
      { title: 'AGAINST' },
      ...['RATIO', '95 %', 'TARGET', 'MEDIAN', 'PEER', 'P90', 'PEER', 'RUNS'].map(right),
    ],
    comparisons.map((one) => [
      one.subject,
      one.peer,
      `${short(one.ratio.value)}${one.isSpeed ? ' speed' : ''}`,
      interval(one.ratio),
      judged(one.ratio.value, one.target),
      ...[one.subjectMedian, one.peerMedian, one.subjectP90, one.peerP90].map(
        (value) => `${short(value)} ${one.unit}`,
      ),
      String(one.runs),
    ]),
  );
  const measured = formatTable(
    [{ title: 'WHAT' }, right('VALUE'), right('95 % or range'), right('TARGET')],
    figures.map((one) => [
      one.what,
      `${short(one.value)} ${one.unit}`,
      one.spread === undefined ? '' : interval(one.spread),
      judged(one.value, one.target),
    ]),
  );
  return [
    comparisons.length > 0 ? compared : '',
    figures.length > 0 ? measured : '',
    skips.map(({ what, reason }) => `skipped ${what}: ${reason}\n`).join(''),
  ].join('');
}

function interval({ low, high }: Spread): string {
  return `${short(low)} to ${short(high)}`;
}

function judged(value: number, target: Target | undefined): string {
  if (target === undefined) return '';
  const isMet = target.relation === 'at most' ? value <= target.value : value >= target.value;
  return `${target.relation === 'at most' ? '≤' : '≥'} ${target.value} ${isMet ? 'met' : 'missed'}`;
}

/** Three digits that count. */
function short(value: number): string {
  const decimals = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(decimals, 3));
}
