/**
 * Tells when the kernel has killed something in a guest for want of memory. Nobody looks from time to time: the kernel
 * says when a guest has met its limit, and the counter is read then, and once more when the guest has ended.
 *
 * cgroup v2: `memory.events` changes, which inotify tells (kernfs_notify(), fs/kernfs/file.c, Linux 3.16).
 * cgroup v1: an eventfd that `cgroup.event_control` knows. One serves all guests, and one worker waits for it; the kernel
 * signals it also when a guest's cgroup is removed, so a worker that a dead vserverd left ends with the next guest.
 */
import { type FSWatcher, watch } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OomSource } from '../resources/controller.ts';
import { type Guest, isActive, type LiveRecord } from './guest.ts';
import type { Host } from './host.ts';

/** The kernel tells before it has killed and counted: mem_cgroup_oom(), mm/memcontrol-v1.c. */
const COUNT_DELAYS_MS = [10, 100, 1000];
/** Where the worker that registers a guest has the two descriptors, so that the text naming them is the same each time. */
const EVENT_FD = 100;
const COUNTER_FD = 101;
const POLLIN = 1;

/** Tells of the guests of one instance that ran out of memory. */
export class OomEvents {
  readonly #host: Host;
  readonly #remember: (guest: Guest, live: LiveRecord) => void;
  readonly #watchers = new Map<Guest, FSWatcher>();
  /** Guests that are registered with the eventfd. */
  readonly #registered = new Set<Guest>();
  /** Object of the eventfd, once there is one or somebody makes it. */
  #eventfd: Promise<number> | undefined;
  #isWaiting = false;
  #isClosed = false;
  readonly #looking = new Set<Guest>();

  constructor(host: Host, remember: (guest: Guest, live: LiveRecord) => void) {
    this.#host = host;
    this.#remember = remember;
  }

  /** A guest runs, or its limits may be others now. One without a limit of its own memory is only looked at in the end. */
  async begin(guest: Guest): Promise<void> {
    const { live } = guest;
    if (!live || !isActive(guest) || live.config.limits.memoryBytes === 'max') return;
    if (this.#watchers.has(guest) || this.#registered.has(guest)) return;
    const source = this.#host.cgroups.oomSource(guest.xid);
    if (source?.control !== undefined) {
      this.#registered.add(guest);
      try {
        await this.#register(guest, source, source.control);
      } catch (error) {
        this.#registered.delete(guest);
        if (isActive(guest)) throw error; // otherwise it has just ended
      }
    } else if (source)
      this.#watchers.set(
        guest,
        watch(source.counter, () => void this.#look(guest)),
      );
  }

  /** A guest has ended, its cgroup is still there. */
  end(guest: Guest): void {
    this.#watchers.get(guest)?.close();
    this.#watchers.delete(guest);
    this.#registered.delete(guest);
    this.#tell(guest);
  }

  /** Nobody is told any more. */
  close(): void {
    this.#isClosed = true;
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  async #register(guest: Guest, { counter }: OomSource, control: string): Promise<void> {
    const eventfd = await this.#theEventfd();
    const p = this.#host.program();
    const at = p.flags('AT_FDCWD');
    const open = (path: string, access: string) =>
      p.sys('openat', [at, path, p.flags(access, 'O_CLOEXEC'), 0], { about: `"${path}"` });
    const counterFd = open(counter, 'O_RDONLY');
    const controlFd = open(control, 'O_WRONLY');
    p.sys('dup3', [p.import(eventfd), EVENT_FD, 0], { about: 'eventfd' });
    p.sys('dup3', [counterFd, COUNTER_FD, 0], { about: 'counter' });
    const text = `${EVENT_FD} ${COUNTER_FD}`;
    p.sys('write', [controlFd, text, text.length], { about: 'register for events' });
    await this.#host.syscalld.run(`watch the memory of guest "${guest.name}"`, p);
    if (!this.#isWaiting) void this.#wait(eventfd);
  }

  /** Guests that begin together have the same one. */
  async #theEventfd(): Promise<number> {
    this.#eventfd ??= this.#openEventfd();
    try {
      return await this.#eventfd;
    } catch (error) {
      this.#eventfd = undefined;
      throw error;
    }
  }

  async #openEventfd(): Promise<number> {
    const object = this.#host.syscalld.newObject();
    const p = this.#host.program();
    // The flags of eventfd2(2) are those of open(2).
    p.keep(p.sys('eventfd2', [0, p.flags('O_CLOEXEC', 'O_NONBLOCK')]), object);
    await this.#host.syscalld.run('make an eventfd', p);
    return object;
  }

  /** Waits as long as anybody is registered. */
  async #wait(object: number): Promise<void> {
    this.#isWaiting = true;
    while (this.#registered.size > 0 && !this.#isClosed) {
      const p = this.#host.program();
      const eventfd = p.import(object);
      const pollfd = p.data(8, 'pollfd');
      p.store(pollfd, eventfd);
      p.put(pollfd.at(4), POLLIN, 2);
      p.sys('ppoll', [pollfd, 1, 0, 0, 0], { about: 'memory events' });
      // Another one may have been faster.
      p.sys('read', [eventfd, p.data(8), 8], { about: 'memory events', ignore: ['EAGAIN'] });
      try {
        await this.#host.syscalld.run('wait for memory events', p);
      } catch {
        break; // syscalld is gone
      }
      for (const guest of this.#registered) void this.#look(guest);
    }
    this.#isWaiting = false;
  }

  async #look(guest: Guest): Promise<void> {
    if (this.#looking.has(guest)) return;
    this.#looking.add(guest);
    for (const delayMs of COUNT_DELAYS_MS) {
      await sleep(delayMs, undefined, { ref: false });
      if (!isActive(guest) || this.#tell(guest)) break;
    }
    this.#looking.delete(guest);
  }

  /** Publishes what has not been told. Returns whether there was anything. */
  #tell(guest: Guest): boolean {
    const { live } = guest;
    const total = live && this.#host.cgroups.oomKills(guest.xid);
    const told = live?.oomKills ?? 0;
    if (!live || total === undefined || total <= told) return false;
    this.#remember(guest, { ...live, oomKills: total });
    this.#host.events.publish(guest, 'oom', { kills: total - told, total });
    return true;
  }
}
