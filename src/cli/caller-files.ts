/**
 * Files that the caller names on the command line, relative to the caller's directory.
 */
import { resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { readNamedFile } from '../sys/files.ts';
import { resolveEnv } from './config-values.ts';
import type { Io } from './io.ts';
import type { EnvSetting } from './option-values.ts';

/** As much as a command line of the kernel's may have; the client's has less. */
const ENV_FILE_MAX_BYTES = 2 ** 21;

/** Returns the environment that `--env` and `--env-file` ask for. @throws UserError usage */
export function callerEnv(
  options: { readonly env: readonly EnvSetting[]; readonly envFile: readonly string[] },
  io: Io,
): Readonly<Record<string, string>> {
  const files = options.envFile.map((name) => readEnvFile(resolve(io.cwd, name), name));
  return resolveEnv(files, options.env, io.env);
}

function readEnvFile(path: string, name: string): string {
  try {
    return readNamedFile(path, ENV_FILE_MAX_BYTES);
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : 'no such file';
    throw new UserError('usage', `cannot read the env file "${name}": found ${found}`, { cause });
  }
}
