/**
 * What guests have used over time, in a database of bounded size: every pass over all guests for two hours, one of five
 * minutes for a day, one of an hour for sixty days. Counters only grow while a guest runs, so that nothing is lost by
 * leaving passes out.
 *
 * The history can be done without: a database that is damaged is thrown away and begun anew, and no write waits for the
 * disk.
 */
import { closeSync, openSync, rmSync } from 'node:fs';
import type { DatabaseSync, StatementSync } from 'node:sqlite';

/** What one guest had used at one time. */
export interface HistoryRow {
  readonly guest: string;
  /** Counters begin anew when it is less than before. */
  readonly uptimeSeconds: number;
  readonly cpuUserUs: number;
  readonly cpuSystemUs: number;
  readonly residentBytes: number;
  readonly tasks: number;
  /** Null without addresses of its own. */
  readonly receivedBytes: number | null;
  readonly sentBytes: number | null;
  /** Threads too; null where nobody counted them. */
  readonly forks: number | null;
}

/** A row, and when it was written: seconds of the epoch. */
export interface HistorySample extends HistoryRow {
  readonly at: number;
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** How much longer than the others the first pass of a time is kept, in seconds. */
const KEPT = [
  { kind: 3, every: HOUR, for: 60 * DAY },
  { kind: 2, every: 5 * MINUTE, for: DAY },
  { kind: 1, every: 1, for: 2 * HOUR },
] as const;
/** About 60 bytes each: 60 MB. Beyond that the oldest go first. */
const ROWS_MAX = 1_000_000;
/** Old passes that go with each new one, so that no write takes long. */
const DROPS_PER_PASS = 4;
/** Names of guests that have come and gone are looked for when there are more. */
const NAMES_MAX = 10_000;
/** SQLITE_CORRUPT, SQLITE_NOTADB: somebody else's file, or one that a power cut left half-written. */
const DAMAGED = [11, 26];

const SCHEMA = `
  PRAGMA journal_mode = TRUNCATE;
  PRAGMA synchronous = OFF;
  PRAGMA cache_size = -256;
  CREATE TABLE IF NOT EXISTS guest(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
  CREATE TABLE IF NOT EXISTS pass(at INTEGER PRIMARY KEY, kind INTEGER NOT NULL);
  CREATE TABLE IF NOT EXISTS sample(
    at INTEGER NOT NULL, guest INTEGER NOT NULL, uptime INTEGER NOT NULL, user INTEGER NOT NULL,
    system INTEGER NOT NULL, resident INTEGER NOT NULL, tasks INTEGER NOT NULL, received INTEGER, sent INTEGER, forks INTEGER,
    PRIMARY KEY(at, guest)) WITHOUT ROWID;
`;

/** Says how long a pass is kept, by the one before it: 3 an hour's first, 2 that of five minutes, 1 any other. */
export function kindOfPass(at: number, before: number): number {
  const found = KEPT.find(({ every }) => Math.floor(at / every) !== Math.floor(before / every));
  return found?.kind ?? 1;
}

/** The history of one instance. */
export class History {
  readonly #path: string;
  #open: (DatabaseSync & Disposable) | undefined;
  #insert: StatementSync | undefined;
  readonly #ids = new Map<string, number>();
  #rows = 0;
  #last = 0;
  readonly #rowsMax: number;

  constructor(path: string, rowsMax: number = ROWS_MAX) {
    this.#path = path;
    this.#rowsMax = rowsMax;
  }

  /**
   * Writes one pass over all guests, and drops what is too old or too much.
   *
   * @param at seconds of the epoch; one before the last is left out, as when the clock was set back, and of two in a
   *   second the later one counts for who is in both
   */
  async write(at: number, rows: readonly HistoryRow[]): Promise<void> {
    await this.#use((db) => {
      if (at < this.#last || rows.length === 0) return;
      db.exec('BEGIN');
      try {
        this.#writeRows(db, at, rows);
        this.#prune(db, at);
        db.exec('COMMIT');
      } catch (error) {
        if (db.isTransaction) db.exec('ROLLBACK');
        throw error;
      }
      this.#rows += rows.length;
      this.#last = at;
    });
  }

  #writeRows(db: DatabaseSync, at: number, rows: readonly HistoryRow[]): void {
    const replaced =
      at === this.#last ? db.prepare('DELETE FROM sample WHERE at = ? AND guest = ?') : undefined;
    if (!replaced) db.prepare('INSERT INTO pass VALUES(?, ?)').run(at, kindOfPass(at, this.#last));
    this.#insert ??= db.prepare('INSERT INTO sample VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)');
    for (const row of rows) {
      const { uptimeSeconds, cpuUserUs, cpuSystemUs, residentBytes, tasks, receivedBytes, sentBytes, forks } =
        row;
      const id = this.#idOf(db, row.guest);
      if (replaced) this.#rows -= Number(replaced.run(at, id).changes);
      const counts = [cpuUserUs, cpuSystemUs, residentBytes, tasks, receivedBytes, sentBytes, forks];
      this.#insert.run(at, id, uptimeSeconds, ...counts);
    }
  }

  #idOf(db: DatabaseSync, name: string): number {
    const known = this.#ids.get(name);
    if (known !== undefined) return known;
    if (this.#ids.size > NAMES_MAX) this.#ids.clear();
    db.prepare('INSERT OR IGNORE INTO guest(name) VALUES(?)').run(name);
    const id = Number(db.prepare('SELECT id FROM guest WHERE name = ?').get(name)?.['id']);
    this.#ids.set(name, id);
    return id;
  }

  #prune(db: DatabaseSync, now: number): void {
    const old = KEPT.flatMap(({ kind, for: seconds }) =>
      db
        .prepare('SELECT at FROM pass WHERE kind = ? AND at < ? ORDER BY at LIMIT ?')
        .all(kind, now - seconds, DROPS_PER_PASS),
    );
    for (const { at } of old.slice(0, DROPS_PER_PASS)) this.#drop(db, Number(at));
    for (let drops = 0; this.#rows > this.#rowsMax && drops < DROPS_PER_PASS; drops++) {
      const oldest = db.prepare('SELECT min(at) AS at FROM pass').get()?.['at'];
      if (typeof oldest === 'number') this.#drop(db, oldest);
    }
  }

  #drop(db: DatabaseSync, at: number): void {
    const { changes } = db.prepare('DELETE FROM sample WHERE at = ?').run(at);
    db.prepare('DELETE FROM pass WHERE at = ?').run(at);
    this.#rows -= Number(changes);
  }

  /**
   * Reads samples since a time, by guest and time.
   *
   * @param since seconds of the epoch
   * @param names only these guests; undefined: all
   */
  async read(since: number, names?: readonly string[]): Promise<readonly HistorySample[]> {
    return await this.#use((db) => {
      const samples = db.prepare(
        `SELECT name AS guest, at, uptime AS uptimeSeconds, user AS cpuUserUs, system AS cpuSystemUs,
          resident AS residentBytes, tasks, received AS receivedBytes, sent AS sentBytes, forks
        FROM sample JOIN guest ON guest.id = sample.guest WHERE at >= ? ORDER BY name, at`,
      );
      const wanted = names && new Set(names);
      const found: HistorySample[] = [];
      for (const row of samples.iterate(since) as IterableIterator<unknown>) {
        const sample = { ...(row as HistorySample) }; // the columns are its fields
        if (wanted === undefined || wanted.has(sample.guest)) found.push(sample);
      }
      return found;
    });
  }

  /** Closes the database; the next use opens it again. */
  close(): void {
    this.#insert = undefined;
    this.#ids.clear();
    this.#open?.close();
    this.#open = undefined;
  }

  async #use<T>(work: (db: DatabaseSync) => T): Promise<T> {
    try {
      return work(await this.#database());
    } catch (error) {
      if (!isDamage(error)) throw error;
      this.close();
      for (const suffix of ['', '-journal']) rmSync(`${this.#path}${suffix}`, { force: true });
      return work(await this.#database());
    }
  }

  async #database(): Promise<DatabaseSync> {
    if (this.#open) return this.#open;
    // Loaded when there is something to write: a control plane without guests has no use for it.
    const { DatabaseSync: Database } = await import('node:sqlite');
    closeSync(openSync(this.#path, 'a', 0o600));
    const db = new Database(this.#path);
    try {
      db.exec(SCHEMA);
      // One of a former version has no column for them.
      const columns = db.prepare('PRAGMA table_info(sample)').all();
      if (!columns.some(({ name }) => name === 'forks'))
        db.exec('ALTER TABLE sample ADD COLUMN forks INTEGER');
      this.#rows = Number(db.prepare('SELECT count(*) AS count FROM sample').get()?.['count']);
      if (Number(db.prepare('SELECT count(*) AS count FROM guest').get()?.['count']) > NAMES_MAX)
        db.exec('DELETE FROM guest WHERE id NOT IN (SELECT guest FROM sample)');
      this.#last = Number(db.prepare('SELECT max(at) AS at FROM pass').get()?.['at'] ?? 0);
    } catch (error) {
      db.close();
      throw error;
    }
    this.#open = db;
    return db;
  }
}

function isDamage(error: unknown): boolean {
  return error instanceof Error && 'errcode' in error && DAMAGED.includes(Number(error.errcode) & 0xff);
}
