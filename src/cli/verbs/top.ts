import { setTimeout as sleep } from 'node:timers/promises';
import { statAll } from '../../guest/accounting.ts';
import { type HostTerminal, openHostTerminal } from '../../guest/host-terminal.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { formatSummary, formatTop, type Look, rowsBetween, sortRows, type TopKey } from '../top-table.ts';
import type { ParsedVerb } from '../verb-types.ts';

const INTERVAL_MS = 2000;

const SORT_KEYS: Readonly<Record<string, TopKey>> = {
  c: 'cpu',
  m: 'memory',
  v: 'virtual',
  p: 'processes',
  t: 'time',
  u: 'uptime',
  x: 'context',
  n: 'name',
};
const INTERRUPT = '\x03';
/** Takes the other screen and hides the cursor; and back. */
const ENTER_SCREEN = '\x1b[?1049h\x1b[?25l';
const LEAVE_SCREEN = '\x1b[?25h\x1b[?1049l';
const HOME = '\x1b[H';
const ERASE_TO_END_OF_LINE = '\x1b[K';
const ERASE_BELOW = '\x1b[J';

/** `vserver top`: shows what guests use, again and again. */
export async function top(parsed: ParsedVerb<'top'>, io: Io, services: Services): Promise<VerbResult> {
  const { once, sort = 'cpu', interval = INTERVAL_MS } = parsed.options;
  const look = (): Look => ({
    rows: statAll(services.manager.host, services.manager.registry.list()),
    atMs: performance.now(),
  });
  const { client } = io;
  const [stdin, stdout] = io.tty;
  if (client !== undefined && stdin && stdout && !once && !parsed.global.json) {
    const terminal = await openHostTerminal(services.manager.host, client, io);
    await new Screen(terminal, look, sort, interval).run(io.signal);
    return 0;
  }
  let before = look();
  do {
    await sleep(interval, undefined, { signal: io.signal }).catch(() => {});
    if (io.signal.aborted) return 0;
    const now = look();
    const rows = sortRows(rowsBetween(before, now), sort);
    before = now;
    await io.out(parsed.global.json ? formatJson(rows) : formatTop(rows));
  } while (!once);
  return 0;
}

/** The table on a terminal, until somebody ends it. */
class Screen {
  readonly #terminal: HostTerminal;
  readonly #look: () => Look;
  readonly #intervalMs: number;
  #key: TopKey;
  #isReversed = false;
  #before: Look;
  #now: Look;
  /** Wakes who waits for the next look. */
  #wake = new AbortController();
  #isOver = false;

  constructor(terminal: HostTerminal, look: () => Look, key: TopKey, intervalMs: number) {
    this.#terminal = terminal;
    this.#look = look;
    this.#key = key;
    this.#intervalMs = intervalMs;
    this.#before = this.#now = look();
  }

  async run(signal: AbortSignal): Promise<void> {
    const end = (): void => {
      this.#isOver = true;
      this.#wake.abort();
    };
    signal.addEventListener('abort', end);
    this.#terminal.onKey((key) => {
      if (key === undefined || key === 'q' || key === INTERRUPT) end();
      else void this.#press(key);
    });
    try {
      await this.#terminal.write(ENTER_SCREEN);
      while (!this.#isOver && !signal.aborted) {
        await this.#draw();
        this.#wake = new AbortController();
        await sleep(this.#intervalMs, undefined, { signal: this.#wake.signal }).catch(() => {});
        this.#before = this.#now;
        this.#now = this.#look();
      }
      await this.#terminal.write(LEAVE_SCREEN);
    } finally {
      signal.removeEventListener('abort', end);
      this.#terminal.close();
    }
  }

  async #press(key: string): Promise<void> {
    if (key === ' ') this.#wake.abort();
    else if (key === 'r') this.#isReversed = !this.#isReversed;
    else this.#key = SORT_KEYS[key.toLowerCase()] ?? this.#key;
    if (!this.#isOver) await this.#draw();
  }

  async #draw(): Promise<void> {
    const { rows, columns } = this.#terminal.size;
    const table = sortRows(rowsBetween(this.#before, this.#now), this.#key, this.#isReversed);
    const text = `${formatSummary(table, this.#key)}\n${formatTop(table)}`;
    const lines = text.trimEnd().split('\n').slice(0, Math.max(1, rows));
    const fitting = lines.map((line) => `${[...line].slice(0, columns).join('')}${ERASE_TO_END_OF_LINE}`);
    await this.#terminal.write(`${HOME}${fitting.join('\r\n')}${ERASE_BELOW}`);
  }
}
