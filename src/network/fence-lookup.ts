/** The program of the fence that finds who gets what arrives. */
import { EbpfAssembler, type EbpfProgram } from '../sys/bpf/assembler.ts';
import { SK_LOOKUP, SOCK } from '../sys/bpf/uapi.ts';
import { AF_INET, FRAME, findOwner, networkOrder, PROTOCOL, reg } from './fence-code.ts';
import { BINDING, FENCE_MAP_NAMES, KIND, LISTENER_SLOTS, OWNER, OWNER_FLAG, PORT } from './fence-maps.ts';

/** Where the ports begin that the kernel gives to clients (net.ipv4.ip_local_port_range has it so by default). */
const FIRST_OWN_PORT = 32_768;
/** State of a UDP socket with a peer: TCP_ESTABLISHED of net/tcp_states.h. */
const ESTABLISHED = 1;

/**
 * Finds the socket for a connection or a datagram to a context's address: who listens at just that address, then who
 * listens at all. Nobody else is reached there, unless the host shares the address.
 */
export function lookupProgram(): EbpfProgram {
  return new LookupCode().program();
}

class LookupCode {
  readonly a: EbpfAssembler = new EbpfAssembler();

  program(): EbpfProgram {
    const { a } = this;
    a.move(6, reg(1)).load(1, 6, SK_LOOKUP.family, 4).jumpIf(1, '!=', AF_INET, 'IPv6');
    this.#readIp4(SK_LOOKUP.localIp4, FRAME.own);
    this.#readIp4(SK_LOOKUP.remoteIp4, FRAME.remote);
    a.goto('addresses').label('IPv6');
    for (const [field, at] of [
      [SK_LOOKUP.localIp6, FRAME.own],
      [SK_LOOKUP.remoteIp6, FRAME.remote],
    ] as const) {
      for (const i of [0, 4, 8, 12]) a.load(1, 6, field + i, 4).store(10, at + i, reg(1), 4);
    }
    a.label('addresses');
    findOwner(a, FRAME.own, 'pass');
    a.load(9, 0, OWNER.nid, 4).load(7, 0, OWNER.flags, 4);
    // A context's loopback is for itself.
    a.move(1, reg(7)).and(1, OWNER_FLAG.loopback).jumpIf(1, '==', 0, 'may be reached');
    findOwner(a, FRAME.remote, 'drop');
    a.load(1, 0, OWNER.nid, 4).jumpIf(1, '!=', reg(9), 'drop').label('may be reached');
    a.store(10, FRAME.portKey + PORT.nid, reg(9), 4);
    a.load(1, 6, SK_LOOKUP.localPort, 4).store(10, FRAME.portKey + PORT.port, reg(1), 2);
    a.load(1, 6, SK_LOOKUP.protocol, 4)
      .jumpIf(1, '==', PROTOCOL.udp, 'UDP')
      .jumpIf(1, '!=', PROTOCOL.tcp, 'pass');

    this.#setAddress(true);
    this.#tryListeners(KIND.exact);
    this.#setAddress(false);
    a.load(1, 6, SK_LOOKUP.family, 4).jumpIf(1, '!=', AF_INET, 'TCP over IPv6');
    this.#tryListeners(KIND.any4);
    a.label('TCP over IPv6');
    this.#tryListeners(KIND.any6);
    a.goto('nobody');

    a.label('UDP').store(10, FRAME.portKey + PORT.protocol, PROTOCOL.udp, 1);
    // Most datagrams are for a socket that asked for all of IPv4 and is bound to the context's one address.
    a.move(8, 0).load(1, 6, SK_LOOKUP.family, 4).jumpIf(1, '!=', AF_INET, 'just that address');
    this.#setAddress(false);
    this.#lookupPort(KIND.any4);
    a.move(8, reg(0)).jumpIf(8, '==', 0, 'just that address');
    a.move(1, reg(7)).and(1, OWNER_FLAG.shared).jumpIf(1, '!=', 0, 'just that address');
    this.#unlessAtHome(8);
    a.label('just that address');
    this.#setAddress(true);
    this.#lookupPort(KIND.exact);
    a.jumpIf(0, '==', 0, 'any address');
    this.#unlessAtHome(0);
    a.goto('datagram socket').label('any address').move(0, reg(8)).jumpIf(0, '!=', 0, 'datagram socket');
    this.#setAddress(false);
    this.#lookupPort(KIND.any6);
    a.jumpIf(0, '!=', 0, 'datagram socket');
    // A process of the host that talks to the context over IPv6 does so from the context's own address: that is the source
    // the kernel prefers. What comes back to it must find it.
    a.load(1, 6, SK_LOOKUP.localPort, 4).jumpIf(1, '<', FIRST_OWN_PORT, 'nobody');
    findOwner(a, FRAME.remote, 'nobody');
    a.load(1, 0, OWNER.nid, 4).jumpIf(1, '==', reg(9), 'pass').goto('nobody');
    a.label('datagram socket').load(1, 0, BINDING.cookie, 8);
    a.store(10, FRAME.small, reg(1), 8);
    a.loadMap(1, 'sockets').move(2, reg(10)).alu(2, '+', FRAME.small).call('map_lookup_elem');
    a.jumpIf(0, '==', 0, 'pass');
    // The kernel has found who has this very peer before it asked.
    a.load(1, 0, SOCK.state, 4).jumpIf(1, '==', ESTABLISHED, 'has another peer');
    this.#assign();
    a.goto('nobody').label('has another peer').move(1, reg(0)).call('sk_release');

    a.label('nobody').and(7, OWNER_FLAG.shared).jumpIf(7, '!=', 0, 'pass').label('drop').move(0, 0).exit();
    a.label('pass').move(0, 1).exit();
    return a.program(FENCE_MAP_NAMES);
  }

  #readIp4(field: number, at: number): void {
    const { a } = this;
    a.load(1, 6, field, 4)
      .store(10, at, 0, 8)
      .store(10, at + 8, networkOrder(0xffff), 4);
    a.store(10, at + 12, reg(1), 4);
  }

  #setAddress(isExact: boolean): void {
    const { a } = this;
    for (const i of [0, 8]) {
      const at = FRAME.portKey + PORT.address + i;
      if (isExact) a.load(1, 10, FRAME.own + i, 8).store(10, at, reg(1), 8);
      else a.store(10, at, 0, 8);
    }
  }

  #lookupPort(kind: number): void {
    const { a } = this;
    a.store(10, FRAME.portKey + PORT.kind, kind, 1);
    a.loadMap(1, 'ports').move(2, reg(10)).alu(2, '+', FRAME.portKey).call('map_lookup_elem');
  }

  /** Lets the kernel find the UDP socket of the binding at a register: it is bound to just the address that was asked, or others are. */
  #unlessAtHome(binding: 0 | 8): void {
    const { a } = this;
    a.load(1, binding, BINDING.actual, 4)
      .load(2, 10, FRAME.own + 12, 4)
      .jumpIf(1, '==', reg(2), 'pass');
  }

  #tryListeners(kind: number): void {
    const { a } = this;
    a.store(10, FRAME.portKey + PORT.kind, kind, 1);
    for (let slot = 0; slot < LISTENER_SLOTS; slot++) {
      const next = a.fresh('next listener');
      a.store(10, FRAME.portKey + PORT.protocol, slot, 1);
      a.loadMap(1, 'listeners').move(2, reg(10)).alu(2, '+', FRAME.portKey).call('map_lookup_elem');
      a.jumpIf(0, '==', 0, next);
      this.#assign();
      a.label(next);
    }
  }

  /** Gives the packet to the socket in r0; goes on when that cannot have it, as IPv6 only sockets cannot have IPv4. */
  #assign(): void {
    const { a } = this;
    a.move(8, reg(0))
      .move(1, reg(6))
      .move(2, reg(8))
      .move(3, 0)
      .call('sk_assign')
      .store(10, FRAME.small, reg(0), 8);
    a.move(1, reg(8)).call('sk_release').load(1, 10, FRAME.small, 8).jumpIf(1, '==', 0, 'pass');
  }
}
