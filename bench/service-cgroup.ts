/** A place in the host's cgroups as systemd gives a service: two levels deep, with pressure measured. */
import { mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import { discoverCgroups } from '../src/resources/cgroup-layout.ts';
import { run } from './native-programs.ts';

const TRIES = 500;

/**
 * Where a host without systemd runs its processes, no cgroup counts anything: what a guest costs over that, a service of
 * an ordinary host costs too. Removed when disposed of, once its processes are gone.
 */
export class ServiceCgroup {
  readonly #directories: readonly string[];
  /** The service's directory in the cgroup2 tree. */
  readonly unified: string;

  /** `name`: of a second one of this process. */
  constructor(name = 'bench') {
    const own = readFileSync('/proc/self/cgroup', 'utf8');
    const { unified, v1 } = discoverCgroups(readFileSync('/proc/self/mountinfo', 'utf8'), own);
    const mounts = new Set([unified, ...[...v1].filter(([name]) => name !== 'cpuset').map(([, at]) => at)]);
    this.#directories = [...mounts].map((mount) => `${mount}/vserver-${name}-${process.pid}`);
    this.unified = `${unified}/vserver-${name}-${process.pid}/service`;
    for (const directory of this.#directories) mkdirSync(`${directory}/service`, { recursive: true });
  }

  /** The command line that runs `command` there; more words may follow. */
  commandLine(command: string): readonly [string, ...string[]] {
    const joins = this.#directories.map((directory) => `echo 0 >${directory}/service/cgroup.procs`);
    return ['sh', '-c', [...joins, 'exec "$0" "$@"'].join(' && '), command];
  }

  [Symbol.dispose](): void {
    const isEmpty = (directory: string): boolean =>
      readFileSync(`${directory}/service/cgroup.procs`, 'utf8') === '';
    for (let i = 0; i < TRIES && !this.#directories.every(isEmpty); i++) run('sleep', ['0.02']);
    for (const directory of this.#directories)
      for (const one of [`${directory}/service`, directory]) rmdirSync(one);
  }
}
