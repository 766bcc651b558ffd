/** Who waits for whom when several guests are started or stopped: Linux-VServer's `apps/init/depends`. */
import { StateError } from '../base/errors.ts';

/** What an order needs to know of a guest. */
export interface Dependent {
  readonly name: string;
  readonly config: { readonly boot: { readonly depends: readonly { readonly name: string }[] } };
}

/** Guests in an order in which each comes behind those it waits for. */
export class Turns<G extends Dependent> {
  readonly guests: readonly G[];
  readonly #waitsFor: ReadonlyMap<G, readonly G[]>;
  readonly #done = new Map<G, PromiseWithResolvers<void>>();

  private constructor(guests: readonly G[], waitsFor: ReadonlyMap<G, readonly G[]>) {
    this.guests = guests;
    this.#waitsFor = waitsFor;
    for (const guest of guests) this.#done.set(guest, Promise.withResolvers<void>());
  }

  /** Each guest behind those it depends on, as far as they are among them; otherwise as given. @throws StateError depends-cycle */
  static toStart<G extends Dependent>(guests: readonly G[]): Turns<G> {
    const dependsOn = dependenciesOf(guests);
    return new Turns(sorted(guests, dependsOn), dependsOn);
  }

  /** Each guest behind those that depend on it; otherwise as given. @throws StateError depends-cycle */
  static toStop<G extends Dependent>(guests: readonly G[]): Turns<G> {
    const dependsOn = dependenciesOf(guests);
    sorted(guests, dependsOn); // tells a circle as the configurations have it
    const dependents = new Map<G, G[]>(guests.map((guest) => [guest, []]));
    for (const [guest, others] of dependsOn) for (const other of others) dependents.get(other)?.push(guest);
    return new Turns(sorted(guests, dependents), dependents);
  }

  /** Does the work when the turn of that guest has come: when the work on those before it is over, well or not. */
  async take<T>(guest: G, work: () => Promise<T>): Promise<T> {
    try {
      for (const other of this.#waitsFor.get(guest) ?? []) await this.#done.get(other)?.promise;
      return await work();
    } finally {
      this.#done.get(guest)?.resolve();
    }
  }

  /** Works on all of them, a few at a time. `work` does not throw. */
  async each(parallel: number, work: (guest: G) => Promise<void>): Promise<void> {
    const waiting = this.guests.values();
    const workSome = async (): Promise<void> => {
      for (const guest of waiting) await this.take(guest, () => work(guest));
    };
    await Promise.all(Array.from({ length: parallel }, workSome));
  }
}

function dependenciesOf<G extends Dependent>(guests: readonly G[]): ReadonlyMap<G, readonly G[]> {
  const byName = new Map(guests.map((guest) => [guest.name, guest]));
  return new Map(
    guests.map((guest) => [guest, guest.config.boot.depends.flatMap(({ name }) => byName.get(name) ?? [])]),
  );
}

function sorted<G extends Dependent>(
  guests: readonly G[],
  waitsFor: ReadonlyMap<G, readonly G[]>,
): readonly G[] {
  const order: G[] = [];
  const seen = new Set<G>();
  const visit = (guest: G, path: readonly G[]): void => {
    if (path.includes(guest)) {
      const names = [...path.slice(path.indexOf(guest)), guest].map(({ name }) => `"${name}"`);
      throw new StateError(
        'depends-cycle',
        `cannot order guests: found that ${names.join(' depends on ')}; need boot.depends without a circle`,
      );
    }
    if (seen.has(guest)) return;
    for (const other of waitsFor.get(guest) ?? []) visit(other, [...path, guest]);
    seen.add(guest);
    order.push(guest);
  };
  for (const guest of guests) visit(guest, []);
  return order;
}
