/**
 * Guests that others depend on: how that is written, who is started with whom, and the wait for one that is to be healthy
 * first, as `depends_on` with `condition: service_healthy` of Compose.
 */
import { StateError, UserError } from '../base/errors.ts';
import { type GuestName, isGuestName } from '../base/ids.ts';
import type { Dependency } from './config-types.ts';
import { configOf, type Guest, isActive } from './guest.ts';
import type { Host } from './host.ts';
import type { Registry } from './registry.ts';

const HEALTHY = ':healthy';

/** Reads `db`, a guest that is to be started before, or `db:healthy`. @throws UserError invalid-value */
export function parseDependency(text: string): Dependency {
  const isHealthWanted = text.endsWith(HEALTHY);
  const name = isHealthWanted ? text.slice(0, -HEALTHY.length) : text;
  if (isGuestName(name)) return { name, condition: isHealthWanted ? 'healthy' : 'started' };
  throw new UserError(
    'invalid-value',
    `cannot use ${JSON.stringify(text)} as a guest to depend on; need a name, or a name and ":healthy"`,
  );
}

/** Returns guests, and behind them those they depend on that are not among them. */
export function withDependencies(guests: readonly Guest[], registry: Registry): readonly Guest[] {
  const all = new Set(guests);
  for (const guest of all) {
    for (const { name } of guest.config.boot.depends) {
      const other = registry.named(name);
      if (other) all.add(other);
    }
  }
  return [...all];
}

/**
 * Resolves when the guests that one depends on by their health are healthy.
 *
 * @throws StateError dependency-unhealthy, when one of them will not be
 */
export async function awaitHealthy(host: Host, registry: Registry, guest: Guest): Promise<void> {
  for (const { name, condition } of guest.config.boot.depends) {
    if (condition !== 'healthy') continue;
    // From before the first look on: nothing happens in between that is not told.
    const cursor = host.events.last;
    const isOver = new AbortController();
    try {
      if (isHealthy(guest, registry.named(name), name)) continue;
      for await (const _ of host.events.read(cursor, isOver.signal))
        if (isHealthy(guest, registry.named(name), name)) break;
    } finally {
      isOver.abort();
    }
  }
}

/** Whether it is; false: it may become so. */
function isHealthy(guest: Guest, other: Guest | undefined, name: GuestName): boolean {
  const fail = (found: string): StateError =>
    new StateError(
      'dependency-unhealthy',
      `cannot start guest "${guest.name}": found ${found}; need guest "${name}" healthy`,
    );
  if (other === undefined) throw fail('no such guest');
  if (configOf(other).health === undefined) throw fail('no health check of it');
  if (other.state === 'starting' || other.pending) return false;
  if (!isActive(other)) throw fail('it stopped');
  const { status = 'starting' } = other.live?.health ?? {};
  if (status === 'unhealthy' && configOf(other).health?.onFailure !== 'restart') throw fail('it unhealthy');
  return status === 'healthy' && other.state === 'running';
}
