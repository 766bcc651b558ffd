/**
 * Guests made of what somebody else made: an image in the store, and a guest from it.
 *
 * Whatever the method, the image comes first, and the guest is created when that is whole; what is left of a build that
 * did not come so far is an image nobody needs, which `store gc` deletes.
 */
import { StateError, UserError } from '../base/errors.ts';
import type { GuestName } from '../base/ids.ts';
import type { DebianSource } from '../storage/debian-archive.ts';
import type { HelperOptions } from '../storage/helper-process.ts';
import { type ImageSource, makeImage } from '../storage/image-sources.ts';
import { completeConfig } from './config.ts';
import type { ConfigChange } from './config-text.ts';
import type { GuestConfigValues } from './config-types.ts';
import { makeDebianImage } from './debian-build.ts';
import type { Guest } from './guest.ts';
import { valuesOfImage } from './image-values.ts';
import type { Manager } from './manager.ts';

/** What a guest is made of. */
export type BuildSource =
  /** What `create --template` takes. */
  | { readonly kind: 'template'; readonly name: string }
  /** Another guest, by name or xid. */
  | { readonly kind: 'clone'; readonly name: string }
  | ImageSource
  | ({ readonly kind: 'debian' } & DebianSource);

/** A guest to be built. */
export interface BuildRequest {
  readonly source: BuildSource;
  /** Its configuration but for the template; what the source says itself stands behind it. */
  readonly values: GuestConfigValues;
  /** A stopped guest of that name is deleted when the new image is there. */
  readonly isForced: boolean;
}

/** What the configuration of a built guest is checked with before the work begins. */
const ANY_COMMAND = ['true'] as const;

/** Builds guests. */
export class Builds {
  readonly #manager: Manager;

  constructor(manager: Manager) {
    this.#manager = manager;
  }

  /**
   * Makes an image, and a guest of it.
   *
   * @throws StateError guest-exists, guest-running, cancelled; UserError invalid-config, and what the source throws
   */
  async build(name: GuestName, request: BuildRequest, options: HelperOptions): Promise<Guest> {
    const { registry } = this.#manager;
    if (registry.has(name)) this.#checkReplaceable(name, request);
    const { trustDomain } = completeConfig({ command: ANY_COMMAND, ...request.values });
    const { source, values } = request;
    if (source.kind === 'clone') {
      const { copies, registry } = this.#manager;
      return await copies.clone(registry.find(source.name), name, changesOf(values), options);
    }
    const { storage } = this.#manager;
    if (source.kind === 'template') {
      const template = await storage.prepare(source.name, trustDomain, options);
      return await this.#create(name, { ...values, template: template.name }, options);
    }
    const store = storage.store(trustDomain);
    return await store.withoutDeleting(async () => {
      const { image, config } =
        source.kind === 'debian'
          ? { image: await makeDebianImage(this.#manager, store, source, options), config: undefined }
          : await makeImage(store, source, options);
      const all = config ? valuesOfImage(config, values) : values;
      if (config && all.command === undefined && all.init !== 'own') {
        throw new UserError(
          'usage',
          `cannot build guest "${name}": found no command in the image; need --command`,
        );
      }
      return await this.#create(name, { ...all, template: image.name }, options);
    });
  }

  async #create(name: GuestName, values: GuestConfigValues, { signal }: HelperOptions): Promise<Guest> {
    const { registry } = this.#manager;
    if (signal?.aborted)
      throw new StateError(
        'cancelled',
        `cannot build guest "${name}": found it cancelled; nothing was changed`,
      );
    const existing = registry.named(name);
    if (existing) await this.#manager.making.delete(existing, false);
    return await this.#manager.making.create(name, withCommand(values));
  }

  #checkReplaceable(name: GuestName, { isForced, source }: BuildRequest): void {
    const guest = this.#manager.registry.named(name);
    // A clone is made in place of nothing: what it is made of and what it replaces could be one.
    if (!isForced || source.kind === 'clone') {
      throw new StateError(
        'guest-exists',
        `cannot build guest "${name}": found one of that name; need another name, or${source.kind === 'clone' ? ' it deleted' : ' --force to replace it'}`,
      );
    }
    if (guest && guest.state !== 'stopped') {
      throw new StateError(
        'guest-running',
        `cannot build guest "${name}": found one of that name ${guest.state}; need it stopped`,
      );
    }
  }
}

/** Whether a guest has an init of its own: a built one is a whole system, as the original's, unless it has a command. */
export function hasOwnInit({ command, init }: GuestConfigValues): boolean {
  return init === 'own' || (init === undefined && command === undefined);
}

function withCommand(values: GuestConfigValues): GuestConfigValues {
  return hasOwnInit(values) ? { ...values, init: 'own' } : values;
}

/** Returns what makes a configuration have these values: a change for each that is no map. */
function changesOf(values: object, above: readonly string[] = []): readonly ConfigChange[] {
  return Object.entries(values).flatMap(([key, value]) => {
    const [first = '', ...rest] = [...above, key];
    const path = [first, ...rest] as const;
    const isMap = typeof value === 'object' && value !== null && !Array.isArray(value);
    return isMap ? changesOf(value as object, path) : [{ path, value }];
  });
}
