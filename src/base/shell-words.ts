import { UserError } from './errors.ts';

/**
 * Splits a command line into words as sh does, without any expansion: `$`, backquotes, globs and operators are
 * ordinary characters.
 *
 * Single quotes keep everything; in double quotes a backslash escapes `"`, `\`, `$`, a backquote and a line feed;
 * elsewhere it escapes the next character.
 *
 * @throws UserError invalid-value when a quote is not closed or a backslash ends the text
 * @see POSIX.1-2024, Shell Command Language, 2.2 Quoting
 */
export function parseShellWords(text: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (let at = 0; at < text.length; ) {
    const char = text.charAt(at);
    if (/[ \t\r\n]/.test(char)) {
      if (word !== undefined) words.push(word);
      word = undefined;
      at++;
      continue;
    }
    const piece = readPiece(text, at);
    word = (word ?? '') + piece.value;
    at = piece.end;
  }
  if (word !== undefined) words.push(word);
  return words;
}

function readPiece(text: string, at: number): { readonly value: string; readonly end: number } {
  const char = text.charAt(at);
  if (char === "'") {
    const close = text.indexOf("'", at + 1);
    if (close === -1) throw unclosed(text, 'a closing single quote');
    return { value: text.slice(at + 1, close), end: close + 1 };
  }
  if (char === '"') return readDoubleQuoted(text, at + 1);
  if (char !== '\\') return { value: char, end: at + 1 };
  if (at + 1 === text.length) throw unclosed(text, 'a character after the last backslash');
  const escaped = text.charAt(at + 1);
  return { value: escaped === '\n' ? '' : escaped, end: at + 2 };
}

function readDoubleQuoted(text: string, start: number): { readonly value: string; readonly end: number } {
  let value = '';
  for (let at = start; at < text.length; at++) {
    const char = text.charAt(at);
    const next = text.charAt(at + 1);
    if (char === '"') return { value, end: at + 1 };
    if (char === '\\' && next !== '' && '"\\$`\n'.includes(next)) {
      if (next !== '\n') value += next;
      at++;
    } else {
      value += char;
    }
  }
  throw unclosed(text, 'a closing double quote');
}

function unclosed(text: string, need: string): UserError {
  return new UserError('invalid-value', `cannot split command ${JSON.stringify(text)}; need ${need}`);
}

/** Formats words so that `parseShellWords`, and sh, give them back. */
export function formatShellWords(words: readonly string[]): string {
  return words
    .map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}
