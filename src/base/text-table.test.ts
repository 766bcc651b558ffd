import assert from 'node:assert/strict';
import { test } from 'node:test';
import { escapeControls, formatTable } from './text-table.ts';

test('aligns columns and leaves no blanks at line ends', () => {
  const columns = [{ title: 'NAME' }, { title: 'PIDS', align: 'right' as const }, { title: 'STATE' }];
  assert.equal(
    formatTable(columns, [
      ['web', '12', 'running'],
      ['database', '3', ''],
    ]),
    'NAME      PIDS  STATE\nweb         12  running\ndatabase     3\n',
  );
  assert.equal(formatTable(columns, [['a', '1']], { withTitles: false }), 'a  1\n');
  assert.equal(formatTable(columns, [], { withTitles: false }), '');
});

test('escapes what would steer the terminal', () => {
  assert.equal(escapeControls('a\x1b[2J\nb\u0085\u202e'), 'a\\x1b[2J\\x0ab\\x85\\u{202e}');
  assert.equal(escapeControls('grün 日本'), 'grün 日本');
});
