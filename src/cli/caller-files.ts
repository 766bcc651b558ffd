/**
 * Files that the caller names on the command line, relative to the caller's directory.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
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
    files.push(await readCallerFile(resolve(io.cwd, name), name));
  }
  return resolveEnv(files, options.env, io.env);
}

/** Non-blocking, and regular files only: a FIFO must not hold a thread of vserverd. */
async function readCallerFile(path: string, name: string): Promise<string> {
  try {
    await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    if (!(await file.stat()).isFile()) throw new Error('something that is no file');
    return await file.readFile('utf8');
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : 'no such file';
    throw new UserError('usage', `cannot read the env file "${name}": found ${found}`, { cause });
  }
}
