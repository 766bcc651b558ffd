/** Parts of the fence's programs about the address and port a caller gave, or is told. */
import { SOCK_ADDR } from '../sys/bpf/uapi.ts';
import { type FenceCode, FRAME, reg } from './fence-code.ts';

/** Which addresses a program sees. */
export type Family = 4 | 6;

/** Copies the address the caller gave to the stack; 16 bytes; uses r1. */
export function readUserAddress(f: FenceCode, family: Family, at: number): void {
  readAddress(f, family === 4 ? SOCK_ADDR.userIp4 : SOCK_ADDR.userIp6, family, at);
}

/** Copies the source the datagram would have to the stack; 16 bytes; uses r1. */
export function readSourceAddress(f: FenceCode, family: Family, at: number): void {
  readAddress(f, family === 4 ? SOCK_ADDR.sourceIp4 : SOCK_ADDR.sourceIp6, family, at);
}

function readAddress(f: FenceCode, field: number, family: Family, at: number): void {
  const { a } = f;
  if (family === 4) {
    a.load(1, 6, field, 4);
    f.storeMapped(at, 1);
    return;
  }
  for (const i of [0, 4, 8, 12]) a.load(1, 6, field + i, 4).store(10, at + i, reg(1), 4);
}

/** Gives the caller, or the kernel, another address; uses r1. */
export function writeUserAddress(f: FenceCode, family: Family, at: number): void {
  const { a } = f;
  if (family === 4) {
    a.load(1, 10, at + 12, 4).store(6, SOCK_ADDR.userIp4, reg(1), 4);
    return;
  }
  for (const i of [0, 4, 8, 12]) a.load(1, 10, at + i, 4).store(6, SOCK_ADDR.userIp6 + i, reg(1), 4);
}

/** Port and protocol into the frame; the port is also in r2. */
export function readPortAndProtocol(f: FenceCode): void {
  const { a } = f;
  a.load(1, 6, SOCK_ADDR.protocol, 4).store(10, FRAME.protocol, reg(1), 8);
  a.load(2, 6, SOCK_ADDR.userPort, 4).swapToBigEndian(2, 16).store(10, FRAME.remotePort, reg(2), 8);
}

/** Sets the port the caller gave; `register` has it in host order and is changed. */
export function writeUserPort(f: FenceCode, register: 1 | 2): void {
  f.a.swapToBigEndian(register, 16).store(6, SOCK_ADDR.userPort, reg(register), 4);
}
