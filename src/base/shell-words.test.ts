import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatShellWords, parseShellWords } from './shell-words.ts';

test('splits as the shell does and expands nothing', () => {
  const good: [string, string[]][] = [
    ['', []],
    ['  a \t b\n', ['a', 'b']],
    [`sh -c 'echo "$HOME" *'`, ['sh', '-c', 'echo "$HOME" *']],
    [`"a b"c'd e' ""`, ['a bcd e', '']],
    [String.raw`a\ b "x\"\n\$"`, ['a b', String.raw`x"\n$`]],
    ['a\\\nb', ['ab']],
    ['$(x) `y` ~ | ; #', ['$(x)', '`y`', '~', '|', ';', '#']],
  ];
  for (const [text, words] of good) assert.deepEqual(parseShellWords(text), words, text);
  for (const text of ["'a", '"a', 'a\\', `"a\\"`]) {
    assert.throws(() => parseShellWords(text), { name: 'UserError', code: 'invalid-value' }, text);
  }
});

test('formats what it parses back', () => {
  for (const words of [[], ['a'], ['a b', "it's", '', '$x', '\n'], ['--opt=/a.b']]) {
    assert.deepEqual(parseShellWords(formatShellWords(words)), words);
  }
});
