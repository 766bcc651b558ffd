/** The programs vserver is compared with: Debian's packages, installed where apt can. */
import { spawnSync } from 'node:child_process';

const PACKAGES = {
  crun: 'crun',
  runc: 'runc',
  bwrap: 'bubblewrap',
  nsenter: 'util-linux',
  lxcfs: 'lxcfs',
  rdfind: 'rdfind',
} as const;

/** A program to compare with. */
export type Peer = keyof typeof PACKAGES;

const looked = new Map<Peer, string | undefined>();

/** Undefined when the peer can be run, else the reason why not; tries to install it once. */
export function missingPeer(peer: Peer): string | undefined {
  if (!looked.has(peer)) looked.set(peer, hasPeer(peer) || install(peer) ? undefined : reasonFor(peer));
  return looked.get(peer);
}

/** First line of what the peer says of its version. */
export function versionOf(peer: Peer): string {
  return spawnSync(peer, ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0] ?? '';
}

function hasPeer(peer: Peer): boolean {
  return spawnSync(peer, ['--version'], { stdio: 'ignore' }).status === 0;
}

function reasonFor(peer: Peer): string {
  return `no ${peer}; need: apt-get install ${PACKAGES[peer]}`;
}

function install(peer: Peer): boolean {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const args = ['-qq', '-o', 'DPkg::Lock::Timeout=300', 'install', '-y', '--no-install-recommends'];
  spawnSync('apt-get', [...args, PACKAGES[peer]], { env, stdio: 'ignore' });
  return hasPeer(peer);
}
