/**
 * Addresses that are on their way to an interface of the host while no record of a run has them yet: a sudden end of ours
 * in between would leave them there for good.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { GuestName } from '../base/ids.ts';
import { readIfThere, writeVolatile } from '../sys/files.ts';

/** What was about to be put on an interface of the host for a guest. */
export interface PromisedAddresses {
  readonly bootId: string;
  readonly guest: GuestName;
  readonly interface: string;
  readonly addresses: readonly string[];
}

/** Keeps them in `run/addresses/GUEST.json`. */
export class PromisedAddressFiles {
  readonly #directory: string;

  constructor(runDirectory: string) {
    this.#directory = join(runDirectory, 'addresses');
  }

  /** Called before the first of them is put there. */
  add(promised: PromisedAddresses): void {
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
    writeVolatile(this.#path(promised.guest), JSON.stringify(promised));
  }

  /** The record of the run has them, or they have been taken away. */
  remove(guest: GuestName): void {
    rmSync(this.#path(guest), { force: true });
  }

  /** Returns what an earlier life of this boot has left; what is half written or of another boot is removed. */
  list(bootId: string): readonly PromisedAddresses[] {
    const files = existsSync(this.#directory) ? readdirSync(this.#directory) : [];
    return files.flatMap((file) => {
      const path = join(this.#directory, file);
      const text = file.endsWith('.json') ? readIfThere(path) : undefined;
      const promised = text === undefined ? undefined : (JSON.parse(text) as PromisedAddresses); // our own file
      if (promised?.bootId === bootId) return promised;
      rmSync(path, { force: true });
      return [];
    });
  }

  #path(guest: GuestName): string {
    return join(this.#directory, `${guest}.json`);
  }
}
