/**
 * Stands where vserverd does: joins the control socket (fd 3) and the test's socket (argv[2]). Ends with either.
 */
import { connect, Socket } from 'node:net';

const [path = ''] = process.argv.slice(2);
const control = new Socket({ fd: 3, readable: true, writable: true });
const test = connect(path);
const end = (): never => process.exit(0);
for (const [from, to] of [
  [control, test],
  [test, control],
] as const) {
  from.on('error', end);
  from.on('close', end);
  from.pipe(to);
}
