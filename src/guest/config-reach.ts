/** What in a configuration reaches the host: it is not taken from somebody else's archive without being asked for. */
import { DEFAULT_DOMAIN } from '../storage/trust-domain.ts';
import type { GuestConfig, HookStage } from './config-types.ts';

/** Returns the keys of a configuration that give its guest, or who wrote it, something of the host. */
export function reachOf(config: GuestConfig): readonly string[] {
  const { timeoutMs: _, ...stages } = config.hooks;
  return [
    ...config.mounts.flatMap((mount) =>
      mount.type === 'bind' ? [`mounts (${JSON.stringify(mount.source)})`] : [],
    ),
    ...(Object.keys(stages) as HookStage[]).filter((stage) => stages[stage]).map((stage) => `hooks.${stage}`),
    ...(config.network.mode === 'host' ? ['network.mode: host'] : []),
    ...(config.seccomp === 'default' ? [] : ['seccomp']),
    // To be of it is to know what files its guests have.
    ...(config.trustDomain === DEFAULT_DOMAIN ? [] : [`trustDomain: ${config.trustDomain}`]),
    ...(config.bcaps.some((word) => !word.startsWith('-')) ? ['bcaps'] : []),
  ];
}
