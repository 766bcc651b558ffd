import { StateError } from '../base/errors.ts';

/** Soft and hard limit of a resource of setrlimit(2). */
export interface ProcLimit {
  readonly soft: number | 'unlimited';
  readonly hard: number | 'unlimited';
}

/** Names in the file ⇄ lower case names without RLIMIT_ (lnames in fs/proc/base.c). */
const NAMES: Readonly<Record<string, string>> = {
  'Max cpu time': 'cpu',
  'Max file size': 'fsize',
  'Max data size': 'data',
  'Max stack size': 'stack',
  'Max core file size': 'core',
  'Max resident set': 'rss',
  'Max processes': 'nproc',
  'Max open files': 'nofile',
  'Max locked memory': 'memlock',
  'Max address space': 'as',
  'Max file locks': 'locks',
  'Max pending signals': 'sigpending',
  'Max msgqueue size': 'msgqueue',
  'Max nice priority': 'nice',
  'Max realtime priority': 'rtprio',
  'Max realtime timeout': 'rttime',
};

/**
 * Parses `/proc/PID/limits`: columns two blanks apart at least, the first line titles.
 *
 * @throws StateError malformed-kernel-text
 */
export function parseProcLimits(text: string): ReadonlyMap<string, ProcLimit> {
  const lines = text.split('\n').slice(1);
  return new Map(
    lines
      .filter((line) => line !== '')
      .map((line) => {
        const [title = '', soft = '', hard = ''] = line.split(/ {2,}/);
        const name = NAMES[title];
        if (name === undefined) throw malformed(line);
        return [name, { soft: limit(soft, line), hard: limit(hard, line) }];
      }),
  );
}

function limit(word: string, line: string): number | 'unlimited' {
  if (word === 'unlimited') return word;
  if (!/^\d+$/.test(word)) throw malformed(line);
  return Number(word);
}

function malformed(line: string): StateError {
  return new StateError(
    'malformed-kernel-text',
    `cannot parse "/proc/PID/limits": found ${JSON.stringify(line)}`,
  );
}
