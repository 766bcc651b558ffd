/**
 * Reads Linux-VServer's Proc-FS as its tools did: by labels and white space, of the files `info`, `limit`, `cvirt`, `cacct`
 * and `nsproxy`. Written from the description of the original alone, so that it agrees with our writer only if both are right.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** A row of `limit`. */
export interface ReadLimit {
  readonly current: number;
  readonly min: number;
  readonly max: number;
  readonly soft: number;
  readonly hard: number;
  readonly hits: number;
}

/** A context, as a tool such as vserver-stat shows it. */
export interface ReadContext {
  readonly xid: number;
  readonly initPid: number;
  readonly name: string;
  readonly threads: number;
  readonly uptimeSeconds: number;
  readonly load: readonly number[];
  readonly limits: ReadonlyMap<string, ReadLimit>;
  /** Of each family: messages and bytes that were received, sent, failed. */
  readonly sockets: ReadonlyMap<string, readonly number[]>;
}

/** Reads all contexts below a directory that has `virtual`. Fails when a line has another form. */
export function readContexts(directory: string): readonly ReadContext[] {
  const virtual = join(directory, 'virtual');
  const xids = readdirSync(virtual).filter((name) => /^\d+$/.test(name));
  return xids
    .map(Number)
    .toSorted((a, b) => a - b)
    .map((xid) => readContext(join(virtual, String(xid))));
}

function readContext(directory: string): ReadContext {
  const text = (name: string): string => readFileSync(join(directory, name), 'latin1');
  const labels = (name: string): ReadonlyMap<string, string> =>
    new Map(
      text(name)
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()]),
    );
  const [info, cvirt] = [labels('info'), labels('cvirt')];
  const number = (value: string | undefined): number => {
    if (value === undefined || !/^-?\d+(\.\d+)?$/.test(value)) throw new Error(`no number: "${value}"`);
    return Number(value);
  };
  const hostUptime = Number(readFileSync('/proc/uptime', 'latin1').split(' ')[0]);
  return {
    xid: number(info.get('ID')),
    initPid: number(info.get('Init')),
    name: labels('nsproxy').get('NodeName') ?? '',
    threads: number(cvirt.get('nr_threads')),
    uptimeSeconds: hostUptime - number(cvirt.get('BiasUptime')),
    load: (cvirt.get('loadavg') ?? '').split(' ').map(number),
    limits: readLimits(text('limit')),
    sockets: readSockets(text('cacct')),
  };
}

/** `NAME: current min/max soft/hard hits`, after one line of titles. */
function readLimits(text: string): ReadonlyMap<string, ReadLimit> {
  const [, ...lines] = text.trimEnd().split('\n');
  return new Map(
    lines.map((line) => {
      const form = /^([A-Z]+):\s+(-?\d+)\s+(-?\d+)\/\s*(-?\d+)\s+(-?\d+)\/\s*(-?\d+)\s+(\d+)$/.exec(line);
      if (!form) throw new Error(`no limit: "${line}"`);
      const [current = 0, min = 0, max = 0, soft = 0, hard = 0, hits = 0] = form.slice(2).map(Number);
      return [form[1] ?? '', { current, min, max, soft, hard, hits }];
    }),
  );
}

/** `NAME: count/bytes count/bytes count/bytes`, up to an empty line. */
function readSockets(text: string): ReadonlyMap<string, readonly number[]> {
  const [, ...lines] = (text.split('\n\n')[0] ?? '').split('\n');
  return new Map(
    lines.map((line) => {
      const form = /^([A-Z0-9]+):((\s+\d+\/\d+){3})\s*$/.exec(line);
      if (!form) throw new Error(`no family: "${line}"`);
      return [
        form[1] ?? '',
        (form[2] ?? '')
          .split(/[\s/]+/)
          .filter(Boolean)
          .map(Number),
      ];
    }),
  );
}
