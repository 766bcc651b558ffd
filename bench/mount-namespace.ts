/** A mount namespace of the bench's own: what is mounted there nobody else sees, and it goes with it. */
import { run } from './native-programs.ts';

/** Holds the namespace; disposing it unmounts what is mounted there once nothing runs in it. */
export class MountNamespace implements Disposable {
  /** Words before a command that runs there. */
  readonly words: readonly string[];
  readonly #pid: number;

  constructor() {
    // The holder keeps the pipe open until it is in its namespace: then this call returns.
    const held = `unshare --mount sh -c 'echo $$; exec sleep 86400 >/dev/null 2>&1' &`;
    this.#pid = Number(run('sh', ['-c', held]));
    this.words = ['nsenter', `--mount=/proc/${this.#pid}/ns/mnt`];
  }

  /** Runs a command there; throws unless it ends with 0. */
  run(...words: readonly string[]): string {
    const [program = '', ...rest] = [...this.words, ...words];
    return run(program, rest);
  }

  /** Mounts a plain overlay over a directory of the host, as other containers have their root; returns where it is. */
  overlay(lower: string, place: string): string {
    const [upper, work, merged] = ['upper', 'work', 'merged'].map((name) => `${place}/${name}`);
    this.run('mkdir', '-p', `${upper}`, `${work}`, `${merged}`);
    const options = `lowerdir=${lower},upperdir=${upper},workdir=${work},index=off`;
    this.run('mount', '-t', 'overlay', '-o', options, 'overlay', `${merged}`);
    return `${merged}`;
  }

  [Symbol.dispose](): void {
    process.kill(this.#pid, 'SIGKILL');
  }
}
