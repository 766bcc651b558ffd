import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { parseShellWords } from '../base/shell-words.ts';
import { parseCommandLine } from './parse.ts';

const ROOT = join(import.meta.dirname, '../..');
const HOW_TO = 'docs/how-to';
const PAGES = ['README.md', ...readdirSync(join(ROOT, HOW_TO)).map((name) => join(HOW_TO, name))];

/** What is the shell's: where it puts input and output, and notes. */
const OF_SHELL = /\s(?:[<>]|#\s).*/s;

/** The commands of vserver's on a page: in blocks, and within the text those that are not a word or two. */
function commandsOf(page: string): string[] {
  const text = readFileSync(join(ROOT, page), 'utf8');
  const blocks = [...text.matchAll(/^```(?:sh|console)\n(.*?)^```/gms)]
    .flatMap(([, block = '']) => block.replaceAll(/\\\n/g, ' ').replaceAll('$PWD', '/home').split('\n'))
    .flatMap((line) => line.split(/\s(?:\|\|?|&&)\s/));
  const inline = [...text.replaceAll(/^```.*?^```/gms, '').matchAll(/`(vserver(?: [^`\s]+){3,})`/g)];
  return [...blocks, ...inline.map(([, command = '']) => command)]
    .map((line) => /^\s*(?:[#$] )?(?:sudo )?(?:bin\/)?vserver (.*)/.exec(line)?.[1] ?? '')
    .filter((command) => command !== '' && !/\b[A-Z]{3,}\b|…/.test(command));
}

describe('every command on a page is understood', () => {
  for (const page of PAGES)
    test(page, () => {
      for (const command of commandsOf(page))
        assert.doesNotThrow(() => parseCommandLine(parseShellWords(command.replace(OF_SHELL, ''))), command);
    });
});
