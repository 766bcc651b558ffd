/** What a bench measures and what it says: the types between the scenarios and the report. */
import type { Spread } from './statistics.ts';

/** What a figure is held against. It never decides a test: a bench reports. */
export interface Target {
  readonly relation: 'at most' | 'at least';
  readonly value: number;
}

/** Two subjects in interleaved runs. */
export interface Comparison {
  readonly kind: 'comparison';
  readonly subject: string;
  readonly peer: string;
  readonly unit: 'ms' | 'us' | 'ns';
  /** Runs of each. */
  readonly runs: number;
  readonly subjectMedian: number;
  readonly subjectP90: number;
  readonly peerMedian: number;
  readonly peerP90: number;
  /** Median of the subject over median of the peer, or the inverse where `isSpeed`. */
  readonly ratio: Spread;
  /** True: the ratio is of speeds, so that more is better. */
  readonly isSpeed: boolean;
  readonly target: Target | undefined;
}

/** A figure of its own, such as a size or a rate. */
export interface Figure {
  readonly kind: 'figure';
  readonly what: string;
  readonly unit: string;
  readonly value: number;
  readonly spread: Spread | undefined;
  readonly target: Target | undefined;
}

/** What was not measured, and why. */
export interface Skip {
  readonly kind: 'skip';
  readonly what: string;
  readonly reason: string;
}

/** One row of the report. */
export type Result = Comparison | Figure | Skip;

/** One scenario: yields its results as it gets them, and removes all it made, whatever happens. */
export interface Scenario {
  readonly name: string;
  /** One line: what is compared under which conditions. */
  readonly about: string;
  readonly run: () => Iterable<Result> | AsyncIterable<Result>;
}
