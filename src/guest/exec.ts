/**
 * Further commands in a guest that runs: an operator's, and those of its health check.
 */
import { mkdirSync } from 'node:fs';
import { StateError } from '../base/errors.ts';
import { idRangeOf } from '../context/id-map.ts';
import { Program, type Runnable } from '../sys/program.ts';
import { vary } from '../sys/varying.ts';
import { commandErrors } from './command-errors.ts';
import type { StartedCommand } from './commands.ts';
import type { HealthCheck } from './config-types.ts';
import type { Guest } from './guest.ts';
import type { Host } from './host.ts';
import { type Instance, insideRun } from './instance.ts';
import { guestPaths } from './paths.ts';
import { type ExecSpec, planExec } from './plan-exec.ts';
import { type CommandRequest, type Connection, commandSpec, connectionToLog, limitsOf } from './spec.ts';
import { findUser } from './user-files.ts';

const HEALTH_LOG_BYTES = 256 * 1024;

/** A command in a guest that runs. */
export interface ExecRequest extends CommandRequest {
  /** As in `CommandSpec`; undefined: the configured one. */
  readonly user: string | undefined;
}

interface PlannedExec {
  readonly program: Runnable;
  readonly object: number;
}

/** Runs commands in guests. */
export class Execs {
  readonly #instance: Instance;
  readonly #host: Host;

  constructor(instance: Instance) {
    this.#instance = instance;
    this.#host = instance.host;
  }

  /**
   * Runs a further command in a guest. Allowed in: running.
   *
   * @throws StateError guest-stopped, guest-paused; StepError; UserError user errors, command-not-found, command-not-executable
   */
  async exec(guest: Guest, request: ExecRequest, connection: Connection): Promise<StartedCommand> {
    const { program, object } = await this.#planExec(guest, request, connection);
    const what = `run "${request.argv[0] ?? ''}" in guest "${guest.name}"`;
    const started = this.#instance.commands.start(what, program, object, () => {
      if (connection.client) this.#host.syscalld.bind(connection.client, object);
    });
    return await insideRun('run a command in', guest, () => commandErrors(what, started));
  }

  /** Returns the program of an exec, without running it. */
  async explainExec(guest: Guest, request: ExecRequest, connection: Connection): Promise<string> {
    const { program } = await this.#planExec(guest, request, connection);
    return program.explain();
  }

  async runCheck(guest: Guest, { test }: HealthCheck): Promise<StartedCommand> {
    const { syscalld } = this.#host;
    const [log, stdout, stderr] = [syscalld.newObject(), syscalld.newObject(), syscalld.newObject()];
    const connection = connectionToLog({ init: 'fake' }, { stdout, stderr });
    const request = { argv: test, env: {}, cwd: undefined, user: undefined };
    const { program, object } = await this.#planExec(guest, request, connection);
    const { directory, healthLog } = guestPaths(this.#host.paths, guest.name);
    const what = `check the health of guest "${guest.name}"`;
    const start = this.#instance.commands.start(what, program, object, () => {
      if (guest.isEphemeral) mkdirSync(directory, { recursive: true, mode: 0o700 });
      syscalld.log(log, healthLog, HEALTH_LOG_BYTES, stdout, stderr);
    });
    const started = await commandErrors(what, start);
    void started.ended.then(() => syscalld.drop(log));
    return started;
  }

  async #planExec(guest: Guest, request: ExecRequest, connection: Connection): Promise<PlannedExec> {
    const { config, initPid: pid, initObject } = this.#instance.running('run a command in', guest);
    if (guest.state === 'paused') {
      throw new StateError(
        'guest-paused',
        `cannot run a command in guest "${guest.name}": found it paused; need \`vserver resume ${guest.name}\``,
      );
    }
    const root = { kind: 'process', pid, initObject } as const;
    const user = await findUser(this.#host, request.user ?? config.user, root, idRangeOf(guest.xid).count);
    // Of now: meanwhile it may have ended, or have got another broker.
    const live = this.#instance.running('run a command in', guest);
    const command = commandSpec(this.#host, config, config.hostname ?? guest.name, request, user, connection);
    const { leaf, joins } = this.#host.cgroups.place(guest.xid, limitsOf(config).cpuset);
    const object = this.#host.syscalld.newObject();
    const spec: ExecSpec = {
      initObject: vary(live.initObject),
      processObject: vary(object),
      cgroupLeaf: vary(leaf),
      joins: joins.map(vary),
      hostNetwork: config.network.mode === 'host',
      brokerObject: live.broker && vary(live.broker.control),
      command,
    };
    const { program } = Program.alike(this.#host.abi, spec, planExec);
    return { program, object };
  }
}
