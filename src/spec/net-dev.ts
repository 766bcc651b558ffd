/** `/proc/net/dev` (proc_pid_net(5)): what went over each interface of a network namespace. */

/** Packets and bytes, link layer headers included. */
export interface DeviceTraffic {
  readonly received: { readonly packets: number; readonly bytes: number };
  readonly sent: { readonly packets: number; readonly bytes: number };
}

/** `NAME: bytes packets errs drop fifo frame compressed multicast  bytes packets …`, below two lines of titles. */
const LINE = /^ *([^\s:]+): *(.*)$/;
const SENT = 8;

/** Parses the file; lines that are not of an interface are left out. */
export function parseNetDev(text: string): ReadonlyMap<string, DeviceTraffic> {
  const devices = new Map<string, DeviceTraffic>();
  for (const line of text.split('\n')) {
    const [, name, rest = ''] = LINE.exec(line) ?? [];
    if (name === undefined) continue;
    const numbers = rest.trim().split(/ +/).map(Number);
    const at = (field: number): number => numbers[field] ?? 0;
    devices.set(name, {
      received: { bytes: at(0), packets: at(1) },
      sent: { bytes: at(SENT), packets: at(SENT + 1) },
    });
  }
  return devices;
}
