import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseNetDev } from './net-dev.ts';

const TEXT = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
vs-web.1:  1234      12    1    2    3     4          5         6     5678      34    0    0    0     0       0          0
`;

test('interfaces are read with what they have received and sent', () => {
  const devices = parseNetDev(TEXT);
  assert.deepEqual([...devices.keys()], ['lo', 'vs-web.1']);
  assert.deepEqual(devices.get('vs-web.1'), {
    received: { bytes: 1234, packets: 12 },
    sent: { bytes: 5678, packets: 34 },
  });
});
