/** What fetches for a build has of the host: looked at from inside, by a command that rsync runs as its way to a host. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Check } from './places.ts';

/** Linux's numbers (linux/capability.h). */
const CAP_SYS_ADMIN = 21n;
const CAP_NET_ADMIN = 12n;

/** A program that fetches sees the host read-only, none of its sockets, and is nobody there. */
export const fetching: Check = async (v) => {
  const breaches: string[] = [];
  const canary = join(v.scratch, 'canary');
  mkdirSync(canary);
  const script = join(v.scratch, 'way');
  writeFileSync(
    script,
    `#!/bin/sh
# As long as this has its stdout, rsync waits.
(
echo x >"${canary}/written"
mount -t tmpfs none "${canary}" && echo x >"${canary}/mounted" && echo MOUNTED
ls "${v.root}/run/syscalld.sock" >/dev/null && echo SOCKET
head -c 1 "$(ls -d /dev/vda /dev/sda /dev/nvme0n1 /dev/loop0 2>/dev/null | head -1)" >/dev/null && echo DEVICE
echo x >/dev/null || echo NULL
echo "CAPS $(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) $(ls /proc | grep -c '^[0-9]*$')"
) >&2
exit 9
`,
    { mode: 0o755 },
  );
  const { code, stdout, stderr } = await v.run([
    ...['build', 'fetched', '-m', 'rsync', '--command', 'true'],
    ...['--', '-s', 'host:/tree', '-o', `--rsh=${script}`],
  ]);
  const said = `${stdout}${stderr}`;
  if (code === 0) breaches.push('a build of nothing');
  if (existsSync(join(canary, 'written'))) breaches.push('wrote a file of the host');
  for (const word of ['MOUNTED', 'SOCKET', 'DEVICE', 'NULL'])
    if (said.includes(word)) breaches.push(`${word}: ${said}`);
  const [, caps, processes] = /CAPS ([\da-f]+) (\d+)/.exec(said) ?? [];
  if (caps === undefined) breaches.push(`said nothing: ${said}`);
  for (const cap of [CAP_SYS_ADMIN, CAP_NET_ADMIN])
    if (((BigInt(`0x${caps ?? '0'}`) >> cap) & 1n) === 1n) breaches.push(`has capability ${cap}: ${said}`);
  if (Number(processes) > 20) breaches.push(`sees ${processes} processes`);
  return breaches;
};
