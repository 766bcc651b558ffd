import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { checkLimits } from './limits.ts';
import { limitsOfBucket, type TokenBucket } from './token-bucket.ts';

const SOFT: TokenBucket = { hard: false, idleTime: false };
const HARD: TokenBucket = { hard: true, idleTime: false };

test('without a word of it nothing but the CPUs is decided', () => {
  assert.deepEqual(limitsOfBucket(SOFT, 2), { cpuIdle: 0, cpuset: 'all' });
  assert.deepEqual(limitsOfBucket({ ...SOFT, cpus: '0,2-3' }, 3), { cpuIdle: 0, cpuset: '0,2-3' });
});

test('a hard bucket is a quota, and its surplus a burst', () => {
  assert.deepEqual(limitsOfBucket(HARD, 2), {
    cpuPeriodUs: 248_000,
    cpuQuotaUs: 124_000,
    cpuBurstUs: 124_000,
    cpuIdle: 0,
    cpuset: 'all',
  });
  const { cpuPeriodUs, cpuQuotaUs, cpuBurstUs } = limitsOfBucket(
    { ...HARD, fillRate: 30, interval: 100, tokensMin: 30, tokensMax: 40 },
    1,
  );
  assert.deepEqual([cpuPeriodUs, cpuQuotaUs, cpuBurstUs], [100_000, 30_000, 10_000]);
});

test('idle time has no quota; only idle time is idle', () => {
  assert.deepEqual(limitsOfBucket({ ...HARD, idleTime: true, fillRate: 1, interval: 8 }, 2), {
    cpuWeight: 50,
    cpuIdle: 0,
    cpuset: 'all',
  });
  assert.deepEqual(limitsOfBucket({ ...HARD, idleTime: true, fillRate: 0 }, 2), {
    cpuWeight: 1,
    cpuIdle: 1,
    cpuset: 'all',
  });
});

test('weights are as the rates, and a step of prioBias is one of nice', () => {
  const weight = (values: Partial<TokenBucket>): number | undefined =>
    limitsOfBucket({ ...SOFT, ...values }, 1).cpuWeight;
  assert.deepEqual(
    [weight({ fillRate: 1 }), weight({ fillRate: 3 }), weight({ fillRate: 1, interval: 400 })],
    [100, 300, 1],
  );
  assert.deepEqual(
    [weight({ prioBias: 1 }), weight({ prioBias: -1 }), weight({ prioBias: -20 })],
    [80, 125, 8674],
  );
});

test('whatever is asked for, the kernel takes what comes of it', () => {
  const count = fc.integer({ min: 1, max: 100_000 });
  fc.assert(
    fc.property(
      fc.record({ fillRate: count, interval: count, tokensMin: count, tokensMax: count }),
      fc.integer({ min: 1, max: 512 }),
      (values, cpus) => {
        const limits = limitsOfBucket({ ...HARD, ...values }, cpus);
        checkLimits(limits);
        assert.ok((limits.cpuBurstUs ?? 0) <= Number(limits.cpuQuotaUs));
      },
    ),
  );
});
