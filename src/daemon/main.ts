/**
 * vserverd: the composition root. Started by syscalld with the control socket as descriptor 3 and the root as argument.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { BugError } from '../base/errors.ts';
import type { ControlPlane, Services } from '../cli/io.ts';
import { endBuildGuests } from '../guest/build-guests.ts';
import { HistoryRecorder } from '../guest/history-recorder.ts';
import { Host } from '../guest/host.ts';
import { Manager } from '../guest/manager.ts';
import { instancePaths } from '../guest/paths.ts';
import { GuestStorage } from '../guest/storage.ts';
import { cgroupFiles } from '../resources/cgroup-fs.ts';
import { discoverCgroups, instanceCgroupName } from '../resources/cgroup-layout.ts';
import { createCgroupDriver } from '../resources/cgroup-tree.ts';
import { Readings } from '../resources/readings.ts';
import { ImageStores } from '../storage/image-stores.ts';
import { TemplateStore } from '../storage/templates.ts';
import { loadAbi } from '../sys/abi.ts';
import { Syscalld } from '../sys/syscalld.ts';
import { EXIT_AGAIN } from '../sys/wire.ts';
import { IdleCollector } from './idle-collector.ts';
import { Session } from './session.ts';

const CONTROL_FD = 3;
const SERVED_TIMEOUT_MS = 2000;
const log = pino({ base: null, timestamp: pino.stdTimeFunctions.isoTime });

async function serve(): Promise<void> {
  const started = performance.now();
  const paths = instancePaths(process.argv[2]);
  const abi = loadAbi();
  const syscalld = new Syscalld(abi, CONTROL_FD);
  const layout = discoverCgroups(
    readFileSync('/proc/self/mountinfo', 'utf8'),
    readFileSync('/proc/self/cgroup', 'utf8'),
  );
  const parent = instanceCgroupName(paths.root);
  const cgroups = createCgroupDriver(cgroupFiles, layout, parent);
  cgroups.prepareInstance();
  const host = new Host(abi, syscalld, paths, cgroups);
  const stores = new ImageStores(join(paths.lib, 'store'), syscalld, paths.run);
  const templates = new TemplateStore({ libDir: paths.lib, runDir: paths.run, machine: syscalld });
  const manager = new Manager(
    host,
    new GuestStorage(host, templates, stores),
    new Readings(cgroupFiles, layout, parent),
  );
  manager.onFailure = (what, error) => {
    log.error({ err: error }, `cannot ${what}`);
  };
  const history = new HistoryRecorder(host, manager);
  history.onFailure = (error) => {
    log.error({ err: error }, 'cannot write the history of what guests use');
  };
  let isEnding = false;
  const controlPlane: ControlPlane & { syscalldPid: number } = {
    version: readVersion(),
    vserverdPid: process.pid,
    syscalldPid: process.ppid,
    startedAt: new Date().toISOString(),
    shutdown: async () => {
      isEnding = true;
      // First, so that nobody comes any more: the next client starts anew.
      syscalld.shutdown();
      try {
        await history.close().catch((error: unknown) => history.onFailure(error)); // a full disk keeps nobody here
        await manager.close();
      } finally {
        void leave(sessions);
      }
    },
  };
  const sessions = new Map<number, Session>();
  const collector = new IdleCollector(() => manager.isBusy());
  const services: Services = { manager, controlPlane, history };
  // Clients that come before the repair is done wait in their session.
  const repaired = Promise.withResolvers<void>();
  const { objects } = await syscalld.ready({
    ending: (object) => {
      manager.ending(object);
    },
    exited: (object, waitStatus) => {
      manager.exited(object, waitStatus);
    },
    clientOpened: (client, hello) => {
      if (isEnding) {
        syscalld.clientExit(client, EXIT_AGAIN);
        return;
      }
      const session = new Session(syscalld, client);
      sessions.set(client, session);
      void repaired.promise
        .then(() => session.serve(hello, services))
        .catch((error: unknown) => {
          log.error({ err: error, argv: hello.argv }, 'cannot serve a client');
          syscalld.clientExit(client, 70);
        });
    },
    clientSignalled: (client, signal) => sessions.get(client)?.signalled(signal),
    clientClosed: (client) => {
      sessions.get(client)?.closed();
      sessions.delete(client);
      collector.served();
    },
    clientDetached: (client, master) => {
      manager.detached(client, master);
    },
    lost: () => {
      // syscalld is gone; whoever calls next starts a new one, and that a new vserverd.
      log.fatal('cannot go on: found syscalld gone');
      process.exit(1);
    },
  });
  await manager.recovery.recover(objects);
  await host.prepare();
  await manager.storage.spread();
  await manager.views.prepare();
  await manager.forks.prepare();
  await endBuildGuests(manager);
  await templates.sweep();
  await stores.sweep();
  repaired.resolve();
  history.start();
  manager.startDue();
  log.info(
    { pid: process.pid, guests: manager.registry.list().length, ms: Math.round(performance.now() - started) },
    'vserverd serves',
  );
}

/** Ends this process when who came before is served to the end, unless that is far off. */
async function leave(sessions: ReadonlyMap<number, Session>): Promise<void> {
  for (let waitedMs = 0; sessions.size > 0 && waitedMs < SERVED_TIMEOUT_MS; waitedMs += 10) await sleep(10);
  // What is still queued for the client goes out first.
  setTimeout(() => process.exit(0), 20);
}

function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const { version } = JSON.parse(text) as { version?: unknown }; // our own file
  if (typeof version !== 'string')
    throw new BugError('no-version', 'cannot read "package.json": found no version');
  return version;
}

// syscalld's death is told by its socket; a SIGTERM comes with it, and must not be the first to be noticed.
process.on('SIGTERM', () => {});
await serve();
