/**
 * The stores of one instance, one for each trust domain. Nothing leads from one to another: what two guests have in
 * common is one file on disk and in the page cache only if they are of the same domain.
 *
 *     <directory>/<domain>/…    as image-store.ts has it
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { forgetExamining, ImageStore } from './image-store.ts';
import type { StorageMachine } from './machine.ts';
import { isTrustDomain } from './trust-domain.ts';

/** Opens the stores of trust domains. */
export class ImageStores {
  readonly #directory: string;
  readonly #machine: StorageMachine;
  readonly #runDir: string;
  readonly #open = new Map<string, ImageStore>();

  /**
   * @param directory of all of them
   * @param runDir where the instance has its sockets
   */
  constructor(directory: string, machine: StorageMachine, runDir: string) {
    this.#directory = directory;
    this.#machine = machine;
    this.#runDir = runDir;
  }

  /** Returns the store of a trust domain. Nothing is made on disk before something is added. */
  of(domain: string): ImageStore {
    let store = this.#open.get(domain);
    if (store === undefined) {
      store = new ImageStore(join(this.#directory, domain), this.#machine, this.#runDir);
      this.#open.set(domain, store);
    }
    return store;
  }

  /** Lists the trust domains that have a store on disk. */
  list(): readonly string[] {
    const names = existsSync(this.#directory) ? readdirSync(this.#directory) : [];
    return names.filter(isTrustDomain).sort();
  }

  /** Deletes what an earlier life left half-made. Called once, at the start. */
  async sweep(): Promise<void> {
    forgetExamining(this.#runDir);
    for (const domain of this.list()) await this.of(domain).sweep();
  }
}
