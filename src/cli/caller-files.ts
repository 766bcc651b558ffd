/**
 * Files that the caller names on the command line, relative to the caller's directory.
 */
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { resolveEnv } from './config-values.ts';
import type { Io } from './io.ts';
import type { EnvSetting } from './option-values.ts';

/** Returns the environment that `--env` and `--env-file` ask for. @throws UserError usage */
export async function callerEnv(
  options: { readonly env: readonly EnvSetting[]; readonly envFile: readonly string[] },
  io: Io,
): Promise<Readonly<Record<string, string>>> {
  const files: string[] = [];
  for (const name of options.envFile) {
    try {
      files.push(await readFile(resolve(io.cwd, name), 'utf8'));
    } catch (cause) {
      throw new UserError(
        'usage',
        `cannot read the env file "${name}": found ${cause instanceof Error ? cause.message : 'no such file'}`,
        { cause },
      );
    }
  }
  return resolveEnv(files, options.env, io.env);
}
