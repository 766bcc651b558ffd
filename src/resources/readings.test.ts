import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SysError } from '../base/errors.ts';
import { toXid } from '../base/ids.ts';
import type { CgroupFiles } from './cgroup-fs.ts';
import { Readings } from './readings.ts';

const XID = toXid(7);

/** Only what is read. */
function files(texts: Readonly<Record<string, string>>): CgroupFiles {
  const refuse = (): never => {
    throw new Error('not to be called');
  };
  return {
    read: (path) => {
      const text = texts[path];
      if (text !== undefined) return text;
      throw new SysError('cgroup-io', path, { syscall: 'open', errno: 2, errnoName: 'ENOENT' });
    },
    write: refuse,
    mkdir: refuse,
    rmdir: refuse,
    list: refuse,
  };
}

const V2 = { unified: '/v2', v1: new Map(), unmounted: [] };
const HYBRID = {
  unified: '/v2',
  v1: new Map([
    ['memory', '/mem'],
    ['cpu', '/cpu'],
    ['pids', '/pids'],
    ['cpuset', '/set'],
  ] as const),
  unmounted: [],
};

test('version 2', () => {
  const readings = new Readings(
    files({
      '/v2/p/7/memory.max': '1000\n',
      '/v2/p/7/memory.current': '100\n',
      '/v2/p/7/memory.swap.max': 'max\n',
      '/v2/p/7/memory.swap.current': '5\n',
      '/v2/p/7/memory.stat': 'anon 1\nfile 2\n',
      '/v2/p/7/cpu.stat': 'usage_usec 9\nuser_usec 6\nsystem_usec 3\n',
      '/v2/p/7/cpu.max': '150000 100000\n',
      '/v2/p/7/cpuset.cpus.effective': '0-1\n',
      '/v2/p/7/g/pids.current': '4\n',
      '/v2/p/7/io.stat': '8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n',
      '/v2/p/7/cpu.pressure': 'some …\n',
    }),
    V2,
    'p',
  );
  assert.deepEqual(readings.memory(XID), {
    limitBytes: 1000,
    usageBytes: 100,
    swapLimitBytes: undefined,
    swapBytes: 5,
    stat: new Map([
      ['anon', 1],
      ['file', 2],
    ]),
  });
  assert.deepEqual(readings.cpu(XID), { userUs: 6, systemUs: 3 });
  assert.deepEqual(readings.cpuShare(XID), { limit: 1.5, cpuset: '0-1\n' });
  assert.equal(readings.tasks(XID), 4);
  assert.deepEqual(
    [...(readings.disks(XID) ?? [])],
    [['8:0', { readBytes: 1, writeBytes: 2, reads: 3, writes: 4 }]],
  );
  assert.equal(readings.pressure(XID, 'cpu'), 'some …\n');
  assert.equal(readings.pressure(XID, 'io'), undefined);
});

test("version 1: limits of two kinds, and version 2's names", () => {
  const memory = (total: string): Record<string, string> => ({
    '/mem/p/7/memory.limit_in_bytes': '1000\n',
    '/mem/p/7/memory.usage_in_bytes': '100\n',
    ...(total === '' ? {} : { '/mem/p/7/memory.memsw.limit_in_bytes': total }),
    '/mem/p/7/memory.stat': 'cache 9\ntotal_cache 2\ntotal_rss 1\ntotal_swap 5\ntotal_other 3\n',
    '/cpu/p/7/cpu.cfs_quota_us': '-1\n',
    '/cpu/p/7/cpu.cfs_period_us': '100000\n',
    '/pids/p/7/pids.current': '4\n',
  });
  const of = (total: string): Readings => new Readings(files(memory(total)), HYBRID, 'p');
  assert.deepEqual(of('1500\n').memory(XID), {
    limitBytes: 1000,
    usageBytes: 100,
    swapLimitBytes: 500,
    swapBytes: 5,
    stat: new Map([
      ['file', 2],
      ['anon', 1],
    ]),
  });
  assert.equal(of('9223372036854771712\n').memory(XID).swapLimitBytes, undefined);
  assert.equal(of('').memory(XID).swapLimitBytes, 0, 'a kernel that does not count it');
  assert.deepEqual(of('').cpu(XID), { userUs: 0, systemUs: 0 });
  assert.deepEqual(of('').cpuShare(XID), { limit: undefined, cpuset: undefined });
  const bound = new Readings(files({ '/set/p/7/cpuset.effective_cpus': '1\n' }), HYBRID, 'p');
  assert.equal(bound.cpuShare(XID).cpuset, '1\n');
  assert.equal(of('').tasks(XID), 4);
});
