import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseCommandLine } from './parse.ts';
import { VERB_ALIASES, VERB_NAMES } from './verb-table.ts';
import { VERBS_OF_OTHERS } from './words-of-others.ts';

test('no verb of others is one of ours, and all lead to one of ours that takes what is written', () => {
  const own = new Set<string>([...VERB_NAMES, ...VERB_ALIASES.keys()]);
  for (const [word, verb] of Object.entries(VERBS_OF_OTHERS)) {
    assert.ok(!own.has(word), word);
    for (const line of verb.split('" or "vserver ').flatMap((part) => part.split('" and "vserver '))) {
      const words = line.replace('KEY=VALUE', 'limits.pids=5').replace('ADDRESS', '10.0.0.5').split(' ');
      const plain = words.map((one) => one.replace('SOURCE:TARGET', '/a:/b'));
      // A volume alone runs nothing, which the parser does not know.
      assert.doesNotThrow(() => parseCommandLine(plain), `${word}: ${line}`);
    }
  }
});
