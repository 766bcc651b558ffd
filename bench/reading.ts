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
import { compare, median } from './statistics.ts';

const NANOSECONDS_IN_MS = 1e6;
const NANOSECONDS_IN_SECOND = 1e9;
const USER = 1000;
const NAMES = 'find / -xdev -size +1000000k 2>/dev/null';
const BYTES = 'find /usr -xdev -type f -print0 | xargs -0 cat >/dev/null';
const LARGE = 'cat /srv/large >/dev/null';
/** What is read often while all is in memory: words of a shell, and whose they are. */
const WARM = [
  ['names and attributes', `for i in 1 2 3 4 5; do ${NAMES}; done`, 0],
  ['names and attributes, for a user', `for i in 1 2 3 4 5; do ${NAMES}; done`, USER],
  ['bytes of all files', BYTES, 0],
  ['bytes of a large file', `for i in 1 2 3 4 5; do ${LARGE}; done`, 0],
] as const;
/** What is read once while nothing is. */
const COLD = [
  ['names and attributes', NAMES],
  ['bytes of all files', BYTES],
  ['bytes of a large file', LARGE],
] as const;
const DISK_BYTES = 4 * 2 ** 30;
const TRIES = 500;

/** Whose reads are measured, and how often each let the disk be asked. */
interface Reader {
  readonly name: string;
  readonly argv: (words: readonly string[], uid: number) => readonly string[];
  readonly nanoseconds: number[];
  readonly requests: number[];
}

function reader(name: string, argv: Reader['argv']): Reader {
  return { name, argv, nanoseconds: [], requests: [] };
}

function inTree(tree: string, before: readonly string[]): Reader['argv'] {
  return (words, uid) => [...before, 'chroot', `--userspec=${uid}:${uid}`, tree, ...words];
}

function inGuest(control: ControlPlane, guest: string): Reader['argv'] {
  return (words, uid) => control.argv('exec', '--user', String(uid), guest, ...words);
}

/** How long a shell's words take, by a clock there. */
function time({ argv, nanoseconds }: Reader, script: string): void {
  const words = ['sh', '-c', `begun=$(date +%s%N); ${script}; echo $(($(date +%s%N) - begun))`];
  const [program = '', ...rest] = argv(words, 0);
  nanoseconds.push(Number(run(program, rest)));
}

/** How much CPU time the programs of a shell's words take, as the shell counts it. */
function timeUsed({ argv, nanoseconds }: Reader, script: string, uid: number): void {
  const [program = '', ...rest] = argv(['bash', '-c', `${script}; times`], uid);
  const [, programs = ''] = run(program, rest).trim().split('\n');
  const seconds = [...programs.matchAll(/(\d+)m([\d.]+)s/g)].map(([, m, s]) => 60 * Number(m) + Number(s));
  nanoseconds.push(seconds.reduce((sum, one) => sum + one, 0) * NANOSECONDS_IN_SECOND);
}

function* compareReaders(what: string, [guest, host, overlay]: readonly Reader[]): Iterable<Result> {
  if (guest === undefined || host === undefined || overlay === undefined) return;
  const sample = ({ name, nanoseconds }: Reader) => ({ name, values: nanoseconds });
  const options = { unit: 'ms', perUnit: NANOSECONDS_IN_MS, isSpeed: true } as const;
  const subject = { name: `${what}, ${guest.name}`, values: guest.nanoseconds };
  yield compare(subject, sample(host), { ...options, target: { relation: 'at least', value: 0.95 } });
  yield compare(subject, sample(overlay), { ...options, target: { relation: 'at least', value: 1 } });
  yield compare({ name: `${what}, ${overlay.name}`, values: overlay.nanoseconds }, sample(host), options);
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
        timeUsed(one, script, uid);
        if (round < 0) one.nanoseconds.length = 0;
      }
    }
    yield* compareReaders(what, readers);
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
      for (const { of } of subjects) for (const list of [of.nanoseconds, of.requests]) list.length = 0;
      for (let round = 0; round < rounds; round++) {
        for (const { of, disk, begin, end } of round % 2 === 0 ? subjects : subjects.toReversed()) {
          disk.mount();
          const before = disk.requests();
          begin(); // what is read ahead from here on counts
          time(of, script);
          of.requests.push(disk.requests() - before);
          end();
          disk.unmount();
        }
      }
      const readers = subjects.map(({ of }) => of);
      yield* compareReaders(`${what}, not in memory`, readers);
      for (const { name, requests } of readers)
        yield {
          kind: 'figure',
          what: `${what}, ${name}: requests to the disk`,
          unit: '',
          value: median(requests),
          spread: undefined,
          target: undefined,
        };
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
    run('mkfs.ext4', ['-q', '-F', file]);
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
