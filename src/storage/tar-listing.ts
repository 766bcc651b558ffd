import { StringDecoder } from 'node:string_decoder';

/** What tar has unpacked so far, from what it says of each member. */
export interface TarTotals {
  readonly entries: number;
  /** Sum of the members' sizes. */
  readonly bytes: number;
  /** The first member whose owner or group cannot be mapped into a guest. */
  readonly foreignOwner: string | undefined;
}

/** Ids that a guest has: 0..65535. */
const GUEST_IDS = 65_536;
/** A name is at most some thousand characters; a longer line is cut so that memory stays bounded. */
const LINE_CHARS = 16_384;

/**
 * Reads what `tar --verbose --verbose --numeric-owner` prints, one member a line:
 *
 *     -rwxr-xr-x 0/0            1234 2024-01-31 12:00 ./bin/sh
 *     crw-rw-rw- 0/0             1,3 2024-01-31 12:00 ./dev/null
 *     drwxr-xr-x                 Creating directory: srv
 */
export class TarListing {
  readonly #decoder = new StringDecoder('latin1');
  #rest = '';
  #entries = 0;
  #bytes = 0;
  #foreignOwner: string | undefined;

  /** Takes the next piece of output. */
  push(chunk: Buffer): void {
    const lines = (this.#rest + this.#decoder.write(chunk)).split('\n');
    this.#rest = (lines.pop() ?? '').slice(0, LINE_CHARS);
    for (const line of lines) this.#line(line);
  }

  /** Everything so far. */
  get totals(): TarTotals {
    return { entries: this.#entries, bytes: this.#bytes, foreignOwner: this.#foreignOwner };
  }

  #line(line: string): void {
    this.#entries++;
    // A directory that the archive only implies: root's.
    if (/^d\S* +Creating directory: /.test(line)) return;
    // Between the mode and the owner a second character tells of extended attributes; a far date is one word.
    const [, type, uid, gid, size, rest] = /^(.)\S* +(-?\d+)\/(-?\d+) +(\S+) (.*)$/.exec(line) ?? [];
    const name = rest?.replace(/^\d+-\d+-\d+ \d+:\d+ /, '') ?? line;
    if (type === '-' && size !== undefined) this.#bytes += Number(size);
    if (!isGuestId(uid) || !isGuestId(gid)) this.#foreignOwner ??= `${name} (${uid}:${gid})`;
  }
}

function isGuestId(text: string | undefined): boolean {
  return text !== undefined && /^\d+$/.test(text) && Number(text) < GUEST_IDS;
}
