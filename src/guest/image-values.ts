/** What an OCI image says of running it, as values of a guest's configuration. */
import { formatDuration } from '../base/units.ts';
import type { ImageConfig, ImageHealthcheck } from '../spec/oci-image.ts';
import type { GuestConfigValues } from './config-types.ts';

const NS_PER_MS = 1_000_000;

/**
 * Returns the configuration of a guest from an image: the image's words, over which the operator's stand. Variables and
 * labels add up; a command takes the place of entrypoint and command.
 */
export function valuesOfImage(config: ImageConfig, own: GuestConfigValues): GuestConfigValues {
  const command = [...config.entrypoint, ...config.cmd];
  const health = own.health ?? (config.healthcheck && healthOf(config.healthcheck));
  return {
    ...(command.length > 0 && own.init !== 'own' ? { command } : {}),
    ...(config.workingDir === '' ? {} : { cwd: config.workingDir }),
    ...(config.user === '' ? {} : { user: config.user }),
    ...own,
    ...unlessEmpty('env', { ...envOf(config.env), ...own.env }),
    ...unlessEmpty('labels', { ...config.labels, ...own.labels }),
    ...(config.stopSignal === '' ? {} : { stop: { signal: config.stopSignal, ...own.stop } }),
    ...(health ? { health } : {}),
  };
}

function unlessEmpty<Key extends string>(
  key: Key,
  map: Readonly<Record<string, string>>,
): { readonly [K in Key]?: Readonly<Record<string, string>> } {
  return (Object.keys(map).length === 0 ? {} : { [key]: map }) as { readonly [K in Key]?: typeof map }; // its one key
}

function envOf(env: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    env.flatMap((text) => {
      const at = text.indexOf('=');
      return at < 1 ? [] : [[text.slice(0, at), text.slice(at + 1)] as const];
    }),
  );
}

function healthOf({
  test,
  interval,
  timeout,
  startPeriod,
  retries,
}: ImageHealthcheck): GuestConfigValues['health'] {
  const [kind, ...words] = test;
  const command = kind === 'CMD-SHELL' ? ['/bin/sh', '-c', ...words] : words;
  if ((kind !== 'CMD' && kind !== 'CMD-SHELL') || command.length === 0) return undefined;
  return {
    test: command,
    ...duration('interval', interval),
    ...duration('timeout', timeout),
    ...duration('startPeriod', startPeriod),
    ...(retries === 0 ? {} : { retries }),
  };
}

function duration<Key extends string>(key: Key, nanoseconds: number): { readonly [K in Key]?: string } {
  const milliseconds = Math.round(nanoseconds / NS_PER_MS);
  return (milliseconds === 0 ? {} : { [key]: formatDuration(milliseconds) }) as {
    readonly [K in Key]?: string;
  }; // its one key
}
