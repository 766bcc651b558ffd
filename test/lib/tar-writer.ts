/** Writes tar archives that no honest tar would: every field is as the test says. */

/** One member; what is missing is 0, empty or a regular file. */
export interface Member {
  readonly name: string;
  readonly type?: 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';
  readonly content?: string | Buffer;
  readonly linkName?: string;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly device?: readonly [major: number, minor: number];
  /** Records of a pax header before the member. */
  readonly pax?: Readonly<Record<string, string>>;
}

const BLOCK = 512;
const TYPES = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  character: '3',
  block: '4',
  directory: '5',
  fifo: '6',
} as const;

/** Returns an archive in the ustar format with pax headers. */
export function tar(members: readonly Member[]): Buffer {
  return Buffer.concat([...members.flatMap(blocks), Buffer.alloc(2 * BLOCK)]);
}

function blocks(member: Member): readonly Buffer[] {
  const records = { ...member.pax };
  if (Buffer.byteLength(member.name) > 100) records['path'] = member.name;
  if ((member.uid ?? 0) > 0o7777777) records['uid'] = String(member.uid);
  const content = Buffer.from(member.content ?? '');
  const own = [header(member, TYPES[member.type ?? 'file'], content.length), padded(content)];
  if (Object.keys(records).length === 0) return own;
  const pax = Buffer.concat(Object.entries(records).map(([key, value]) => paxRecord(key, value)));
  return [header({ name: 'pax' }, 'x', pax.length), padded(pax), ...own];
}

/** `<length> <key>=<value>\n`, where the length counts its own digits. */
function paxRecord(key: string, value: string): Buffer {
  const rest = Buffer.from(` ${key}=${value}\n`, 'latin1');
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

function padded(content: Buffer): Buffer {
  return Buffer.concat([content, Buffer.alloc((BLOCK - (content.length % BLOCK)) % BLOCK)]);
}

function header(member: Member, type: string, size: number): Buffer {
  const bytes = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, width: number): void => {
    bytes.write(`${value.toString(8).padStart(width - 1, '0')}\0`, at, 'latin1');
  };
  bytes.write(member.name.slice(0, 100), 0);
  octal(member.mode ?? (member.type === 'directory' ? 0o755 : 0o644), 100, 8);
  octal(Math.min(member.uid ?? 0, 0o7777777), 108, 8);
  octal(member.gid ?? 0, 116, 8);
  octal(size, 124, 12);
  octal(0, 136, 12);
  bytes.fill(' ', 148, 156);
  bytes.write(type, 156);
  bytes.write(member.linkName ?? '', 157);
  bytes.write('ustar\u000000', 257, 'latin1');
  octal(member.device?.[0] ?? 0, 329, 8);
  octal(member.device?.[1] ?? 0, 337, 8);
  octal(
    bytes.reduce((sum, byte) => sum + byte, 0),
    148,
    8,
  );
  return bytes;
}
