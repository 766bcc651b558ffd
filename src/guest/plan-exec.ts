/**
 * The program that runs a further command in a running guest.
 *
 *     worker (host) ── joins the guest's pid namespace for its children, v1 cgroups where needed
 *       └ child, in the guest's cgroup ── joins the guest's other namespaces, then as any command (plan-command.ts)
 */
import type { Import, Program, Result } from '../sys/program.ts';
import { planLogPipes } from './log-pipes.ts';
import { planCommand } from './plan-command.ts';
import type { CommandSpec } from './plan-types.ts';

/** What an exec needs, decided. */
export interface ExecSpec {
  /** Object of the guest's process 1. */
  readonly initObject: number;
  /** Object the command becomes. */
  readonly processObject: number;
  /** cgroup2 directory it is born in. */
  readonly cgroupLeaf: string;
  /** Files of v1 cgroups to join. */
  readonly joins: readonly string[];
  readonly hostNetwork: boolean;
  /** Object: control socket of the guest's broker; 0: it has none. */
  readonly brokerObject: number;
  readonly command: CommandSpec;
}

/** Adds all steps of an exec. */
export function planExec(p: Program, spec: ExecSpec): void {
  for (const path of spec.joins) planJoin(p, path);
  const init = p.import(spec.initObject);
  const broker = spec.brokerObject === 0 ? undefined : p.import(spec.brokerObject);
  const leaf = openLeaf(p, spec.cgroupLeaf);
  p.sys('setns', [init, p.flags('CLONE_NEWPID')], { about: 'pid namespace' });
  const pipes = new Map([...planLogPipes(p, spec.command.stdio)].map(([one, { end }]) => [one, end]));
  p.spawn('command', { cgroup: leaf, object: spec.processObject }, () => {
    planEnter(p, init, spec.hostNetwork);
    planCommand(p, spec.command, () => ({ pipes, broker }));
  });
}

/** Adds the step that opens the cgroup2 directory a process is to be born in. */
export function openLeaf(p: Program, path: string): Result {
  return p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_PATH', 'O_DIRECTORY', 'O_CLOEXEC'), 0], {
    about: `"${path}"`,
  });
}

/** Adds the steps by which a worker moves itself into a cgroup. */
export function planJoin(p: Program, path: string): void {
  const fd = p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_WRONLY', 'O_CLOEXEC'), 0], {
    about: `"${path}"`,
  });
  p.sys('write', [fd, '0', 1], { about: `join "${path}"` });
  p.sys('close', [fd]);
}

function planEnter(p: Program, init: Import, hostNetwork: boolean): void {
  const spaces = [
    'CLONE_NEWUSER',
    'CLONE_NEWNS',
    'CLONE_NEWUTS',
    'CLONE_NEWIPC',
    'CLONE_NEWCGROUP',
    'CLONE_NEWTIME',
  ];
  p.sys('setns', [init, p.flags(...spaces, ...(hostNetwork ? [] : ['CLONE_NEWNET']))], {
    about: 'namespaces of the guest',
  });
  p.sys('setresgid', [0, 0, 0]);
  p.sys('setgroups', [0, 0]);
  p.sys('setresuid', [0, 0, 0]);
}
