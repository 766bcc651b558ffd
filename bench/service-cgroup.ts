/** A place in the host's cgroups as systemd gives a service: two levels deep, with pressure measured. */
import { mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import { discoverCgroups } from '../src/resources/cgroup-layout.ts';

/**
 * Where a host without systemd runs its processes, no cgroup counts anything: what a guest costs over that, a service of
 * an ordinary host costs too. Made for one process at a time, and removed when disposed of.
 */
export class ServiceCgroup {
  readonly #directories: readonly string[];

  constructor() {
    const own = readFileSync('/proc/self/cgroup', 'utf8');
    const { unified, v1 } = discoverCgroups(readFileSync('/proc/self/mountinfo', 'utf8'), own);
    const mounts = new Set([unified, ...[...v1].filter(([name]) => name !== 'cpuset').map(([, at]) => at)]);
    this.#directories = [...mounts].map((mount) => `${mount}/vserver-bench-${process.pid}`);
    for (const directory of this.#directories) mkdirSync(`${directory}/service`, { recursive: true });
  }

  /** The command line that runs `command` there. */
  commandLine(command: string): readonly [string, ...string[]] {
    const joins = this.#directories.map((directory) => `echo 0 >${directory}/service/cgroup.procs`);
    return ['sh', '-c', [...joins, 'exec "$0"'].join(' && '), command];
  }

  [Symbol.dispose](): void {
    for (const directory of this.#directories)
      for (const one of [`${directory}/service`, directory]) rmdirSync(one);
  }
}
