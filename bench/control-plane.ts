/** A control plane of the bench's own, with all state below one temporary directory, and gone afterwards. */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { run } from './native-programs.ts';

/** The client of this checkout. */
export const VSERVER: string = resolve(import.meta.dirname, '../bin/vserver');

/** Pids of the two daemons. */
export interface Daemons {
  readonly vserverdPid: number;
  readonly syscalldPid: number;
}

/** A running control plane; disposing it stops its guests, ends it and removes its directory. */
export class ControlPlane implements Disposable {
  /** Removed in the end: also for what else a scenario makes. */
  readonly directory: string = mkdtempSync(join(tmpdir(), 'vserver-bench-'));
  /** VSERVER_ROOT. */
  readonly root: string = join(this.directory, 'state');
  readonly #memory: string = mkdtempSync('/dev/shm/vserver-bench-');
  readonly #under: readonly string[];

  /** `under`: words before every command line, for example of nsenter(1). */
  constructor(under: readonly string[] = []) {
    this.#under = under;
    chmodSync(this.directory, 0o711); // the ids of a peer's user namespace pass through it
    // What is volatile is in memory, as /run is on stock systems.
    mkdirSync(this.root);
    symlinkSync(this.#memory, join(this.root, 'run'));
  }

  /** Runs the client; throws unless it ends with 0. */
  vserver(...args: readonly string[]): string {
    const [program = '', ...words] = this.argv(...args);
    return run(program, words);
  }

  /** Words of a client's command line, for the timer. */
  argv(...args: readonly string[]): readonly string[] {
    return [...this.#under, VSERVER, '--root', this.root, ...args];
  }

  daemons(): Daemons {
    const status: unknown = JSON.parse(this.vserver('daemon', 'status', '--json'));
    if (!isDaemons(status)) throw new Error('daemon status --json: no pids');
    return status;
  }

  /** Pid of a guest's first process, seen from the host. */
  initPid(guest: string): number {
    const [view]: readonly unknown[] = JSON.parse(this.vserver('inspect', guest, '--json'));
    if (isObject(view) && typeof view['initPid'] === 'number') return view['initPid'];
    throw new Error(`inspect ${guest} --json: no initPid`);
  }

  [Symbol.dispose](): void {
    if (existsSync(this.root)) {
      if (this.vserver('list', '--all', '--quiet').trim() !== '') this.vserver('delete', '--all', '--force');
      this.vserver('daemon', 'stop', '--guests');
    }
    // A mount below means that something still lives there: rather leave it than delete through it.
    if (readFileSync('/proc/self/mountinfo', 'utf8').includes(this.directory)) {
      throw new Error(`cannot remove "${this.directory}": found a mount below it`);
    }
    for (const path of [this.directory, this.#memory]) rmSync(path, { recursive: true, maxRetries: 3 });
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function isDaemons(value: unknown): value is Daemons {
  return (
    isObject(value) && typeof value['vserverdPid'] === 'number' && typeof value['syscalldPid'] === 'number'
  );
}
