/**
 * Memory of programs that have been sent, for the next ones, all zero: it is outside V8's heap, which would let it pile
 * up until the next large collection.
 */

const SPARES: Buffer[] = [];
const SPARES_MAX = 12;
const SPARE_BYTES = 64 * 1024;

/** Returns zeros, at least so many bytes. */
export function takeSpare(bytes: number): Buffer {
  return bytes > SPARE_BYTES ? zeros(bytes) : (SPARES.pop() ?? zeros(SPARE_BYTES));
}

/** Takes memory back that nobody reads any more; behind `usedBytes` it is zero. */
export function giveSpare(buffer: Buffer, usedBytes: number): void {
  if (buffer.length === SPARE_BYTES && SPARES.length < SPARES_MAX) SPARES.push(buffer.fill(0, 0, usedBytes));
}

/** Not of Node's own pool, of which every piece keeps the whole in memory. */
function zeros(bytes: number): Buffer {
  return Buffer.allocUnsafeSlow(bytes).fill(0);
}

/** Returns larger memory with what is used of `buffer`, which is taken back. */
export function grown(buffer: Buffer, usedBytes: number, neededBytes: number): Buffer {
  const bigger = zeros(neededBytes * 2);
  buffer.copy(bigger, 0, 0, usedBytes);
  giveSpare(buffer, usedBytes);
  return bigger;
}

/** Returns the view of a buffer's own bytes. */
export function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
}
