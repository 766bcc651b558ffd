/**
 * The guests of an instance: found on disk, named, numbered.
 */
import { hash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { StateError, UserError } from '../base/errors.ts';
import {
  type GuestName,
  type GuestRef,
  isGuestName,
  isXid,
  parseGuestRef,
  XID_MAX,
  XID_MIN,
  type Xid,
} from '../base/ids.ts';
import { didYouMean } from '../base/suggest.ts';
import { readIfThere, readNamedFile } from '../sys/files.ts';
import { parseGuestConfig } from './config.ts';
import type { EditedConfig } from './config-text.ts';
import type { GuestConfig } from './config-types.ts';
import type { Guest, LiveRecord } from './guest.ts';
import { guestPaths, type InstancePaths, instanceNumber } from './paths.ts';

/** First number given to a guest that asks for none; below, operators choose. */
const FIRST_ASSIGNED_XID = 1000;
/** Numbers from here on are for guests that exist only while they run, as the original's dynamic contexts. */
const FIRST_DYNAMIC_XID = 49_152;

const PARTS_MAX = 4096;

/** A file that changed so lately may change again without another time: the kernel's clock for files ticks every 4 to 10 ms. */
const SETTLED_MS = 1000;

/** What a configuration file held when it was last read. */
interface ReadConfig {
  readonly digest: string;
  readonly config: GuestConfig;
  /** 0: not looked at yet. */
  readonly inode: number;
  /** When the file had been changed then; undefined: it may have been again without a trace. */
  readonly changedMs: number | undefined;
}

/** Four times as many as a configuration may have characters. */
const CONFIG_MAX_BYTES = 2 ** 20;

/** One bad file must not keep vserverd from the others. @throws UserError invalid-config, guest-not-found */
function readConfigFile(path: string): string {
  try {
    return readNamedFile(path, CONFIG_MAX_BYTES);
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause;
    if ('code' in cause && cause.code === 'ENOENT') throw noConfig(path);
    throw new UserError('invalid-config', `cannot read "${path}": found ${cause.message}`, { cause });
  }
}

function noConfig(path: string): UserError {
  return new UserError('guest-not-found', `cannot read "${path}": found no such file`);
}

/** A configuration file that cannot be used. */
export interface BrokenConfig {
  readonly name: string;
  readonly error: Error;
}

/** All guests of an instance. */
export class Registry {
  readonly #paths: InstancePaths;
  readonly #clock: () => number;
  readonly #byName = new Map<string, Guest>();
  /** All of these by name; undefined: not known since one came or went. */
  #sorted: readonly Guest[] | undefined;
  readonly #byXid = new Map<number, Guest>();
  /** To parse one takes 0.7 ms. */
  readonly #read = new Map<GuestName, ReadConfig>();
  /** Parts of configurations, by what they hold. */
  readonly #parts = new Map<string, unknown>();
  /** Numbers taken by contexts that are prepared but belong to no guest yet. */
  readonly #reserved = new Set<number>();
  #nextDynamic: number;
  broken: readonly BrokenConfig[] = [];

  /** @param clock milliseconds since 1970 */
  constructor(paths: InstancePaths, clock: () => number = Date.now) {
    this.#paths = paths;
    this.#clock = clock;
    // Instances on one host share the id ranges of the host; different places to begin keep them apart.
    this.#nextDynamic = FIRST_DYNAMIC_XID + (instanceNumber(paths.root) % (XID_MAX - FIRST_DYNAMIC_XID));
  }

  /** Makes the directories and reads all configuration files. Returns the live records of this boot. */
  load(bootId: string): readonly LiveRecord[] {
    for (const path of [
      join(this.#paths.etc, 'guests'),
      join(this.#paths.lib, 'guests'),
      join(this.#paths.run, 'guests'),
    ]) {
      mkdirSync(path, { recursive: true, mode: 0o700 });
    }
    this.rescan();
    return this.#liveRecords(bootId);
  }

  /** Adds the guests whose configuration files are new, or can be read now; forgets those whose files are gone. */
  rescan(): void {
    const directory = join(this.#paths.etc, 'guests');
    const names = (existsSync(directory) ? readdirSync(directory) : [])
      .filter((file) => file.endsWith('.yaml'))
      .map((file) => file.slice(0, -'.yaml'.length))
      .filter(isGuestName)
      .sort();
    const broken: BrokenConfig[] = [];
    for (const name of names) {
      if (this.#byName.has(name)) continue;
      try {
        const config = this.readConfig(name);
        this.add(name, config.xid ?? this.assignXid(), config, false);
      } catch (error) {
        broken.push({ name, error: error instanceof Error ? error : new Error(String(error)) });
      }
    }
    this.broken = broken;
    const present = new Set<string>(names);
    for (const guest of this.list()) {
      const hasFile = guest.isEphemeral || guest.isBeingMade || present.has(guest.name);
      if (!hasFile && guest.state === 'stopped') this.remove(guest);
    }
  }

  #liveRecords(bootId: string): readonly LiveRecord[] {
    const directory = join(this.#paths.run, 'guests');
    const records: LiveRecord[] = [];
    for (const file of readdirSync(directory)) {
      const text = file.endsWith('.json') ? readIfThere(join(directory, file)) : undefined;
      const record = text === undefined ? undefined : parseRecord(text);
      if (record === undefined || record.bootId !== bootId) rmSync(join(directory, file), { force: true });
      else records.push(record);
    }
    return records;
  }

  /** Reads a guest's configuration file. @throws UserError invalid-config */
  readConfig(name: GuestName): GuestConfig {
    const { config: path } = guestPaths(this.#paths, name);
    const now = statSync(path, { throwIfNoEntry: false });
    const known = this.#read.get(name);
    if (known && known.inode === now?.ino && known.changedMs === now.ctimeMs) return known.config;
    if (now === undefined) throw noConfig(path);
    const text = readConfigFile(path);
    const digest = digestOf(text);
    const changedMs = this.#clock() - now.ctimeMs > SETTLED_MS ? now.ctimeMs : undefined;
    const config = known?.digest === digest ? known.config : this.#shareParts(parseGuestConfig(text, path));
    this.#read.set(name, { digest, config, inode: now.ino, changedMs });
    return config;
  }

  /** Keeps in mind what a configuration file says that has just been written, and returns that. */
  wrote(name: GuestName, { text, config }: EditedConfig): GuestConfig {
    const shared = this.#shareParts(config);
    this.#read.set(name, { digest: digestOf(text), config: shared, inode: 0, changedMs: undefined });
    return shared;
  }

  /** Most of what guests are configured with is the same: it is in memory once. */
  #shareParts(parsed: GuestConfig): GuestConfig {
    // A copy: the texts in what the parser gives are parts of the file's, and would keep all of it in memory.
    const shared = Object.entries(structuredClone(parsed)).map(([key, part]: [string, unknown]) => {
      if (typeof part !== 'object' || part === null) return [key, part];
      const text = JSON.stringify(part);
      if (this.#parts.size >= PARTS_MAX) this.#parts.clear();
      if (!this.#parts.has(text)) this.#parts.set(text, part);
      return [key, this.#parts.get(text)];
    });
    return Object.fromEntries(shared) as GuestConfig; // the same keys, with equal values
  }

  /** Checks that a guest can be added. @throws StateError guest-exists, xid-in-use */
  checkNew(name: GuestName, xid: Xid | undefined): void {
    if (this.#byName.has(name)) {
      throw new StateError(
        'guest-exists',
        `cannot create guest "${name}": found a guest of that name; need another name`,
      );
    }
    if (xid !== undefined) this.checkXid(xid);
  }

  /** Checks that no guest has a number. @throws StateError xid-in-use */
  checkXid(xid: Xid): void {
    const holder = this.#byXid.get(xid);
    if (holder)
      throw new StateError(
        'xid-in-use',
        `cannot use xid ${xid}: found it taken by guest "${holder.name}"; need another one`,
      );
  }

  /** Returns a number if it is free, and else another one. */
  freeXid(wanted: Xid | undefined): Xid {
    return wanted !== undefined && this.#isFree(wanted) ? wanted : this.assignXid();
  }

  /** Adds a guest. @throws StateError guest-exists, xid-in-use */
  add(name: GuestName, xid: Xid, config: GuestConfig, isEphemeral: boolean): Guest {
    this.checkNew(name, xid);
    const guest: Guest = {
      name,
      xid,
      isEphemeral,
      isBeingMade: false,
      config,
      state: 'stopped',
      live: undefined,
      pending: undefined,
      queue: Promise.resolve(),
      ended: undefined,
      earlyExit: undefined,
      isEndingEarly: false,
      cancelStart: undefined,
      gone: undefined,
      seenLimits: new Map(),
    };
    this.#byName.set(name, guest);
    this.#byXid.set(xid, guest);
    this.#sorted = undefined;
    return guest;
  }

  /** Gives a guest another number. @throws StateError xid-in-use */
  renumber(guest: Guest, xid: Xid): void {
    this.checkXid(xid);
    this.#byXid.delete(guest.xid);
    this.#byXid.set(xid, guest);
    guest.xid = xid;
  }

  /** Forgets a guest. */
  remove(guest: Guest): void {
    this.#byName.delete(guest.name);
    this.#sorted = undefined;
    this.#read.delete(guest.name);
    this.#byXid.delete(guest.xid);
  }

  /** All guests, by name. */
  list(): readonly Guest[] {
    this.#sorted ??= [...this.#byName.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return this.#sorted;
  }

  /** The guest of a name. */
  named(name: string | undefined): Guest | undefined {
    return name === undefined ? undefined : this.#byName.get(name);
  }

  /** The guest of a number. */
  numbered(xid: Xid): Guest | undefined {
    return this.#byXid.get(xid);
  }

  /** Whether a name is taken. */
  has(name: string): boolean {
    return this.#byName.has(name);
  }

  /** Finds a guest by name or xid. @throws UserError guest-not-found; invalid-config for one whose file is broken */
  find(text: string): Guest {
    const ref = parseGuestRef(text);
    if (!this.#get(ref)) this.rescan();
    const guest = this.#get(ref);
    if (guest) return guest;
    const broken = this.broken.find((one) => one.name === text);
    if (broken) throw broken.error;
    throw this.notFound(text);
  }

  /** What is said of a guest that is not there. */
  notFound(text: string): UserError {
    const hint = didYouMean(text, this.#byName.keys());
    return new UserError(
      'guest-not-found',
      `cannot find guest "${text}": found no such guest${hint === undefined ? '' : `; ${hint}`}`,
    );
  }

  #get(ref: GuestRef): Guest | undefined {
    return ref.kind === 'name' ? this.#byName.get(ref.name) : this.#byXid.get(ref.xid);
  }

  /** Returns a free number for a guest that stays. */
  assignXid(): Xid {
    for (let xid = FIRST_ASSIGNED_XID; xid < FIRST_DYNAMIC_XID; xid++) if (this.#isFree(xid)) return xid;
    for (let xid = XID_MIN; xid < FIRST_ASSIGNED_XID; xid++) if (this.#isFree(xid)) return xid;
    throw new StateError(
      'no-free-xid',
      'cannot create a guest: found all xids below 49152 taken; need one to be deleted',
    );
  }

  /** Returns a name for a guest that was given none. */
  inventName(xid: Xid): GuestName {
    const name = `guest-${xid}`;
    if (isGuestName(name) && !this.has(name)) return name;
    return `${name}-${Date.now().toString(36)}` as GuestName; // letters, digits and dashes only
  }

  /** Takes a free number for a context that exists only while it runs; `release` gives it back. */
  reserveXid(): Xid {
    for (let tries = 0; tries <= XID_MAX - FIRST_DYNAMIC_XID; tries++) {
      const xid = this.#nextDynamic;
      this.#nextDynamic = xid === XID_MAX ? FIRST_DYNAMIC_XID : xid + 1;
      if (!this.#isFree(xid)) continue;
      this.#reserved.add(xid);
      return xid;
    }
    throw new StateError(
      'no-free-xid',
      'cannot start a guest: found all xids from 49152 on taken; need a guest to end',
    );
  }

  /** Gives a reserved number back, or on to a guest that has been added with it. */
  release(xid: Xid): void {
    this.#reserved.delete(xid);
  }

  #isFree(xid: number): xid is Xid {
    return isXid(xid) && !this.#byXid.has(xid) && !this.#reserved.has(xid);
  }
}

function digestOf(text: string): string {
  return hash('sha256', text, 'base64');
}

/** Reads a record; undefined if it is not whole. */
function parseRecord(text: string): LiveRecord | undefined {
  try {
    const record = JSON.parse(text) as LiveRecord | null; // written by us, in one step
    return record?.config === undefined ? undefined : record;
  } catch {
    return undefined;
  }
}
