import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { bytesOfText, textOfBytes } from './byte-text.ts';

test('UTF-8 is text as ever', () => {
  for (const text of ['', 'abc', 'ü', '\u0000', '\ufffd', '😀 a', '\u{10ffff}']) {
    assert.equal(textOfBytes(Buffer.from(text)), text);
    assert.deepEqual(bytesOfText(text), Buffer.from(text));
  }
});

test('what is not is kept byte by byte', () => {
  for (const [hex, text] of [
    ['ff', '\udcff'],
    ['61ff62', 'a\udcffb'],
    ['c3', '\udcc3'],
    ['c3bc80', 'ü\udc80'],
    ['c080', '\udcc0\udc80'],
    ['edb280', '\udced\udcb2\udc80'],
    ['f09f98', '\udcf0\udc9f\udc98'],
    ['f09f9880ff', '😀\udcff'],
    ['f5808080', '\udcf5\udc80\udc80\udc80'],
  ] as const) {
    assert.equal(textOfBytes(Buffer.from(hex, 'hex')), text, hex);
    assert.equal(bytesOfText(text).toString('hex'), hex);
  }
});

test('any bytes come back', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 50 }), (bytes) => {
      const text = textOfBytes(Buffer.from(bytes));
      assert.deepEqual(bytesOfText(text), Buffer.from(bytes));
      assert.equal(JSON.parse(JSON.stringify(text)), text);
    }),
  );
});
