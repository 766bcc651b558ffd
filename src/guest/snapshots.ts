/**
 * Snapshots of guests: an image of the files, the configuration and the quotas of users they had, under a name.
 *
 *     lib/guests/NAME/snapshots/SNAPSHOT.json
 */
import { mkdirSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { UserError } from '../base/errors.ts';
import type { RootAttributes } from '../storage/helper/tasks.ts';
import { readIfThere, removeDurable, syncDirectory, writeDurable } from '../sys/files.ts';
import type { Host } from './host.ts';
import { guestPaths } from './paths.ts';
import type { Pin } from './storage.ts';
import type { KeptQuota } from './user-quotas.ts';

/** A snapshot, as its file has it. */
export interface Snapshot {
  readonly name: string;
  /** RFC 3339. */
  readonly takenAt: string;
  /** The guest ran, and was paused for it. */
  readonly wasRunning: boolean;
  readonly pin: Pin;
  readonly root: RootAttributes;
  /** Text of the configuration file. */
  readonly config: string;
  /** Limits of the guest's users and groups; without, the snapshot is older than that these were kept. */
  readonly quotas?: readonly KeptQuota[] | undefined;
  /** Files in it, and bytes that had to be added to the store for it. */
  readonly newBytes: number;
}

const NAME = /^[a-zA-Z\d][\w.-]{0,62}$/;

/** Whether a text can be the name of a snapshot. */
export function isSnapshotName(text: string): boolean {
  return NAME.test(text);
}

/** Keeps the snapshots of all guests. */
export class Snapshots {
  readonly #host: Host;

  constructor(host: Host) {
    this.#host = host;
  }

  /** Checks a name for a snapshot. @throws UserError invalid-name, snapshot-exists */
  checkNew(guest: string, name: string): void {
    if (!NAME.test(name)) {
      throw new UserError(
        'invalid-name',
        `cannot name a snapshot ${JSON.stringify(name)}; need letters, digits, "_", "." and "-", at most 63`,
      );
    }
    if (readIfThere(this.#path(guest, name)) === undefined) return;
    throw new UserError(
      'snapshot-exists',
      `cannot take snapshot "${name}" of guest "${guest}": found one of that name; need another name`,
    );
  }

  /** Lists a guest's snapshots, the oldest first. */
  list(guest: string): readonly Snapshot[] {
    return this.#names(guest)
      .flatMap((name) => this.#read(guest, name) ?? [])
      .sort((a, b) => (a.takenAt < b.takenAt ? -1 : 1));
  }

  /** Finds a snapshot by its name. @throws UserError snapshot-not-found */
  find(guest: string, name: string): Snapshot {
    const snapshot = NAME.test(name) ? this.#read(guest, name) : undefined;
    if (snapshot) return snapshot;
    throw new UserError(
      'snapshot-not-found',
      `cannot find snapshot "${name}" of guest "${guest}": found ${this.#names(guest).join(', ') || 'none'}`,
    );
  }

  /** Keeps a snapshot: it is there from then on. */
  add(guest: string, snapshot: Snapshot): void {
    const path = this.#path(guest, snapshot.name);
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    syncDirectory(dirname(dirname(path)));
    writeDurable(path, `${JSON.stringify(snapshot)}\n`);
  }

  /** Forgets a snapshot; what only it needed goes with the next `store gc`. */
  remove(guest: string, name: string): void {
    removeDurable(this.#path(guest, this.find(guest, name).name));
  }

  #names(guest: string): readonly string[] {
    try {
      const files = readdirSync(join(guestPaths(this.#host.paths, guest).directory, 'snapshots'));
      return files.filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -'.json'.length));
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
      throw error;
    }
  }

  #read(guest: string, name: string): Snapshot | undefined {
    const text = readIfThere(this.#path(guest, name));
    return text === undefined ? undefined : (JSON.parse(text) as Snapshot); // our own file
  }

  #path(guest: string, name: string): string {
    return join(guestPaths(this.#host.paths, guest).directory, 'snapshots', `${name}.json`);
  }
}
