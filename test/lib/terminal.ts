/**
 * A terminal for tests, and somebody who types: script(1) of Debian's essential bsdutils holds the master.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually, type Instance } from './instance.ts';
import { PATIENCE } from './patience.ts';

const DEADLINE_MS = 10_000 * PATIENCE;
/** Characters, of what a terminal shows instead of what was waited for. */
const SHOWN_MAX = 2000;

/** A shell script running on a terminal. */
export interface Terminal {
  /** All it has shown so far. */
  readonly shown: string;
  /** Types text; `\r` is the Enter key. */
  type(text: string): void;
  /** Resolves with the match when something new that fits is shown: each piece is matched once. */
  see(pattern: RegExp): Promise<RegExpExecArray>;
  /** Makes the window another size. */
  resize(rows: number, columns: number): void;
  /** Settings of the terminal, as `stty -g` gives them. */
  settings(): string;
  /** Exit code of the script; the terminal is gone then. */
  readonly ended: Promise<number>;
  /** Makes an end of it. */
  close(): Promise<void>;
}

/** Opens a terminal of 24 rows and 80 columns and runs a shell script there, in which `$V` is the client. */
export async function openTerminal(v: Instance, script: string): Promise<Terminal> {
  const name = join(v.scratch, `terminal-${process.hrtime.bigint()}`);
  // A process of its own waits before the script: the size must be there before anybody looks.
  writeFileSync(
    name,
    `stty rows 24 cols 80; tty >'${name}.tty.new'; mv '${name}.tty.new' '${name}.tty'\n${script}\n`,
  );
  const child: ChildProcess = spawn('script', ['-qefc', `exec sh '${name}'`, '/dev/null'], {
    cwd: v.scratch,
    env: {
      PATH: process.env['PATH'] ?? '',
      HOME: '/root',
      TERM: 'vt100',
      SHELL: '/bin/sh',
      VSERVER_ROOT: v.root,
      V: v.client,
    },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let shown = '';
  let seen = 0;
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    shown += text;
  });
  child.stdin?.on('error', () => {}); // it has ended
  const ended = once(child, 'close').then(([code]) => Number(code));
  const path = await eventually('a terminal', () =>
    existsSync(`${name}.tty`) ? readFileSync(`${name}.tty`, 'utf8').trim() : undefined,
  );
  return {
    get shown() {
      return shown;
    },
    type: (text) => void child.stdin?.write(text),
    see: async (pattern) =>
      await eventually(
        `${pattern} on the terminal`,
        () => {
          const found = pattern.exec(shown.slice(seen));
          if (!found) return undefined;
          seen += found.index + found[0].length;
          return found;
        },
        DEADLINE_MS,
      ).catch((error: unknown) =>
        assert.fail(`${String(error)}; it shows:\n${JSON.stringify(shown.slice(seen).slice(-SHOWN_MAX))}`),
      ),
    resize: (rows, columns) => {
      execFileSync('stty', ['-F', path, 'rows', String(rows), 'cols', String(columns)]);
    },
    settings: () => execFileSync('stty', ['-F', path, '-g'], { encoding: 'utf8' }).trim(),
    ended,
    close: async () => {
      if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
      await ended;
    },
  };
}
