/**
 * What a guest's files are made of: which image or tree lies below, and where its own files are.
 *
 * A guest that stays keeps the very image it was created with, also when its template changes or goes: `template.json`
 * beside its files says which.
 */

import { ImageMounts } from '../storage/image-mounts.ts';
import type { ImageStore } from '../storage/image-store.ts';
import type { Template, TemplateStore } from '../storage/templates.ts';
import { readIfThere, writeDurable } from '../sys/files.ts';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';
import { guestPaths } from './paths.ts';
import type { LowerSpec } from './plan-types.ts';

/** What `template.json` holds. */
interface Pin {
  /** The template's name in the configuration: with another name it is another template that counts. */
  readonly name: string;
  /** What lies below, as `parseTemplateSpec` takes it. */
  readonly pinned: string;
}

/** Finds what guests' files are made of. */
export class GuestStorage {
  readonly store: ImageStore;
  readonly #host: Host;
  readonly #templates: TemplateStore;
  readonly #images: ImageMounts;

  constructor(host: Host, templates: TemplateStore, store: ImageStore) {
    this.#host = host;
    this.#templates = templates;
    this.store = store;
    this.#images = new ImageMounts(host.syscalld, host.paths.lib, () => host.detachedLayers);
  }

  /** Prepares the template of a guest that is to be created. */
  async prepare(template: string): Promise<Template> {
    return await this.#templates.prepare(template);
  }

  /** Keeps a new guest to the image that its template is now; one that follows the host follows it. */
  pin(name: string, template: Template, configured: string): void {
    if (template.hostUsr) return;
    const pin: Pin = { name: configured, pinned: template.pinnedName };
    writeDurable(guestPaths(this.#host.paths, name).template, JSON.stringify(pin));
  }

  /** Returns what a guest's root starts from. */
  async template(guest: Guest): Promise<Template> {
    const pin = guest.isEphemeral ? undefined : this.#pin(guest.name);
    const { template } = guest.config;
    return await this.#templates.prepare(pin?.name === template ? pin.pinned : template);
  }

  /** Returns what lies below a guest's own files, ready to be mounted. */
  async lower({ lower }: Template): Promise<LowerSpec> {
    return lower.kind === 'tree' ? lower : await this.#images.layer(lower);
  }

  /** Names of the images that guests are made of. Those of templates stay, for guests to come. */
  isNeeded(): (image: string) => boolean {
    const pinned = new Set(this.#host.listGuestDirectories().map((name) => this.#pin(name)?.pinned));
    return (image) => pinned.has(image) || !image.startsWith('image-');
  }

  #pin(name: string): Pin | undefined {
    const text = readIfThere(guestPaths(this.#host.paths, name).template);
    return text === undefined ? undefined : (JSON.parse(text) as Pin); // our own file
  }
}
