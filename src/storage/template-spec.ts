import { posix } from 'node:path';
import { UserError } from '../base/errors.ts';

/** What a guest's root starts from, as the operator names it. */
export type TemplateSpec =
  | { readonly kind: 'host' | 'busybox' | 'skeleton' }
  | { readonly kind: 'directory'; readonly path: string }
  | { readonly kind: 'tarball'; readonly path: string }
  /** A tree that was prepared before: always the same one, whatever became of what it was made from. */
  | { readonly kind: 'prepared'; readonly key: string };

const TAR_SUFFIX = /\.(?:tar|tar\.(?:gz|xz|zst|bz2)|tgz|txz|tzst|tbz2?)$/;
const PREPARED = /^(?:host|busybox|skeleton|tarball|image|oci)-[\da-f]{32}$/;
const ALLOWED =
  '"host", "busybox", "skeleton", "directory:/PATH", "tarball:/PATH.tar[.gz|.xz|.zst|.bz2]" or an absolute path of a directory or tar archive';

/**
 * Parses the name of a template: `host`, `busybox`, `skeleton`, `directory:/PATH`, `tarball:/PATH.tar[.gz|.xz|.zst|.bz2]`, or an
 * absolute path alone, which is an archive if its name ends like one; also `<kind>-<hash>`, which names a prepared tree or image.
 *
 * Looks at no file.
 *
 * @throws UserError invalid-template
 */
export function parseTemplateSpec(text: string): TemplateSpec {
  if (text === 'host' || text === 'busybox' || text === 'skeleton') return { kind: text };
  if (PREPARED.test(text)) return { kind: 'prepared', key: text };
  const [, prefix, path = ''] = /^(?:(directory|tarball):)?(\/.*)$/s.exec(text) ?? [];
  if (path === '' || path.includes('\0')) throw invalid(text, `need ${ALLOWED}`);
  const isArchive = TAR_SUFFIX.test(path);
  if (prefix === 'tarball' && !isArchive) {
    throw invalid(text, 'need a name that ends in .tar, .tar.gz, .tar.xz, .tar.zst or .tar.bz2');
  }
  const kind = prefix === 'directory' || !isArchive ? 'directory' : 'tarball';
  return { kind, path: cleanPath(path) };
}

/** Returns the one spelling of a template's name that `parseTemplateSpec` reads back. */
export function formatTemplateSpec(spec: TemplateSpec): string {
  if (spec.kind === 'prepared') return spec.key;
  return 'path' in spec ? `${spec.kind}:${spec.path}` : spec.kind;
}

function cleanPath(path: string): string {
  const clean = posix.normalize(path);
  return clean.length > 1 && clean.endsWith('/') ? clean.slice(0, -1) : clean;
}

function invalid(text: string, need: string): UserError {
  return new UserError('invalid-template', `cannot use ${JSON.stringify(text)} as a template; ${need}`);
}
