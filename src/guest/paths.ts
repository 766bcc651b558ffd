/**
 * Where an instance keeps what: the system's directories, or all below one directory (`--root`, VSERVER_ROOT).
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';

/** Directories of one instance. */
export interface InstancePaths {
  /** The directory given, or undefined for the system's. */
  readonly root: string | undefined;
  /** Configuration an operator writes: `guests/NAME.yaml`. */
  readonly etc: string;
  /** What survives a reboot: guests' own files, templates. */
  readonly lib: string;
  /** What does not: sockets, live state. */
  readonly run: string;
}

/** Returns the directories for a root; empty or undefined is the system. */
export function instancePaths(root: string | undefined): InstancePaths {
  if (root === undefined || root === '') {
    return { root: undefined, etc: '/etc/vserver', lib: '/var/lib/vserver', run: '/run/vserver' };
  }
  return { root, etc: join(root, 'etc'), lib: join(root, 'lib'), run: join(root, 'run') };
}

/** A number that tells instances apart where they share a range, 0 for the system's. */
export function instanceNumber(root: string | undefined): number {
  return root === undefined ? 0 : createHash('sha256').update(root).digest().readUInt16BE(0);
}

/** A guest's own files. */
export interface GuestPaths {
  /** The configuration file. */
  readonly config: string;
  /** Everything below is the guest's. */
  readonly directory: string;
  readonly upper: string;
  readonly work: string;
  /** What it has spent of its quota of traffic. */
  readonly quota: string;
  /** Which prepared tree the guest was created with. */
  readonly template: string;
  readonly log: string;
  /** What hooks wrote. */
  readonly hooksLog: string;
  /** What health checks wrote. */
  readonly healthLog: string;
  /** The operator's last word: whether it is to be up. */
  readonly wanted: string;
  /** Live state. */
  readonly live: string;
}

/** Returns where a guest's files are. */
export function guestPaths(paths: InstancePaths, name: string): GuestPaths {
  const directory = `${paths.lib}/guests/${name}`;
  return {
    config: `${paths.etc}/guests/${name}.yaml`,
    directory,
    upper: `${directory}/upper`,
    work: `${directory}/work`,
    quota: `${directory}/quota.json`,
    template: `${directory}/template.json`,
    log: `${directory}/log`,
    hooksLog: `${directory}/hooks.log`,
    healthLog: `${directory}/health.log`,
    wanted: `${directory}/wanted`,
    live: `${paths.run}/guests/${name}.json`,
  };
}
