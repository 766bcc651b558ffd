/** Reads the machine's apt sources, so that another Debian release can be asked of the same mirrors. */
import { globSync, readFileSync } from 'node:fs';

/** One source of binary packages, as in sources.list(5). */
export type AptSource = {
  readonly uris: readonly string[];
  readonly suites: readonly string[];
  readonly components: readonly string[];
  /** Path of a keyring, or an armoured key with its continuation lines; undefined means apt's own keyrings. */
  readonly signedBy: string | undefined;
};

/** Every source of binary packages configured below a directory like /etc/apt, in both formats of sources.list(5). */
export function readAptSources(directory: string): readonly AptSource[] {
  const files = globSync(['sources.list', 'sources.list.d/*.list', 'sources.list.d/*.sources'], {
    cwd: directory,
  });
  return files.flatMap((file) => {
    const text = readFileSync(`${directory}/${file}`, 'utf8');
    return file.endsWith('.sources') ? parseDeb822(text) : parseOneLine(text);
  });
}

/** Parses the one-line format: `deb [signed-by=KEYRING] URI SUITE COMPONENT…`. */
export function parseOneLine(text: string): readonly AptSource[] {
  return text.split('\n').flatMap((line) => {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)([^#]*)/.exec(line);
    if (match === null) return [];
    const [, options = '', uri = '', suite = '', components = ''] = match;
    return [
      {
        uris: [uri],
        suites: [suite],
        components: words(components),
        signedBy: /(?:^|\s)signed-by=(\S+)/.exec(options)?.[1],
      },
    ];
  });
}

/** Parses the deb822 format: stanzas of `Field: value` separated by empty lines. */
export function parseDeb822(text: string): readonly AptSource[] {
  const withoutComments = text.replace(/^#.*\n?/gm, '');
  return withoutComments.split(/\n\s*\n/).flatMap((stanza) => {
    const fields = new Map<string, string>();
    for (const [, name = '', value = ''] of stanza.matchAll(/^([\w-]+):[ \t]*(.*(?:\n[ \t].*)*)/gm)) {
      fields.set(name.toLowerCase(), value.trimEnd());
    }
    if (fields.get('enabled') === 'no' || !words(fields.get('types')).includes('deb')) return [];
    return [
      {
        uris: words(fields.get('uris')),
        suites: words(fields.get('suites')),
        components: words(fields.get('components')),
        signedBy: fields.get('signed-by'),
      },
    ];
  });
}

/**
 * The sources of Debian itself, asked for another release. Third parties (`bookworm-pgdg`, `nodistro`) and suites that
 * hold no kernels (`-updates`, `-backports`) are left out; empty when the machine has no Debian source.
 *
 * @param from code name of the machine's release @param to code name of the wanted release
 */
export function sourcesOfRelease(
  sources: readonly AptSource[],
  from: string,
  to: string,
): readonly AptSource[] {
  return sources.flatMap((source) => {
    const uris = source.uris.filter((uri) => /\/debian(-security)?\/?$/.test(uri));
    const suites = source.suites.filter((suite) => suite === from || suite === `${from}-security`);
    if (uris.length === 0 || suites.length === 0 || !source.components.includes('main')) return [];
    return [
      {
        uris,
        suites: suites.map((suite) => suite.replace(from, to)),
        components: ['main'],
        signedBy: source.signedBy,
      },
    ];
  });
}

/** Formats sources in the deb822 format. */
export function formatDeb822(sources: readonly AptSource[]): string {
  return sources
    .map((source) => {
      const lines = [
        'Types: deb',
        `URIs: ${source.uris.join(' ')}`,
        `Suites: ${source.suites.join(' ')}`,
        `Components: ${source.components.join(' ')}`,
      ];
      if (source.signedBy !== undefined) lines.push(`Signed-By: ${source.signedBy}`);
      return `${lines.join('\n')}\n`;
    })
    .join('\n');
}

function words(text: string | undefined): readonly string[] {
  return text?.split(/\s+/).filter((word) => word !== '') ?? [];
}
