/** Whether the host has an address, found out by using it: in the time this takes it does not matter how many there are. */
import { createSocket } from 'node:dgram';

/** Resolves with whether an address is one of this machine's, in the network namespace we are in. */
export async function isLocalAddress(family: 4 | 6, address: string): Promise<boolean> {
  const socket = createSocket(family === 4 ? 'udp4' : 'udp6');
  try {
    return await new Promise((resolve) => {
      socket.once('error', () => resolve(false));
      socket.bind({ address, port: 0, exclusive: true }, () => resolve(true));
    });
  } finally {
    socket.close();
  }
}
