/**
 * The program that runs a further command in a running guest.
 *
 *     worker (host) ── joins the guest's pid namespace for its children, v1 cgroups where needed
 *       └ child, in the guest's cgroup ── joins the guest's other namespaces, then as any command (plan-command.ts)
 */
import type { Import, Program, Result } from '../sys/program.ts';
import { type Num, type Text, wordsOf } from '../sys/varying.ts';
import { planLogPipes } from './log-pipes.ts';
import { planCommand } from './plan-command.ts';
import { planOpenDirectory } from './plan-paths.ts';
import type { CommandSpec } from './plan-types.ts';

/** What an exec needs, decided. */
export interface ExecSpec {
  /** Object of the guest's process 1. */
  readonly initObject: Num;
  /** Object the command becomes. */
  readonly processObject: Num;
  /** cgroup2 directory it is born in. */
  readonly cgroupLeaf: Text;
  /** Files of v1 cgroups to join. */
  readonly joins: readonly Text[];
  readonly hostNetwork: boolean;
  /** Object: control socket of the guest's broker; undefined: it has none. */
  readonly brokerObject: Num | undefined;
  readonly command: CommandSpec;
}

/** Adds all steps of an exec. */
export function planExec(p: Program, spec: ExecSpec): void {
  for (const path of spec.joins) planJoin(p, path);
  const init = p.import(spec.initObject);
  const broker = spec.brokerObject === undefined ? undefined : p.import(spec.brokerObject);
  const leaf = openLeaf(p, spec.cgroupLeaf);
  p.sys('setns', [init, p.flags('CLONE_NEWPID')], { about: 'pid namespace' });
  const pipes = new Map([...planLogPipes(p, spec.command.stdio)].map(([one, { end }]) => [one, end]));
  p.spawn('command', { cgroup: leaf, object: spec.processObject }, () => {
    planEnter(p, init, spec.hostNetwork);
    planCommand(p, spec.command, () => ({ pipes, broker }));
  });
}

/** Adds the step that opens the cgroup2 directory a process is to be born in. */
export function openLeaf(p: Program, path: Text): Result {
  return planOpenDirectory(p, p.flags('AT_FDCWD'), path);
}

/** Adds the steps by which a worker moves itself into a cgroup. */
export function planJoin(p: Program, path: Text): void {
  const fd = openToJoin(p, path);
  p.sys('write', [fd, '0', 1], { about: `join "${wordsOf(path)}"` });
  p.sys('close', [fd]);
}

/** Adds the step that opens the `tasks` file of a v1 cgroup: who writes "0" there moves itself, by the right of who opened it. */
export function openToJoin(p: Program, path: Text): Result {
  const about = `"${wordsOf(path)}"`;
  return p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_WRONLY', 'O_CLOEXEC'), 0], { about });
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
