/**
 * Texts of the kernel that are bytes: arguments, environment, paths (execve(2), path_resolution(7)). They are UTF-8 by
 * habit only, so a byte that is not becomes U+DC00 + byte, half of a surrogate pair, which no UTF-8 gives: as text
 * those can be told from all others, kept in JSON and YAML as escapes, and made the same bytes again (Python's PEP 383).
 */
import { isUtf8 } from 'node:buffer';

const ESCAPE = 0xdc00;

/** Returns bytes as text. */
export function textOfBytes(bytes: Buffer): string {
  if (isUtf8(bytes)) return bytes.toString('utf8');
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const length = sequenceLength(bytes, at);
    text +=
      length === 0 ? String.fromCharCode(ESCAPE + (bytes[at] ?? 0)) : bytes.toString('utf8', at, at + length);
    at += Math.max(length, 1);
  }
  return text;
}

/** Length of the UTF-8 sequence that begins there; 0: none does. */
function sequenceLength(bytes: Buffer, at: number): number {
  const first = bytes[at] ?? 0;
  const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  return at + length <= bytes.length && isUtf8(bytes.subarray(at, at + length)) ? length : 0;
}

/** Returns the bytes that `textOfBytes` made a text of. */
export function bytesOfText(text: string): Buffer {
  if (text.isWellFormed()) return Buffer.from(text);
  // With "u" a half stands for itself only where it is not part of a pair.
  const pieces = text.split(/([\udc80-\udcff])/u);
  return Buffer.concat(
    pieces.map((piece, i) => (i % 2 === 0 ? Buffer.from(piece) : Buffer.of(piece.charCodeAt(0) - ESCAPE))),
  );
}
