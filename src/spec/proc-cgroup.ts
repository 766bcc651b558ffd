import { StateError } from '../base/errors.ts';

/** Where a process sits in one cgroup hierarchy. */
export interface ProcCgroup {
  /** 0 for cgroup2. */
  readonly hierarchyId: number;
  /** Controllers bound to a v1 hierarchy, or its name as `name=systemd`; empty for cgroup2. */
  readonly controllers: readonly string[];
  /** Path below the reader's cgroup namespace root. */
  readonly path: string;
}

/**
 * Parses `/proc/PID/cgroup`: one line `id:controllers:path` per hierarchy, mounted here or not.
 *
 * @throws StateError malformed-kernel-text
 * @see cgroups(7); since Linux 2.6.24
 */
export function parseProcCgroup(text: string): readonly ProcCgroup[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, id, controllers, path] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
      if (id === undefined || controllers === undefined || path === undefined) {
        throw new StateError(
          'malformed-kernel-text',
          `cannot parse a process's cgroups: found line ${JSON.stringify(line)}; need "id:controllers:path"`,
        );
      }
      return { hierarchyId: Number(id), controllers: controllers === '' ? [] : controllers.split(','), path };
    });
}
