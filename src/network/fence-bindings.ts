/** Parts of the fence's programs about `ports`: which sockets of a context are bound where. */
import { UPDATE } from '../sys/bpf/uapi.ts';
import { type FenceCode, FRAME, reg } from './fence-code.ts';
import {
  BINDING,
  BINDINGS_MAX,
  DATAGRAMS_MAX,
  type KIND,
  PORT,
  STATE,
  STATE_FLAG,
  USAGE,
} from './fence-maps.ts';

/** Writes the `ports` key of the socket's binding, as its state has it; uses r1. */
export function bindingKey(f: FenceCode): void {
  const { a } = f;
  const at = FRAME.portKey;
  a.load(1, 7, STATE.nid, 4).store(10, at + PORT.nid, reg(1), 4);
  a.load(1, 7, STATE.port, 2).store(10, at + PORT.port, reg(1), 2);
  a.load(1, 7, STATE.protocol, 1).store(10, at + PORT.protocol, reg(1), 1);
  a.load(1, 7, STATE.kind, 1).store(10, at + PORT.kind, reg(1), 1);
  f.copyAddress(10, at + PORT.address, 7, STATE.address);
}

/** Takes the socket's binding out of `ports` if it is there. */
export function dropBinding(f: FenceCode): void {
  const { a } = f;
  const [done, last] = [a.fresh('binding is gone'), a.fresh('last socket')];
  f.ifStateFlag(STATE_FLAG.registered, false, done);
  bindingKey(f);
  f.lookup('ports', FRAME.portKey);
  a.jumpIf(0, '==', 0, done).load(1, 0, BINDING.count, 8).jumpIf(1, '<=', 1, last);
  a.move(1, -1).atomicAdd(0, BINDING.count, 1).goto(done).label(last);
  a.loadMap(1, 'ports').move(2, reg(10)).alu(2, '+', FRAME.portKey).call('map_delete_elem');
  addToUsage(f, -1);
  a.label(done);
  f.setStateFlags(0, STATE_FLAG.registered | STATE_FLAG.moved | STATE_FLAG.wild);
}

/** A UDP socket that gets a peer is found by the kernel for that one alone: for others nobody may be, unless there is another. */
export function leaveHome(f: FenceCode): void {
  const { a } = f;
  const done = a.fresh('somebody is at home');
  f.ifStateFlag(STATE_FLAG.registered, false, done);
  bindingKey(f);
  f.lookup('ports', FRAME.portKey);
  a.jumpIf(0, '==', 0, done).load(1, 0, BINDING.count, 8).jumpIf(1, '>', 1, done);
  a.store(0, BINDING.actual, 0, 4).label(done);
}

/** As `dropBinding`, unless the state is a copy of a listener's. */
export function dropOwnBinding(f: FenceCode): void {
  const { a } = f;
  const [copy, done] = [a.fresh('copy of a state'), a.fresh('own binding is gone')];
  a.move(1, reg(6)).call('get_socket_cookie').load(1, 7, STATE.cookie, 8).jumpIf(0, '!=', reg(1), copy);
  dropBinding(f);
  a.goto(done).label(copy);
  f.setStateFlags(0, STATE_FLAG.registered | STATE_FLAG.moved | STATE_FLAG.wild);
  a.label(done);
}

/**
 * Enters a socket's binding, as its state has it, at the very port it has, into `ports`; r9 must hold the socket's cookie.
 *
 * @param home of UDP: place on the stack of the last word of the address it is bound to, zero if there is none
 */
export function enterBinding(f: FenceCode, home?: number): void {
  const { a } = f;
  const [fresh, done, full] = [
    a.fresh('first at the port'),
    a.fresh('binding is entered'),
    a.fresh('too many bindings'),
  ];
  bindingKey(f);
  f.lookup('ports', FRAME.portKey);
  a.jumpIf(0, '==', 0, fresh).move(1, 1).atomicAdd(0, BINDING.count, 1);
  a.store(0, BINDING.cookie, reg(9), 8);
  if (home !== undefined) a.load(1, 10, home, 4).store(0, BINDING.actual, reg(1), 4);
  a.goto(done).label(fresh);
  unlessRoom(f, full);
  for (const i of [0, 8, 16]) a.store(10, FRAME.binding + i, 0, 8);
  a.store(10, FRAME.binding + BINDING.cookie, reg(9), 8).store(10, FRAME.binding + BINDING.count, 1, 8);
  if (home !== undefined) a.load(1, 10, home, 4).store(10, FRAME.binding + BINDING.actual, reg(1), 4);
  f.update('ports', FRAME.portKey, FRAME.binding, UPDATE.ifMissing);
  a.jumpIf(0, '!=', 0, full);
  addToUsage(f, 1);
  a.label(done);
  f.setStateFlags(STATE_FLAG.registered);
  a.label(full);
}

/** Goes to a label if the context has as many as it may have. */
export function unlessRoom(f: FenceCode, target: string, what: keyof typeof MOST = 'bindings'): void {
  const { a } = f;
  const room = a.fresh(`room for ${what}`);
  a.loadMap(1, 'usage').move(2, reg(7)).call('map_lookup_elem').jumpIf(0, '==', 0, target);
  a.load(1, 0, USAGE[what], 8).jumpIf(1, '<', MOST[what], room).goto(target).label(room);
}

/** Counts one more or less of the context of the state at r7; uses r0 to r5. */
export function addToUsage(f: FenceCode, count: 1 | -1, what: UsageKind = 'bindings'): void {
  const { a } = f;
  const none = a.fresh('no usage');
  a.loadMap(1, 'usage').move(2, reg(7)).call('map_lookup_elem').jumpIf(0, '==', 0, none);
  a.move(1, count).atomicAdd(0, USAGE[what], 1).label(none);
}

type UsageKind = 'bindings' | 'datagrams' | 'sockets';
const MOST: Readonly<Record<'bindings' | 'datagrams', number>> = {
  bindings: BINDINGS_MAX,
  datagrams: DATAGRAMS_MAX,
};

/** Notes in the state that the socket is bound to a wildcard, at no port yet. */
export function setWildState(f: FenceCode, kind: typeof KIND.any4 | typeof KIND.any6): void {
  f.a
    .store(7, STATE.address, 0, 8)
    .store(7, STATE.address + 8, 0, 8)
    .store(7, STATE.kind, kind, 1);
}
