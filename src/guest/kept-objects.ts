/** Objects of syscalld that outlive vserverd: a file in the run directory says which they are. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { readIfThere, writeVolatile } from '../sys/files.ts';
import type { HeldObject } from '../sys/syscalld.ts';
import { OBJECT_KIND } from '../sys/wire.ts';
import { instanceCgroupId } from './cgroup-ids.ts';
import type { Host } from './host.ts';

/** Objects by names, which are descriptors. */
export type NamedObjects = Readonly<Record<string, number>>;

interface KeptRecord<T> {
  readonly objects: T;
  /** A cgroup of another id is another instance's, also of the same name. */
  readonly instance: string;
}

/** Remembers the objects of one part. */
export class KeptObjects<T extends NamedObjects> {
  readonly #host: Host;
  readonly #name: string;

  /** @param name of the file */
  constructor(host: Host, name: string) {
    this.#host = host;
    this.#name = name;
  }

  get #file(): string {
    return join(this.#host.paths.run, this.#name);
  }

  /** Returns the objects of a former vserverd, if syscalld has them still and they are of this instance. */
  find(held: readonly HeldObject[]): T | undefined {
    const text = readIfThere(this.#file);
    const record = text === undefined ? undefined : (JSON.parse(text) as KeptRecord<T>); // our own file
    if (record?.instance !== String(instanceCgroupId(this.#host))) return undefined;
    const there = new Set(held.filter(({ kind }) => kind === OBJECT_KIND.fd).map(({ id }) => id));
    return Object.values(record.objects).every((id) => there.has(id)) ? record.objects : undefined;
  }

  remember(objects: T): void {
    const record: KeptRecord<T> = { objects, instance: String(instanceCgroupId(this.#host)) };
    writeVolatile(this.#file, JSON.stringify(record));
  }

  forget(): void {
    rmSync(this.#file, { force: true });
  }
}
