/**
 * What users of Docker, podman, LXC, Incus, systemd-nspawn, jails and Linux-VServer's own tools write by habit, and what does
 * that here.
 */

/** Verbs: what follows `vserver`. */
export const VERBS_OF_OTHERS: Readonly<Record<string, string>> = {
  attach: 'logs -f GUEST" or "vserver enter GUEST',
  commit: 'snapshot GUEST" or "vserver clone GUEST NAME',
  condrestart: 'restart GUEST',
  config: 'set GUEST KEY=VALUE',
  console: 'enter GUEST',
  copy: 'clone GUEST NAME',
  cp: 'exec -i GUEST tar -x -C /DIRECTORY <FILE.tar" or "vserver run -v SOURCE:TARGET',
  destroy: 'delete GUEST',
  disable: 'set GUEST restart.policy=no',
  enable: 'set GUEST restart.policy=always',
  execute: 'run -- COMMAND',
  freeze: 'pause GUEST',
  hashify: 'unify GUEST',
  history: 'stat --since 1h',
  image: 'store stat',
  images: 'store stat',
  info: 'check" or "vserver inspect GUEST',
  jexec: 'exec GUEST COMMAND',
  jls: 'list',
  launch: 'run -d --name NAME',
  load: 'import FILE',
  login: 'enter GUEST',
  monitor: 'events -f',
  network: 'set GUEST --ip-add ADDRESS',
  port: 'inspect GUEST',
  poweroff: 'stop GUEST',
  prune: 'store gc',
  pstree: 'ps --tree',
  publish: 'export GUEST',
  pull: 'build NAME -m oci -- IMAGE',
  reboot: 'restart GUEST',
  remove: 'delete GUEST',
  rename: 'clone GUEST NAME" and "vserver delete GUEST',
  restore: 'rollback GUEST SNAPSHOT',
  rmi: 'store gc',
  running: 'status GUEST',
  save: 'export GUEST',
  shell: 'enter GUEST',
  show: 'inspect GUEST',
  stats: 'top',
  suexec: 'exec -u USER GUEST COMMAND',
  system: 'store stat',
  terminate: 'stop -t 0 GUEST',
  thaw: 'resume GUEST',
  unfreeze: 'resume GUEST',
  update: 'set GUEST KEY=VALUE',
  volume: 'run -v SOURCE:TARGET',
};

const OWN_ADDRESS = 'a guest is reached at every port of its own addresses: use --ip ADDRESS';
const NO_DEVICES = 'guests have no devices of the host';
const FROM_IMAGE = 'use "vserver build NAME -m oci -- IMAGE"';

/** Options of the verbs that make a guest. */
const OPTIONS_OF_NEW_GUESTS: Readonly<Record<string, string>> = {
  '-p': OWN_ADDRESS,
  '-P': OWN_ADDRESS,
  '--cpu-period': 'use --cpus NUMBER',
  '--cpu-quota': 'use --cpus NUMBER',
  '--cpuset-cpus': 'use scheduler.cpus in the configuration of the guest',
  '--device': NO_DEVICES,
  '--entrypoint': 'the command is what follows the options',
  '--expose': OWN_ADDRESS,
  '--gpus': NO_DEVICES,
  '--ip6': 'use --ip ADDRESS',
  '--ipc': 'each guest has IPC of its own',
  '--link': 'use network.policy.peers in the configuration of the guest',
  '--net': 'use --network MODE',
  '--pid': 'each guest has processes of its own',
  '--platform': FROM_IMAGE,
  '--privileged': 'use --cap-add NAME, --ccaps NAME or --security-opt OPTION one by one',
  '--publish': OWN_ADDRESS,
  '--pull': FROM_IMAGE,
  '--storage-opt': 'use --disk SIZE',
  '--userns': 'each guest has ids of its own: use -v SOURCE:TARGET:idmap=host for files of the host',
  '--uts': 'each guest has a host name of its own',
  '--volumes-from': 'use -v SOURCE:TARGET for each',
};

/** Options of any verb. */
const OPTIONS_OF_OTHERS: Readonly<Record<string, string>> = {
  '--detach-keys': 'Ctrl-P Ctrl-Q detaches',
  '--filter': 'use --json',
  '--format': 'use --json',
  '--no-trunc': 'nothing is shortened',
  '--since': 'use --tail LINES, or --timestamps',
  '--time': 'use --timeout DURATION',
  '--until': 'use --tail LINES, or --timestamps',
};

/** Returns a hint for a word that is no verb here. */
export function hintForVerb(word: string): string | undefined {
  const verb = Object.hasOwn(VERBS_OF_OTHERS, word) ? VERBS_OF_OTHERS[word] : undefined;
  return verb && `use "vserver ${verb}"`;
}

/** Returns a hint for an option that a verb does not have. */
export function hintForOption(verb: string, option: string): string | undefined {
  const tables = ['run', 'create', 'build'].includes(verb)
    ? [OPTIONS_OF_NEW_GUESTS, OPTIONS_OF_OTHERS]
    : [OPTIONS_OF_OTHERS];
  return tables.find((table) => Object.hasOwn(table, option))?.[option];
}
