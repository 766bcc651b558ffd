/** All programs of the fence, and where each goes. */
import type { PlacedProgram } from '../sys/bpf/load.ts';
import { connectProgram, sendProgram } from './fence-addresses.ts';
import { bindProgram } from './fence-bind.ts';
import type { FenceTarget } from './fence-code.ts';
import { lookupProgram } from './fence-lookup.ts';
import { ownNameProgram, peerNameProgram } from './fence-names.ts';
import { packetProgram } from './fence-packets.ts';
import {
  createProgram,
  listenProgram,
  optionProgram,
  postBindProgram,
  releaseProgram,
} from './fence-sockets.ts';

/** Builds them; the one that gives sockets their state comes last but the one that finds listeners, so that no socket is half fenced. */
export function fencePrograms(target: FenceTarget): readonly PlacedProgram[] {
  const address = { type: 'cgroupSockAddr' } as const;
  const socket = { type: 'cgroupSock' } as const;
  return [
    { ...socket, name: 'release', attach: 'BPF_CGROUP_INET_SOCK_RELEASE', program: releaseProgram(target) },
    { ...address, name: 'bind4', attach: 'BPF_CGROUP_INET4_BIND', program: bindProgram(target, 4) },
    { ...address, name: 'bind6', attach: 'BPF_CGROUP_INET6_BIND', program: bindProgram(target, 6) },
    {
      ...socket,
      name: 'post_bind4',
      attach: 'BPF_CGROUP_INET4_POST_BIND',
      program: postBindProgram(target, 4),
    },
    {
      ...socket,
      name: 'post_bind6',
      attach: 'BPF_CGROUP_INET6_POST_BIND',
      program: postBindProgram(target, 6),
    },
    { ...address, name: 'connect4', attach: 'BPF_CGROUP_INET4_CONNECT', program: connectProgram(target, 4) },
    { ...address, name: 'connect6', attach: 'BPF_CGROUP_INET6_CONNECT', program: connectProgram(target, 6) },
    { ...address, name: 'sendmsg4', attach: 'BPF_CGROUP_UDP4_SENDMSG', program: sendProgram(target, 4) },
    { ...address, name: 'sendmsg6', attach: 'BPF_CGROUP_UDP6_SENDMSG', program: sendProgram(target, 6) },
    { ...address, name: 'recvmsg4', attach: 'BPF_CGROUP_UDP4_RECVMSG', program: peerNameProgram(target, 4) },
    { ...address, name: 'recvmsg6', attach: 'BPF_CGROUP_UDP6_RECVMSG', program: peerNameProgram(target, 6) },
    {
      ...address,
      name: 'getpeername4',
      attach: 'BPF_CGROUP_INET4_GETPEERNAME',
      program: peerNameProgram(target, 4),
    },
    {
      ...address,
      name: 'getpeername6',
      attach: 'BPF_CGROUP_INET6_GETPEERNAME',
      program: peerNameProgram(target, 6),
    },
    {
      ...address,
      name: 'getsockname4',
      attach: 'BPF_CGROUP_INET4_GETSOCKNAME',
      program: ownNameProgram(target, 4),
    },
    {
      ...address,
      name: 'getsockname6',
      attach: 'BPF_CGROUP_INET6_GETSOCKNAME',
      program: ownNameProgram(target, 6),
    },
    {
      type: 'cgroupSockopt',
      name: 'setsockopt',
      attach: 'BPF_CGROUP_SETSOCKOPT',
      program: optionProgram(target),
    },
    { type: 'sockOps', name: 'listen', attach: 'BPF_CGROUP_SOCK_OPS', program: listenProgram(target) },
    {
      type: 'cgroupSkb',
      name: 'ingress',
      attach: 'BPF_CGROUP_INET_INGRESS',
      program: packetProgram(target, 'in'),
    },
    {
      type: 'cgroupSkb',
      name: 'egress',
      attach: 'BPF_CGROUP_INET_EGRESS',
      program: packetProgram(target, 'out'),
    },
    { ...socket, name: 'create', attach: 'BPF_CGROUP_INET_SOCK_CREATE', program: createProgram(target) },
    lookupSpec(),
  ];
}

/** The program that finds listeners: the only one that is not attached to the cgroup. */
export function lookupSpec(): PlacedProgram {
  return { type: 'skLookup', name: 'lookup', attach: 'BPF_SK_LOOKUP', program: lookupProgram() };
}
