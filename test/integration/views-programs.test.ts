/** What programs make of the views: procps, busybox, htop, Java, Go, Node and PostgreSQL in a guest with limits. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';

const MEMORY_BYTES = 300 * 1024 * 1024;
/** What moves the cursor and colours. */
const MOVES = new RegExp(`${String.fromCharCode(27)}(\\[[\\d;?]*[a-zA-Z]|\\([A-Z])`, 'g');
const PATIENCE = { timeoutMs: 120_000 };

describe('programs see the limits of their guest', { skip: unmet('root', 'overlay', 'fuse') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    mkdirSync(join(v.scratch, 'programs'));
    const volume = `${join(v.scratch, 'programs')}:/programs:ro`;
    await v.ok([
      'run',
      '-d',
      '--name',
      'g',
      '-m',
      '300m',
      '--cpus',
      '1',
      '-v',
      volume,
      '--',
      'sleep',
      '1000',
    ]);
  });
  after(async () => {
    await v.close();
  });

  const inGuest = async (script: string): Promise<string> =>
    await v.ok(['exec', 'g', 'sh', '-c', script], PATIENCE);

  test('free, vmstat and meminfo tell the same memory', async () => {
    const out = await inGuest(
      'free -b | sed -n 2p; vmstat -s -S K | sed -n 1p; head -1 /proc/meminfo; top -bn1 -E k | grep "Mem :"',
    );
    const totals = out.split('\n').map((line) => Number(/\d+/.exec(line.replace(/^\D*/, ''))?.[0]));
    const kib = MEMORY_BYTES / 1024;
    assert.deepEqual(totals.slice(0, 4), [MEMORY_BYTES, kib, kib, kib], out);
  });

  test('uptime, btime and the start of every process agree within a second', async () => {
    const out = await inGuest(
      'date +%s; cut -d" " -f1 /proc/uptime; sed -n "s/^btime //p" /proc/stat; date +%s; date -d "$(uptime -s)" +%s; ' +
        'ps -eo pid=,etimes=; echo -; ps -eo pid=,lstart= | while read -r pid start; do date -d "$start" +%s; done; ' +
        'echo -; date +%s',
    );
    const [before = 0, uptime = 0, btime = 0, after = 0, booted = 0] = out.split('\n').map(Number);
    const now = btime + Math.floor(uptime);
    assert.ok(now >= before - 1 && now <= after + 1, out);
    assert.ok(Math.abs(booted - btime) <= 1, out);
    const [ages = '', starts = '', end = ''] = out.split('\n').slice(5).join('\n').split('-\n');
    for (const line of ages.trim().split('\n')) {
      const [, age = Number.NaN] = line.trim().split(/ +/).map(Number);
      assert.ok(age >= 0 && age <= Number(end) - btime + 1, `${line}: a process of ${age} s\n${out}`);
    }
    const times = starts.trim().split('\n').map(Number);
    assert.ok(times.length >= 3);
    for (const start of times) assert.ok(start >= btime - 1 && start <= Number(end) + 1, out);
    assert.match(ages, /^ *1 /m, 'process 1 is among them');
  });

  test('no process seems to have started after the uptime that it reads', async () => {
    // Over and over, and when a text that nobody waited for has been there for a while.
    const out = await inGuest(
      'i=0; while [ $((i += 1)) -le 400 ]; do ' +
        '[ $i -le 380 ] || { cat /proc/uptime >/dev/null; sleep 0.02; cat /proc/uptime >/dev/null; sleep 0.2; }; ' +
        "sh -c 'read -r up idle </proc/uptime; read -r stat </proc/self/stat; set -- $stat; shift 21; echo $up $1'; done",
    );
    for (const line of out.trim().split('\n')) {
      const [uptime = Number.NaN, ticks = Number.NaN] = line.split(' ').map(Number);
      assert.ok(ticks / 100 <= uptime, `started after ${ticks / 100} s, up ${uptime} s`);
    }
  });

  test('uptime, w and top tell its own load and tasks', async () => {
    const out = await inGuest('uptime; w | head -1; top -bn1 | sed -n 1,3p');
    const [uptime = '', w = '', top = '', tasks = '', cpus = ''] = out.split('\n');
    for (const line of [uptime, w, top]) assert.match(line, / up \d+ min,.*load average: [0-2]\.\d\d, /);
    assert.match(tasks, /^Tasks: +[3-6] total/);
    assert.match(cpus, /^%Cpu\(s\):/);
  });

  test('busybox does', { skip: unmet('busybox') }, async () => {
    const out = await inGuest(
      'busybox top -bn1 | head -3; busybox ps | head -3; busybox free -k; busybox nproc',
    );
    const [memory = '', , load = ''] = out.split('\n');
    const [used = 0, free = 0] = [...memory.matchAll(/(\d+)K (?:used|free)/g)].map((found) =>
      Number(found[1]),
    );
    assert.equal(used + free, MEMORY_BYTES / 1024, memory);
    assert.match(load, /^Load average: [0-2]\.\d\d /);
    assert.match(out, /^ +1 root +init$/m);
    // Of sysinfo(2) and sched_getaffinity(2).
    assert.match(out, /^Mem: +307200 [\s\S]*\n1\n$/m);
  });

  test('htop does, on a terminal', { skip: unmet('htop') }, async () => {
    // Of the first second it says "(unknown)".
    const raw = await inGuest(
      'until [ "$(cut -d. -f1 /proc/uptime)" -gt 0 ]; do :; done; ' +
        'printf q | TERM=xterm script -qec "stty rows 24 cols 100; htop" /dev/null',
    );
    const screen = raw.replaceAll(MOVES, '');
    assert.match(screen, /\/300M\]/);
    assert.match(screen, /Swp\[.*0K\/0K\]/);
    assert.match(screen, /Uptime: 00:0\d:\d\d/);
    assert.match(screen, /Load average: [0-2]\.\d\d/);
  });

  test('Node does', { skip: unmet('nodejs') }, async () => {
    const script =
      'const os = require("node:os"); console.log(JSON.stringify([os.totalmem(), os.freemem(), os.cpus().length, ' +
      'os.loadavg()[0], os.uptime(), Number(require("node:fs").readFileSync("/proc/uptime", "utf8").split(" ")[0])]))';
    const [total, free = 0, cpus, load = 9, uptime = 0, file = 99] = JSON.parse(
      await inGuest(`/usr/bin/node -e '${script}'`),
    ) as number[];
    assert.deepEqual([total, cpus], [MEMORY_BYTES, 1]);
    assert.ok(free > 0 && free < MEMORY_BYTES);
    assert.ok(load < 3, `load ${load}`);
    assert.ok(Math.abs(uptime - file) < 1, `${uptime} and ${file} s`);
  });

  test('PostgreSQL takes what there is, and no more', { skip: unmet('postgresql') }, async () => {
    const out = await inGuest(
      'export LC_ALL=C.UTF-8; bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1); ' +
        'mkdir /srv/db && chown 65534 /srv/db && as="setpriv --reuid=65534 --regid=65534 --clear-groups"; ' +
        '$as $bin/initdb --no-sync --auth=trust -U postgres -D /srv/db/data >/dev/null && ' +
        '$as $bin/pg_ctl -D /srv/db/data -o "-c unix_socket_directories=/tmp -c listen_addresses= -c shared_buffers=64MB" ' +
        '-l /tmp/log -w start >/dev/null && ' +
        'psql -qAth /tmp -U postgres -c "create table t as select i from generate_series(1, 20000) i" ' +
        '-c "select count(*) from t" -c "select setting from pg_settings where name = \'shared_buffers\'"; ' +
        'head -1 /proc/meminfo; $as $bin/pg_ctl -D /srv/db/data -m immediate stop >/dev/null',
    );
    assert.match(out, /^20000\n8192\nMemTotal: +307200 kB\n$/);
  });

  test('Go does', { skip: unmet('go') }, async () => {
    const source = join(v.scratch, 'programs/main.go');
    writeFileSync(
      source,
      'package main\nimport (\n\t"fmt"\n\t"os"\n\t"runtime"\n\t"strings"\n)\nfunc main() {\n' +
        '\ttext, _ := os.ReadFile("/proc/cpuinfo")\n\tmemory, _ := os.ReadFile("/proc/meminfo")\n' +
        '\tfmt.Println(runtime.NumCPU(), strings.Count(string(text), "processor\\t:"), strings.Fields(string(memory))[1])\n}\n',
    );
    const out = await inGuest('cd /tmp && GOCACHE=/tmp/go GOFLAGS=-p=1 go run /programs/main.go');
    assert.equal(out, '1 1 307200\n');
  });

  test('Java does', { skip: unmet('java') }, async () => {
    // Without cgroups in sight it asks sysinfo(2) and sched_getaffinity(2); of little memory up to a half is its heap.
    const out = await inGuest('java -Xlog:gc+init -XX:+PrintFlagsFinal -version 2>&1');
    assert.match(out, /CPUs: \d+ total, 1 available/);
    assert.match(out, /Memory: 300M/);
    assert.ok(Number(/ MaxHeapSize += (\d+) /.exec(out)?.[1]) < MEMORY_BYTES / 2);
  });
});
