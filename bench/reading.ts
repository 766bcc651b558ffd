/**
 * The same programs on the same files, in a guest, in a plain directory of the host, and below a plain overlay of that
 * directory, which is what other containers have. The loop is where the files are, and so is what measures: what a command's
 * start takes is not in it. What is in memory is measured by CPU time, for a cgroup of one's own is worth much on a busy machine.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { ControlPlane } from './control-plane.ts';
import { MountNamespace } from './mount-namespace.ts';
import { run } from './native-programs.ts';
import type { Result } from './scenario.ts';
import { compare, figure, median } from './statistics.ts';

const NANOSECONDS_IN_MS = 1e6;
const NANOSECONDS_IN_SECOND = 1e9;
const USER = 1000;
const NAMES = 'find / -xdev -size +1000000k 2>/dev/null';
const BYTES = 'find /usr -xdev -type f -print0 | xargs -0 cat >/dev/null';
const LARGE = 'cat /srv/large >/dev/null';
/** Puts it out of memory (posix_fadvise POSIX_FADV_DONTNEED): one reading alone is too short to say what a disk does. */
const FORGET_LARGE = 'dd if=/srv/large iflag=nocache count=0 status=none';
/** What is read often while all is in memory: words of a shell, and whose they are. */
const WARM = [
  ['names and attributes', `for i in 1 2 3 4 5; do ${NAMES}; done`, 0],
  ['names and attributes, for a user', `for i in 1 2 3 4 5; do ${NAMES}; done`, USER],
  ['bytes of all files', BYTES, 0],
  ['bytes of a large file', `for i in 1 2 3 4 5; do ${LARGE}; done`, 0],
] as const;
/** Before what is read once: programs that measure and read come into memory, and what a start leaves for later is done. */
const REST = 'date >/dev/null; cat /dev/null; find /dev/null >/dev/null; xargs true </dev/null; sleep 1';
/** What is read once while nothing is. */
const COLD = [
  ['names and attributes', NAMES],
  ['bytes of all files', BYTES],
  ['bytes of a large file', `for i in 1 2 3 4 5 6 7 8; do ${LARGE}; ${FORGET_LARGE}; done`],
] as const;
const DISK_BYTES = 4 * 2 ** 30;
const TRIES = 500;

/** Whose reads are measured: by a clock, by the CPU time of the programs, and how often each let the disk be asked. */
interface Reader {
  readonly name: string;
  readonly argv: (words: readonly string[], uid: number) => readonly string[];
  readonly passed: number[];
  readonly used: number[];
  readonly requests: number[];
}

function reader(name: string, argv: Reader['argv']): Reader {
  return { name, argv, passed: [], used: [], requests: [] };
}

function forget({ passed, used, requests }: Reader): void {
  for (const list of [passed, used, requests]) list.length = 0;
}

function inTree(tree: string, before: readonly string[]): Reader['argv'] {
  return (words, uid) => [...before, 'chroot', `--userspec=${uid}:${uid}`, tree, ...words];
}

function inGuest(control: ControlPlane, guest: string): Reader['argv'] {
  return (words, uid) => control.argv('exec', '--user', String(uid), guest, ...words);
}

/** Has a shell's words read; what is done before them is not measured. */
function read({ argv, passed, used }: Reader, script: string, uid: number, before = 'true'): void {
  const clock = '$(date +%s%N)';
  const measured = `${before}; begun=${clock}; (${script}; times); echo $((${clock} - begun))`;
  const [program = '', ...rest] = argv(['bash', '-c', measured], uid);
  const [, programs = '', nanoseconds] = run(program, rest).trim().split('\n');
  const seconds = [...programs.matchAll(/(\d+)m([\d.]+)s/g)].map(([, m, s]) => 60 * Number(m) + Number(s));
  used.push(seconds.reduce((sum, one) => sum + one, 0) * NANOSECONDS_IN_SECOND);
  passed.push(Number(nanoseconds));
}

function* compareReaders(
  what: string,
  by: 'passed' | 'used',
  [guest, host, overlay]: readonly Reader[],
): Iterable<Result> {
  if (guest === undefined || host === undefined || overlay === undefined) return;
  const sample = (of: Reader) => ({ name: of.name, values: of[by] });
  const options = { unit: 'ms', perUnit: NANOSECONDS_IN_MS, isSpeed: true } as const;
  const subject = { name: `${what}, ${guest.name}`, values: guest[by] };
  yield compare(subject, sample(host), { ...options, target: { relation: 'at least', value: 0.95 } });
  yield compare(subject, sample(overlay), { ...options, target: { relation: 'at least', value: 1 } });
  yield compare({ name: `${what}, ${overlay.name}`, values: overlay[by] }, sample(host), options);
}

/** Reads what is in memory. */
export function* warmReads(
  control: ControlPlane,
  guest: string,
  tree: string,
  rounds: number,
): Iterable<Result> {
  using namespace = new MountNamespace();
  const merged = namespace.overlay(tree, join(control.directory, 'overlay'));
  for (const [what, script, uid] of WARM) {
    const readers = [
      reader('in a guest', inGuest(control, guest)),
      reader('on the host', inTree(tree, [])),
      reader('below a plain overlay', inTree(merged, namespace.words)),
    ];
    for (let round = -2; round < rounds; round++) {
      for (const one of round % 2 === 0 ? readers : readers.toReversed()) {
        read(one, script, uid);
        if (round < 0) forget(one);
      }
    }
    yield* compareReaders(what, 'used', readers);
  }
}

/** Reads what is not in memory: all readers' file systems are mounted for each reading. */
export function* coldReads(tarball: string, rounds: number): Iterable<Result> {
  using namespace = new MountNamespace();
  using control = new ControlPlane(namespace.words);
  const lib = join(control.root, 'lib');
  const place = join(control.directory, 'place');
  for (const directory of [lib, place]) mkdirSync(directory);
  const guests = new Disk(namespace, join(control.directory, 'guests.img'), lib);
  const trees = new Disk(namespace, join(control.directory, 'trees.img'), place);
  const tree = join(place, 'tree');
  const subjects = [
    {
      of: reader('in a guest', inGuest(control, 'deb')),
      disk: guests,
      begin: () => void control.vserver('start', 'deb'),
      end: () => void control.vserver('daemon', 'stop', '--guests'),
    },
    { of: reader('on the host', inTree(tree, namespace.words)), disk: trees, begin() {}, end() {} },
    {
      of: reader('below a plain overlay', inTree(join(place, 'merged'), namespace.words)),
      disk: trees,
      begin: () => void namespace.overlay(tree, place),
      end: () => void namespace.run('umount', join(place, 'merged')),
    },
  ];
  trees.mount();
  namespace.run('mkdir', tree);
  namespace.run('tar', '-C', tree, '-xf', tarball);
  trees.unmount();
  guests.mount();
  try {
    control.vserver('create', 'deb', '--template', `tarball:${tarball}`, '--', 'sleep', '86400');
    control.vserver('daemon', 'stop', '--guests');
    guests.unmount();
    for (const [what, script] of COLD) {
      for (const { of } of subjects) forget(of);
      for (let round = 0; round < rounds; round++) {
        for (const { of, disk, begin, end } of round % 2 === 0 ? subjects : subjects.toReversed()) {
          disk.mount();
          const before = disk.requests();
          begin(); // what is read ahead from here on counts
          read(of, script, 0, REST);
          of.requests.push(disk.requests() - before);
          end();
          disk.unmount();
        }
      }
      const readers = subjects.map(({ of }) => of);
      yield* compareReaders(`${what}, not in memory`, 'passed', readers);
      for (const { name, used, requests } of readers) {
        yield figure(`${what}, ${name}: CPU time of the programs`, 'ms', median(used) / NANOSECONDS_IN_MS);
        yield figure(`${what}, ${name}: requests to the disk`, '', median(requests));
      }
    }
  } finally {
    guests.mount(); // what is to be deleted is there
  }
}

/** A file system in a file, read past the memory of the one it is on: once it is unmounted nothing of it is in memory. */
class Disk {
  readonly #namespace: MountNamespace;
  readonly #file: string;
  readonly #at: string;
  #device = '';

  constructor(namespace: MountNamespace, file: string, at: string) {
    this.#namespace = namespace;
    this.#file = file;
    this.#at = at;
    run('truncate', ['-s', String(DISK_BYTES), file]);
    run('mkfs.ext4', ['-q', '-F', '-E', 'lazy_itable_init=0,lazy_journal_init=0', file]); // nobody writes later
  }

  mount(): void {
    if (this.#device !== '') return;
    this.#device = run('losetup', ['--find', '--show', '--direct-io=on', this.#file]).trim();
    try {
      this.#namespace.run('mount', this.#device, this.#at);
    } finally {
      run('losetup', ['--detach', this.#device]); // once nobody has it mounted
    }
  }

  /** Requests that it was asked to read. */
  requests(): number {
    return Number(/\d+/.exec(readFileSync(`${this.#sysfs()}/stat`, 'utf8'))?.[0]);
  }

  /** The kernel gives mounts up a moment after their users' end: only then is nothing in memory. */
  unmount(): void {
    this.#until(() => this.#namespace.run('umount', this.#at));
    this.#until(() => {
      if (run('losetup', ['--noheadings', '--associated', this.#file]).trim() !== '')
        throw new Error('is in use');
    });
    this.#device = '';
  }

  #sysfs(): string {
    return `/sys/block/${basename(this.#device)}`;
  }

  #until(attempt: () => void): void {
    for (let i = 1; ; i++) {
      try {
        attempt();
        return;
      } catch (error) {
        if (i === TRIES) throw error;
        run('sleep', ['0.02']);
      }
    }
  }
}
