/** How a fence comes to be: its maps, its programs, and where they are attached. */
import type { Abi } from '../sys/abi.ts';
import {
  explainLoad,
  type PlacedProgram,
  planAttachProgram,
  planDetachAll,
  planLink,
  planLoad,
  planMapTable,
} from '../sys/bpf/load.ts';
import { planCreateMap, planMapId } from '../sys/bpf/map.ts';
import { type Data, MACHINE_LIMITS, Program, type Result } from '../sys/program.ts';
import { StepError, type Syscalld } from '../sys/syscalld.ts';
import type { FenceTarget } from './fence-code.ts';
import { FENCE_MAP_NAMES, FENCE_MAPS, type FenceMap } from './fence-maps.ts';

/** What a new vserverd needs to go on with a fence; JSON. */
export interface FenceHandles {
  /** `FENCE_VERSION` of who made it. */
  readonly version: number;
  /** Objects of syscalld: the maps, and the link. */
  readonly objects: Readonly<Record<FenceMap | 'link', number>>;
  /** The kernel's ids of the maps, which live as long as the programs. */
  readonly maps: Readonly<Record<FenceMap, number>>;
  /** As in the options. */
  readonly cgroup: string;
  /** As in the options. */
  readonly netns: string | null;
}

const SOL_SOCKET = 1;
const SO_NETNS_COOKIE = 71;
const COOKIE_BYTES = 8;

/** The worker goes on in another network namespace. */
export function planEnter(p: Program, netns: string | null): void {
  if (netns === null) return;
  const fd = planOpen(p, netns);
  p.sys('setns', [fd, p.flags('CLONE_NEWNET')], { about: `"${netns}"` });
  p.sys('close', [fd]);
}

/** Opens a path of the host. */
export function planOpen(p: Program, path: string): Result {
  return p.sys('openat', [p.flags('AT_FDCWD'), path, p.flags('O_RDONLY', 'O_CLOEXEC'), 0], {
    about: `"${path}"`,
  });
}

/**
 * Makes the maps, and returns the cookie of the namespace.
 *
 * @param options.uncountedMemory what the fence keeps of a socket is charged to the cgroup in which its map was made, and each
 *   change between that one and the guest's costs (obj_cgroup_charge): 0.4 of 10 µs for socket(2). At the root nothing is charged
 */
export async function makeMaps(
  syscalld: Syscalld,
  objects: FenceHandles['objects'],
  { netns, uncountedMemory }: { readonly netns: string | null; readonly uncountedMemory: string | undefined },
): Promise<{ readonly netnsCookie: bigint; readonly maps: FenceHandles['maps'] }> {
  const p = new Program(syscalld.abi);
  planEnter(p, netns);
  const socket = p.sys('socket', [p.flags('AF_INET'), p.flags('SOCK_DGRAM', 'SOCK_CLOEXEC'), 0]);
  const cookie = p.data(COOKIE_BYTES, '<cookie>');
  const length = p.data(4, '<8>');
  p.put(length, COOKIE_BYTES);
  p.sys('getsockopt', [socket, SOL_SOCKET, SO_NETNS_COOKIE, cookie, length], { about: 'namespace' });
  p.returns(cookie);
  const { out } = await syscalld.run('make the fence', p);
  const netnsCookie = syscalld.abi.littleEndian ? out.readBigUInt64LE() : out.readBigUInt64BE();
  const ids: (readonly [FenceMap, number])[] = [];
  for (const names of mapParts()) ids.push(...(await makePart(syscalld, objects, names, uncountedMemory)));
  return { netnsCookie, maps: Object.fromEntries(ids) as FenceHandles['maps'] }; // all names, each once
}

/** The maps in as many parts as it takes: a program keeps no more. */
export function mapParts(): readonly (readonly FenceMap[])[] {
  const most = MACHINE_LIMITS.keeps;
  const count = Math.ceil(FENCE_MAP_NAMES.length / most);
  return Array.from({ length: count }, (_, i) => FENCE_MAP_NAMES.slice(i * most, (i + 1) * most));
}

/** The worker, which ends with the program, goes on in another cgroup; where it may not, it stays. */
function planJoinIfAllowed(p: Program, cgroup: string): void {
  const end = p.label();
  const refused = { on: [], to: end };
  const fd = p.sys('openat', [p.flags('AT_FDCWD'), cgroup, p.flags('O_WRONLY', 'O_CLOEXEC'), 0], {
    about: `"${cgroup}"`,
    otherwise: refused,
  });
  p.sys('write', [fd, '0', 1], { about: `join "${cgroup}"`, otherwise: refused });
  p.place(end);
}

async function makePart(
  syscalld: Syscalld,
  objects: FenceHandles['objects'],
  names: readonly FenceMap[],
  cgroup: string | undefined,
): Promise<readonly (readonly [FenceMap, number])[]> {
  const p = new Program(syscalld.abi);
  if (cgroup !== undefined) planJoinIfAllowed(p, cgroup);
  const ids = p.data(4 * names.length, '<ids>');
  for (const [i, name] of names.entries()) {
    const map = planCreateMap(p, name, FENCE_MAPS[name]);
    p.store(ids.at(4 * i, 4), p.load(planMapId(p, map, name)));
    p.keep(map, objects[name]);
  }
  p.returns(ids);
  const { out } = await syscalld.run('make the fence', p);
  const at = (i: number): number =>
    syscalld.abi.littleEndian ? out.readUInt32LE(4 * i) : out.readUInt32BE(4 * i);
  return names.map((name, i) => [name, at(i)] as const);
}

/** Loads programs and attaches each where it goes, in place of one that nobody has the handles of. */
export async function attachPrograms(
  syscalld: Syscalld,
  handles: FenceHandles,
  specs: readonly PlacedProgram[],
): Promise<void> {
  const begin = (): { readonly p: Program; readonly maps: Data } => {
    const p = new Program(syscalld.abi);
    return {
      p,
      maps: planMapTable(
        p,
        FENCE_MAP_NAMES.map((name) => p.import(handles.objects[name])),
      ),
    };
  };
  const { p, maps } = begin();
  const directory = planOpen(p, handles.cgroup);
  for (const spec of specs) {
    const program = planLoad(p, spec, maps);
    if (spec.type === 'skLookup') {
      const netns = planOpen(p, handles.netns ?? '/proc/self/ns/net');
      p.keep(planLink(p, spec, program, netns), handles.objects.link);
    } else {
      planDetachAll(p, spec.attach, directory);
      planAttachProgram(p, spec, program, directory);
    }
    p.sys('close', [program]);
  }
  try {
    await syscalld.run('attach the fence', p);
  } catch (error) {
    const spec = error instanceof StepError ? refusedProgram(specs, error) : undefined;
    if (spec === undefined || !(error instanceof StepError)) throw error;
    const again = begin();
    throw await explainLoad(syscalld, again.p, spec, again.maps, error);
  }
}

function refusedProgram(specs: readonly PlacedProgram[], error: StepError): PlacedProgram | undefined {
  return specs.find(({ name }) => error.step === `bpf load "${name}"`);
}

/** Returns the numbers the programs need. */
export function fenceErrnos(abi: Abi): FenceTarget['errnos'] {
  const of = (name: string): number => {
    const errno = abi.errnos[name];
    if (errno === undefined) throw new RangeError(`no ${name}`);
    return errno;
  };
  return {
    EPERM: of('EPERM'),
    EACCES: of('EACCES'),
    EADDRINUSE: of('EADDRINUSE'),
    EADDRNOTAVAIL: of('EADDRNOTAVAIL'),
    ENETUNREACH: of('ENETUNREACH'),
    ENOBUFS: of('ENOBUFS'),
    EPROTONOSUPPORT: of('EPROTONOSUPPORT'),
  };
}
