// SPDX-License-Identifier: MIT OR GPL-2.0-only
/**
 * Numbers of linux/bpf.h: part of the kernel's ABI and the same on every architecture. They stand here, and not in
 * `abi.json`, because the headers a host is built with may be older than the kernel it runs.
 */
import { Flags } from '../program.ts';

const named = <Name extends string>(numbers: Readonly<Record<Name, number>>): Readonly<Record<Name, Flags>> =>
  Object.fromEntries(
    Object.entries<number>(numbers).map(([name, value]) => [name, new Flags(value, name)]),
  ) as Record<Name, Flags>; // the same names

/** Commands of bpf(2). */
export const COMMAND: Readonly<
  Record<
    | 'BPF_MAP_CREATE'
    | 'BPF_MAP_LOOKUP_ELEM'
    | 'BPF_MAP_UPDATE_ELEM'
    | 'BPF_MAP_DELETE_ELEM'
    | 'BPF_PROG_LOAD'
    | 'BPF_PROG_ATTACH'
    | 'BPF_PROG_DETACH'
    | 'BPF_PROG_GET_FD_BY_ID'
    | 'BPF_MAP_GET_FD_BY_ID'
    | 'BPF_OBJ_GET_INFO_BY_FD'
    | 'BPF_RAW_TRACEPOINT_OPEN'
    | 'BPF_PROG_QUERY'
    | 'BPF_BTF_LOAD'
    | 'BPF_MAP_LOOKUP_BATCH'
    | 'BPF_MAP_LOOKUP_AND_DELETE_BATCH'
    | 'BPF_LINK_CREATE'
    | 'BPF_ITER_CREATE',
    Flags
  >
> = named({
  BPF_MAP_CREATE: 0,
  BPF_MAP_LOOKUP_ELEM: 1,
  BPF_MAP_UPDATE_ELEM: 2,
  BPF_MAP_DELETE_ELEM: 3,
  BPF_PROG_LOAD: 5,
  BPF_PROG_ATTACH: 8,
  BPF_PROG_DETACH: 9,
  BPF_PROG_GET_FD_BY_ID: 13,
  BPF_MAP_GET_FD_BY_ID: 14,
  BPF_OBJ_GET_INFO_BY_FD: 15,
  BPF_PROG_QUERY: 16,
  BPF_RAW_TRACEPOINT_OPEN: 17,
  BPF_BTF_LOAD: 18,
  BPF_MAP_LOOKUP_BATCH: 24,
  BPF_MAP_LOOKUP_AND_DELETE_BATCH: 25,
  BPF_LINK_CREATE: 28,
  BPF_ITER_CREATE: 33,
});

/** Kinds of maps; the last needed one is SK_STORAGE, Linux 5.2. */
export const MAP_TYPE = {
  hash: 1,
  array: 2,
  perCpuHash: 5,
  lruHash: 9,
  longestPrefix: 11,
  sockHash: 18,
  socketStorage: 24,
  ringBuffer: 27,
} as const;
/** A kind of map. */
export type MapType = keyof typeof MAP_TYPE;

/** Flags of a map. */
export const BPF_F_NO_PREALLOC = 1;
/** A socket that is accepted gets a copy of the listener's (Linux 5.4). */
export const BPF_F_CLONE = 0x200;

/** How an element is written: BPF_ANY, BPF_NOEXIST. */
export const UPDATE = { any: 0, ifMissing: 1 } as const;

/** Kinds of programs. */
export const PROGRAM_TYPE = {
  cgroupSkb: 8,
  cgroupSock: 9,
  sockOps: 13,
  rawTracepoint: 17,
  cgroupSockAddr: 18,
  cgroupSockopt: 25,
  tracing: 26,
  skLookup: 30,
} as const;
/** A kind of program. */
export type ProgramType = keyof typeof PROGRAM_TYPE;

/** Where a program is attached. */
export const ATTACH_TYPE = {
  BPF_CGROUP_INET_INGRESS: 0,
  BPF_CGROUP_INET_EGRESS: 1,
  BPF_CGROUP_INET_SOCK_CREATE: 2,
  BPF_CGROUP_SOCK_OPS: 3,
  BPF_CGROUP_INET4_BIND: 8,
  BPF_CGROUP_INET6_BIND: 9,
  BPF_CGROUP_INET4_CONNECT: 10,
  BPF_CGROUP_INET6_CONNECT: 11,
  BPF_CGROUP_INET4_POST_BIND: 12,
  BPF_CGROUP_INET6_POST_BIND: 13,
  BPF_CGROUP_UDP4_SENDMSG: 14,
  BPF_CGROUP_UDP6_SENDMSG: 15,
  BPF_CGROUP_UDP4_RECVMSG: 19,
  BPF_CGROUP_UDP6_RECVMSG: 20,
  BPF_CGROUP_SETSOCKOPT: 22,
  BPF_TRACE_ITER: 28,
  BPF_CGROUP_INET4_GETPEERNAME: 29,
  BPF_CGROUP_INET6_GETPEERNAME: 30,
  BPF_CGROUP_INET4_GETSOCKNAME: 31,
  BPF_CGROUP_INET6_GETSOCKNAME: 32,
  BPF_CGROUP_INET_SOCK_RELEASE: 34,
  BPF_SK_LOOKUP: 36,
} as const;
/** A place for a program. */
export type AttachType = keyof typeof ATTACH_TYPE;

/** Functions of the kernel that programs call; all are in Linux 5.18 and younger. */
export const HELPER = {
  map_lookup_elem: 1,
  map_update_elem: 2,
  map_delete_elem: 3,
  get_current_uid_gid: 15,
  skb_load_bytes: 26,
  get_socket_cookie: 46,
  getsockopt: 57,
  bind: 64,
  sock_hash_update: 70,
  get_current_ancestor_cgroup_id: 123,
  skb_ancestor_cgroup_id: 83,
  sk_release: 86,
  sk_fullsock: 95,
  sk_storage_get: 107,
  probe_read_kernel: 113,
  get_netns_cookie: 122,
  sk_assign: 124,
  ktime_get_boot_ns: 125,
  ringbuf_output: 130,
  set_retval: 187,
} as const;
/** A function of the kernel. */
export type Helper = keyof typeof HELPER;

/** Context of the programs that see a socket address: `struct bpf_sock_addr`. */
export const SOCK_ADDR = {
  userFamily: 0,
  userIp4: 4,
  userIp6: 8,
  userPort: 24,
  family: 28,
  protocol: 36,
  sourceIp4: 40,
  sourceIp6: 44,
  socket: 64,
} as const;
/** A socket, also the context of programs about one: `struct bpf_sock`. */
export const SOCK = {
  family: 4,
  type: 8,
  protocol: 12,
  sourceIp4: 24,
  sourceIp6: 28,
  sourcePort: 44,
  state: 72,
} as const;
/** A packet: `struct __sk_buff`. */
export const SKB = { length: 0, protocol: 16, data: 76, dataEnd: 80, socket: 168 } as const;
/** An event of TCP: `struct bpf_sock_ops`. */
export const SOCK_OPS = { op: 0, family: 20, localPort: 68, socket: 184 } as const;
/** BPF_SOCK_OPS_TCP_LISTEN_CB */
export const TCP_LISTEN_EVENT = 11;
/** A socket that is looked for: `struct bpf_sk_lookup`. */
export const SK_LOOKUP = {
  family: 8,
  protocol: 12,
  remoteIp4: 16,
  remoteIp6: 20,
  localIp4: 40,
  localIp6: 44,
  localPort: 60,
} as const;
/** A socket option: `struct bpf_sockopt`. */
export const SOCKOPT = { socket: 0, value: 8, valueEnd: 16, level: 24, name: 28, length: 32 } as const;
