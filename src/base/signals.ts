import { UserError } from './errors.ts';

/**
 * Numbers of the signals of signal(7).
 *
 * They are the same on every architecture this project runs on (x86, arm64, riscv64, s390x, powerpc); alpha, mips,
 * parisc and sparc differ.
 */
const SIGNALS = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  ILL: 4,
  TRAP: 5,
  ABRT: 6,
  BUS: 7,
  FPE: 8,
  KILL: 9,
  USR1: 10,
  SEGV: 11,
  USR2: 12,
  PIPE: 13,
  ALRM: 14,
  TERM: 15,
  STKFLT: 16,
  CHLD: 17,
  CONT: 18,
  STOP: 19,
  TSTP: 20,
  TTIN: 21,
  TTOU: 22,
  URG: 23,
  XCPU: 24,
  XFSZ: 25,
  VTALRM: 26,
  PROF: 27,
  WINCH: 28,
  IO: 29,
  PWR: 30,
  SYS: 31,
} as const satisfies Readonly<Record<string, number>>;

const ALIASES: Readonly<Record<string, number>> = { IOT: SIGNALS.ABRT, POLL: SIGNALS.IO, CLD: SIGNALS.CHLD };
const NUMBERS: ReadonlyMap<string, number> = new Map(Object.entries({ ...SIGNALS, ...ALIASES }));
const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(SIGNALS).map(([name, number]) => [number, name]),
);

/** First real-time signal as C libraries number them (32 and 33 are glibc's own). */
const SIGRTMIN = 34;
const SIGRTMAX = 64;

/**
 * Parses a signal: `TERM`, `SIGTERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`; letters of any case.
 *
 * @returns 1..64
 * @throws UserError invalid-signal
 */
export function parseSignal(text: string): number {
  const number = /^\d{1,2}$/.test(text) ? Number(text) : namedSignal(text.toUpperCase().replace(/^SIG/, ''));
  if (number === undefined || number < 1 || number > SIGRTMAX) {
    throw new UserError(
      'invalid-signal',
      `cannot use ${JSON.stringify(text)} as a signal; need a name such as TERM or RTMIN+3, or a number from 1 to ${SIGRTMAX}`,
    );
  }
  return number;
}

function namedSignal(name: string): number | undefined {
  const [, edge, offset = '0'] = /^RT(MIN(?=$|\+)|MAX(?=$|-))(?:[+-](\d{1,2}))?$/.exec(name) ?? [];
  if (edge === undefined) return NUMBERS.get(name);
  const number = edge === 'MIN' ? SIGRTMIN + Number(offset) : SIGRTMAX - Number(offset);
  return number >= SIGRTMIN && number <= SIGRTMAX ? number : undefined;
}

/** Formats a signal's number as its name, for example `SIGTERM` or `SIGRTMIN+3`; numbers without a name as digits. */
export function formatSignal(number: number): string {
  const name = NAMES.get(number);
  if (name !== undefined) return `SIG${name}`;
  if (number < SIGRTMIN || number > SIGRTMAX) return String(number);
  return number === SIGRTMIN ? 'SIGRTMIN' : `SIGRTMIN+${number - SIGRTMIN}`;
}
