/** Medians and the spread of their ratio. */
import type { Comparison, Figure, Target } from './scenario.ts';

/** An estimate with its 95 % bootstrap interval. */
export interface Spread {
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** What was timed of one subject, in the order of the rounds, and what it is called. */
export interface Sample {
  readonly name: string;
  readonly values: readonly number[];
}

const RESAMPLES = 2000;

/** Returns the value below which the share `q` (0 to 1) of `values` lies, interpolated. NaN for none. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}

/** Returns the median; NaN for no values. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Returns the geometric mean of positive numbers. */
export function geometricMean(values: readonly number[]): number {
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}

/**
 * Estimates `statistic` of rounds, and its 95 % interval by drawing whole rounds with replacement: what disturbed a
 * round disturbed all its subjects. The draw is seeded, so that one input gives one interval.
 */
export function bootstrap(rounds: number, statistic: (indexes: readonly number[]) => number): Spread {
  const random = generator(rounds);
  const all = Array.from({ length: rounds }, (_, index) => index);
  const draws = Array.from({ length: RESAMPLES }, () =>
    statistic(all.map(() => Math.floor(random() * rounds))),
  );
  return { value: statistic(all), low: quantile(draws, 0.025), high: quantile(draws, 0.975) };
}

/** Estimates the ratio of two medians of the same rounds. */
export function ratioOfMedians(above: readonly number[], below: readonly number[]): Spread {
  const pick = (values: readonly number[], indexes: readonly number[]): number =>
    median(indexes.map((index) => values[index] ?? Number.NaN));
  return bootstrap(
    Math.min(above.length, below.length),
    (indexes) => pick(above, indexes) / pick(below, indexes),
  );
}

/** How to show a comparison; `perUnit` is how many of what was timed make one `unit`. */
export interface ComparisonOptions {
  readonly unit: Comparison['unit'];
  readonly perUnit: number;
  readonly isSpeed?: boolean;
  readonly target?: Target | undefined;
}

/** Compares two subjects of the same rounds. */
export function compare(subject: Sample, peer: Sample, options: ComparisonOptions): Comparison {
  const { unit, perUnit, isSpeed = false, target } = options;
  return {
    kind: 'comparison',
    subject: subject.name,
    peer: peer.name,
    unit,
    runs: Math.min(subject.values.length, peer.values.length),
    subjectMedian: median(subject.values) / perUnit,
    subjectP90: quantile(subject.values, 0.9) / perUnit,
    peerMedian: median(peer.values) / perUnit,
    peerP90: quantile(peer.values, 0.9) / perUnit,
    ratio: isSpeed
      ? ratioOfMedians(peer.values, subject.values)
      : ratioOfMedians(subject.values, peer.values),
    isSpeed,
    target,
  };
}

// mulberry32, public domain: any generator does for a bootstrap, and Math.random cannot be seeded.
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Returns a row of one value; without a target it is stated only. */
export function figure(what: string, unit: string, value: number, target?: Target): Figure {
  return { kind: 'figure', what, unit, value, spread: undefined, target };
}

/** A figure that was measured several times: the median, with the least and the most. */
export function medianFigure(what: string, unit: string, values: readonly number[], target?: Target): Figure {
  const value = median(values);
  const spread = { value, low: Math.min(...values), high: Math.max(...values) };
  return { ...figure(what, unit, value, target), spread };
}
