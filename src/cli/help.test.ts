import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { UserError } from '../base/errors.ts';
import { formatCompletion } from './completion.ts';
import { exitCodeOf } from './exit-code.ts';
import { formatFailure } from './failure.ts';
import { formatGeneralHelp, formatUsage, formatVerbHelp } from './help.ts';
import { longName } from './option.ts';
import { parseCommandLine } from './parse.ts';
import { GLOBAL_OPTIONS, VERB_NAMES, VERBS } from './verb-table.ts';

describe('help', () => {
  for (const verb of VERB_NAMES) {
    test(`of ${verb} is complete and fits the line`, () => {
      const spec = VERBS[verb];
      const help = formatVerbHelp(verb);
      for (const name of Object.keys(spec.options)) assert.ok(help.includes(longName(name)), name);
      assert.ok(spec.examples.length >= 2);
      for (const line of help.split('\n')) assert.ok(line.length <= 110, line);
      assert.ok(formatGeneralHelp().includes(spec.summary));
    });

    test(`examples of ${verb} parse`, () => {
      for (const [line] of VERBS[verb].examples) {
        const words = line
          .replace(/^source <\((.*)\)$/, '$1')
          .replace(/ (>|&&) .*$/, '')
          .split(' ');
        assert.equal(words[0], 'vserver');
        assert.equal(parseCommandLine(words.slice(1)).verb, verb, line);
      }
    });

    test(`short options of ${verb} are distinct`, () => {
      const options = Object.values({ ...GLOBAL_OPTIONS, ...VERBS[verb].options });
      const letters = options.flatMap((option) => option.short ?? []);
      assert.deepEqual(letters, [...new Set(letters)]);
      assert.ok(!letters.includes('h'));
    });
  }

  test('usage lines', () => {
    assert.equal(formatUsage('exec'), 'vserver exec [OPTIONS] GUEST COMMAND [ARGUMENT…]');
    assert.equal(formatUsage('daemon'), 'vserver daemon [OPTIONS] start|stop|status');
    assert.equal(formatUsage('ps'), 'vserver ps [OPTIONS] [GUEST…]');
  });
});

test('completion scripts know every verb and option', () => {
  for (const shell of ['bash', 'zsh', 'fish'] as const) {
    const script = formatCompletion(shell);
    for (const verb of VERB_NAMES) assert.ok(script.includes(verb), `${shell} ${verb}`);
    for (const name of Object.keys(VERBS.run.options)) {
      assert.ok(script.includes(longName(name).slice(shell === 'fish' ? 2 : 0)), `${shell} ${name}`);
    }
    assert.ok(script.includes('vserver list --all --quiet'), shell);
  }
});

test('exit codes', () => {
  const usage = new UserError('usage', 'cannot x');
  assert.equal(exitCodeOf(usage), 2);
  assert.equal(exitCodeOf(usage, 'stop'), 2);
  assert.equal(exitCodeOf(usage, 'run'), 125);
  assert.equal(exitCodeOf(new UserError('guest-not-found', 'no'), 'status'), 5);
  assert.equal(exitCodeOf(new TypeError('x'), 'stop'), 70);
  assert.throws(
    () => {
      writeFileSync('/dev/full', 'x');
    },
    (full) => exitCodeOf(full, 'stop') === 1 && /found ENOSPC.*; need/u.test(formatFailure(full)),
    'a full disk is no bug',
  );
  assert.equal(exitCodeOf(new SuppressedError(new Error('undo'), usage), 'stop'), 2);
});
