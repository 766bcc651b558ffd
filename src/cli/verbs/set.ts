import { StateError, UserError } from '../../base/errors.ts';
import type { ConfigChange } from '../../guest/config-text.ts';
import { type Guest, isActive } from '../../guest/guest.ts';
import { guestPaths } from '../../guest/paths.ts';
import { readIfThere } from '../../sys/files.ts';
import { warn } from '../for-each.ts';
import { currentConfig, unenforcedLimits, viewLimits } from '../guest-view.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { changeAddresses, keysForNextStart, parseSetting, parseUnset } from '../settings.ts';
import type { ParsedVerb } from '../verb-types.ts';

/** `vserver set`: changes a guest's configuration, and its limits at once; without changes prints the file. */
export async function set(parsed: ParsedVerb<'set'>, io: Io, services: Services): Promise<VerbResult> {
  const { manager } = services;
  const [name = '', ...settings] = parsed.operands;
  const { unset, ipAdd, ipRm } = parsed.options;
  const guest = manager.registry.find(name);
  const changes = [...settings.map(parseSetting), ...unset.map(parseUnset)];
  if (ipAdd.length + ipRm.length > 0) {
    const { network } = guest.isEphemeral ? guest.config : manager.registry.readConfig(guest.name);
    changes.push(changeAddresses(network.addresses, ipAdd, ipRm));
  }
  if (changes.length > 0) {
    refuseFixedKeys(guest, changes);
    await manager.changes.set(guest, changes);
    await warnOf(guest, changes, io, services);
  }
  if (parsed.global.json) {
    await io.out(formatJson(viewLimits(guest, currentConfig(guest, services), manager.host.cgroups)));
  } else if (changes.length === 0) await io.out(configText(guest, services));
  else await io.out(`${guest.name}\n`);
  return 0;
}

/** The owner of every file of a guest tells its xid, so that one cannot be changed by a line in a file. */
function refuseFixedKeys(guest: Guest, changes: readonly ConfigChange[]): void {
  const change = changes.find(({ path }) => path[0] === 'xid');
  if (change === undefined || change.value === guest.xid) return;
  throw new UserError(
    'xid-fixed',
    `cannot change the xid of guest "${guest.name}": found its files owned by the ids of context ${guest.xid}; need vserver retag for another xid`,
  );
}

async function warnOf(
  guest: Guest,
  changes: readonly ConfigChange[],
  io: Io,
  services: Services,
): Promise<void> {
  const hasNetwork = (guest.live?.network ?? guest.live?.link) !== undefined;
  const hasDisk = services.manager.storage.keepsLimit(guest, guest.config.disk);
  const later = isActive(guest) ? keysForNextStart(changes, hasNetwork, hasDisk) : [];
  if (later.length > 0) {
    await warn(io, `guest "${guest.name}" is running: ${later.join(', ')} will change with its next start`);
  }
  const unenforced = unenforcedLimits(currentConfig(guest, services), services.manager.host.cgroups);
  for (const key of unenforced) {
    if (!changes.some(({ path }) => path.join('.') === key || (path[0] === 'limits' && path.length === 1)))
      continue;
    await warn(io, `nothing on this host enforces ${key} of guest "${guest.name}"; see \`vserver check\``);
  }
}

function configText(guest: Guest, { manager }: Services): string {
  const text = guest.isEphemeral ? undefined : readIfThere(guestPaths(manager.host.paths, guest.name).config);
  if (text !== undefined) return text;
  throw new StateError(
    'guest-ephemeral',
    `cannot print the configuration file of guest "${guest.name}": found that it has none; need one made by \`vserver create\``,
    { hint: `see \`vserver inspect ${guest.name}\`` },
  );
}
