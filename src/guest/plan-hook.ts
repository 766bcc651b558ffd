/** The program that runs an operator's command on the host, outside every guest. */
import type { Program } from '../sys/program.ts';
import { planLogPipes } from './log-pipes.ts';
import { planCloseOnExec } from './plan-command.ts';
import type { Stdio } from './plan-types.ts';

/** A command of the host, decided. */
export interface HookSpec {
  /** The first word is an absolute path. */
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  /** Objects: the process, and the reading ends of its output. */
  readonly process: number;
  readonly stdout: number;
  readonly stderr: number;
}

/** Adds all steps of a hook: a session of its own, nothing open but its output. */
export function planHook(p: Program, { argv, env, cwd, process, stdout, stderr }: HookSpec): void {
  const [path = ''] = argv;
  const stdio: readonly [Stdio, Stdio, Stdio] = [
    { kind: 'null' },
    { kind: 'pipe', object: stdout },
    { kind: 'pipe', object: stderr },
  ];
  const pipes = planLogPipes(p, stdio);
  p.spawn('hook', { object: process }, () => {
    p.sys('setsid', []);
    p.sys('umask', [0o022]);
    stdio.forEach((one, fd) => {
      const pipe = pipes.get(one);
      if (pipe) p.sys('dup3', [pipe.end, fd, 0], { about: `descriptor ${fd}` });
    });
    p.sys('chdir', [cwd], { about: cwd });
    planCloseOnExec(p);
    const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
    p.sys('execve', [path, p.vector(argv), p.vector(variables)], { about: `"${path}"` });
  });
}
