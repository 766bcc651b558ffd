/**
 * vserverd's end of the control socket: runs programs, signals processes, talks to clients, hears what happens.
 */
import { Socket } from 'node:net';
import { SysError } from '../base/errors.ts';
import { type Abi, errnoName } from './abi.ts';
import type { EncodedProgram, Result, Runnable, StepNames } from './program.ts';
import { numberOf } from './varying.ts';
import {
  DOWN,
  encodeFrame,
  type Frame,
  FrameReader,
  type Hello,
  intAt,
  ints,
  longAt,
  OBJECT_KIND,
  parseHello,
  UP,
} from './wire.ts';

/** Something syscalld holds, as its snapshot tells it. */
export interface HeldObject {
  readonly id: number;
  readonly kind: number;
  readonly pid: number;
  /** Wait status, if the process has ended while nobody listened; -1: unknown. */
  readonly waitStatus: number | undefined;
}

/** What a program gave back. */
export interface RunOutcome {
  /** The value a step returned. */
  result(step: Result): number;
  /** The slice the program said it returns. */
  readonly out: Buffer;
}

/** What syscalld tells without being asked. */
export interface SyscalldEvents {
  /** A process ended. `waitStatus` as wait(2) gives it; -1 when it was no child of syscalld. */
  exited(object: number, waitStatus: number): void;
  /** The command of a process 1 ended, and the client that waited for it has its exit code; the rest is still going. */
  ending(object: number): void;
  clientOpened(client: number, hello: Hello): void;
  clientSignalled(client: number, signal: number): void;
  clientClosed(client: number): void;
  /** The client gave its terminal back; `master` is the object that holds it. */
  clientDetached(client: number, master: number): void;
  /** syscalld is gone: nothing more will come. */
  lost(): void;
}

/** A step of a program failed: which, and with what. */
export class StepError extends SysError {
  /** Index of the step; -1: syscalld has not begun the program. */
  readonly stepIndex: number;
  /** Name of the call or pseudo call. */
  readonly call: string;

  constructor(what: string, abi: Abi, stepNames: StepNames, index: number, errno: number) {
    const name = stepNames.at(index) ?? 'begin';
    const errnoText = errnoName(abi, errno);
    super(
      'program-failed',
      index < 0 && errnoText === 'EAGAIN'
        ? `cannot ${what}: found no room for another worker; need fewer guests, or a higher limit of open files or processes ` +
            'for syscalld: see `vserver check`'
        : `cannot ${what}: ${name}: ${errnoText} (step ${index + 1} of ${stepNames.length})`,
      {
        syscall: name.split(' ')[0] ?? name,
        errno,
        errnoName: errnoText,
        step: name,
      },
    );
    this.stepIndex = index;
    this.call = name.split(' ')[0] ?? name;
  }
}

interface PendingRun {
  readonly what: string;
  readonly program: EncodedProgram;
  readonly resolve: (outcome: RunOutcome) => void;
  readonly reject: (error: unknown) => void;
}

/** The connection to syscalld. */
export class Syscalld {
  readonly abi: Abi;
  readonly #socket: Socket;
  readonly #reader = new FrameReader();
  readonly #runs = new Map<number, PendingRun>();
  readonly #acks = new Map<number, (() => void)[]>();
  readonly #snapshot: HeldObject[] = [];
  #events: SyscalldEvents | undefined;
  #ready: ((snapshot: { objects: readonly HeldObject[]; pid: number }) => void) | undefined;
  #isLost = false;
  /** What each parked worker has run, names of the steps: a child of it may fail when its program is over. */
  readonly #parked = new Map<number, StepNames[]>();
  readonly #childFailures = new Map<number, { readonly stepNames: StepNames; step: number; errno: number }>();
  #nextRun = 1;
  #nextObject = 1;

  /** `channel`: the control socket, or its descriptor. */
  constructor(abi: Abi, channel: number | Socket) {
    this.abi = abi;
    this.#socket = typeof channel === 'number' ? this.#open(channel) : channel;
    this.#socket.on('data', (chunk: Buffer) => this.#read(chunk)); // none where one buffer takes all of it
    this.#socket.on('error', () => this.#lost());
    this.#socket.on('close', () => this.#lost());
  }

  /** One buffer for all that comes: libuv would take 64 KiB for each read, and the kernel clear them. */
  #open(fd: number): Socket {
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
    const callback = (length: number): boolean => {
      this.#read(buffer.subarray(0, length));
      return true;
    };
    return new Socket({ fd, readable: true, writable: true, onread: { buffer, callback } });
  }

  #read(chunk: Buffer): void {
    for (const frame of this.#reader.push(chunk)) this.#handle(frame);
  }

  /** Says that vserverd serves, and returns what syscalld holds. Events come from now on. */
  async ready(events: SyscalldEvents): Promise<{ objects: readonly HeldObject[]; pid: number }> {
    this.#events = events;
    return await new Promise((resolve) => {
      this.#ready = resolve;
      this.#send(DOWN.ready, 0);
    });
  }

  /** Returns an id for an object that a program will make. */
  newObject(): number {
    return this.#nextObject++;
  }

  /** Runs a program in a fresh worker, or in a parked one. `what` completes "cannot …" if it fails. */
  async run(what: string, program: Runnable, worker = 0): Promise<RunOutcome> {
    const encoded = program.encode();
    const id = this.#nextRun++;
    return await new Promise((resolve, reject) => {
      if (this.#isLost) throw lostError(what);
      this.#runs.set(id, { what, program: encoded, resolve, reject });
      this.#remember(worker, numberOf(program.park), encoded.stepNames);
      const head = ints(worker, encoded.imports.length, ...encoded.imports.flat());
      this.#send(DOWN.run, id, [head], encoded);
    });
  }

  #remember(worker: number, park: number, stepNames: StepNames): void {
    const ran = this.#parked.get(worker);
    if (ran) ran.push(stepNames);
    else if (park !== 0) this.#parked.set(park, [stepNames]);
  }

  /**
   * Returns the failure of a child of a worker's that came when the program which spawned it was over, the first one;
   * undefined if there is none. Known before anything that comes of it, the child's end above all, is told.
   */
  childFailure(what: string, worker: number): StepError | undefined {
    const failure = this.#childFailures.get(worker);
    return failure && new StepError(what, this.abi, failure.stepNames, failure.step, failure.errno);
  }

  /** Forgets an object and closes its descriptor; a process is still reaped. */
  drop(object: number): void {
    this.#forget(object, DOWN.drop);
  }

  /** Gives a parked worker to any program to come: what it ran has left nothing behind but descriptors, which it closes. */
  free(worker: number): void {
    this.#forget(worker, DOWN.free);
  }

  #forget(object: number, how: number): void {
    this.#parked.delete(object);
    this.#childFailures.delete(object);
    this.#send(how, object);
  }

  /** Signals a process; nothing happens if it has ended. */
  signal(object: number, signal: number): void {
    this.#send(DOWN.signal, object, [ints(signal)]);
  }

  /** Writes to a client's stdout (1) or stderr (2); resolves when the client has written it or is gone. */
  async clientOut(client: number, fd: 1 | 2, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length && !this.#isLost; at += CHUNK_BYTES) {
      await new Promise<void>((resolve) => {
        const waiting = this.#acks.get(client) ?? [];
        waiting.push(resolve);
        this.#acks.set(client, waiting);
        this.#send(DOWN.clientOut, client, [ints(fd), bytes.subarray(at, at + CHUNK_BYTES)]);
      });
    }
  }

  /** Ends a client with an exit code. */
  clientExit(client: number, code: number): void {
    this.#send(DOWN.clientExit, client, [ints(code)]);
  }

  /** From now on the client shares the fate of a process: its signals and its exit code pass without vserverd. */
  bind(client: number, process: number): void {
    this.#send(DOWN.bind, client, [ints(process)]);
  }

  /** Makes a log of two pipes (0: none), which move into it: records in `path` and an older file, `maxBytes` together. */
  log(object: number, path: string, maxBytes: number, stdout: number, stderr: number): void {
    const size = Buffer.from(BigUint64Array.of(BigInt(maxBytes)).buffer);
    this.#send(DOWN.log, object, [size, ints(stdout, stderr), Buffer.from(`${path}\0`)]);
  }

  /** syscalld ends when vserverd does. */
  shutdown(): void {
    this.#send(DOWN.shutdown, 0);
    this.#socket.uncork(); // at once: the caller may end in the same breath
  }

  /** Sends a frame; the program, if there is one, is the end of its body. */
  #send(type: number, id: number, parts: readonly Uint8Array[] = [], program?: EncodedProgram): void {
    if (this.#socket.writableCorked === 0) {
      // What is sent in one breath goes out in one call: each wakes syscalld. While workers have enough to do, a breath is all
      // that comes of what was heard at a time; else the first of two programs is run while the second is made.
      this.#socket.cork();
      const flush = (): void => this.#socket.uncork();
      if (this.#runs.size > BUSY_RUNS) setImmediate(flush);
      else queueMicrotask(flush);
    }
    this.#socket.write(encodeFrame(type, id, parts, program?.bytes.length));
    if (program)
      this.#socket.write(program.bytes, () => {
        program.release();
      });
  }

  #lost(): void {
    if (this.#isLost) return;
    this.#isLost = true;
    const runs = [...this.#runs.values()];
    const acks = [...this.#acks.values()].flat();
    this.#runs.clear();
    this.#acks.clear();
    for (const { what, reject } of runs) reject(lostError(what));
    for (const resolve of acks) resolve();
    this.#events?.lost();
  }

  #handle(frame: Frame): void {
    const { type, id, body } = frame;
    switch (type) {
      case UP.object: {
        this.#snapshot.push({
          id,
          kind: intAt(body, 0),
          pid: intAt(body, 1),
          waitStatus: intAt(body, 2) ? intAt(body, 3) : undefined,
        });
        if (id < FIRST_OWN_ID) this.#nextObject = Math.max(this.#nextObject, id + 1);
        break;
      }
      case UP.snapshotEnd:
        this.#ready?.({ objects: this.#snapshot.splice(0), pid: intAt(body, 0) });
        break;
      case UP.done:
        this.#done(id, body);
        break;
      case UP.childFailed: {
        const [serial, step, errno] = [intAt(body, 0), intAt(body, 1), intAt(body, 2)];
        const stepNames = this.#parked.get(id)?.[serial - 1];
        if (stepNames && !this.#childFailures.has(id))
          this.#childFailures.set(id, { stepNames, step, errno });
        break;
      }
      case UP.exit:
        this.#events?.exited(id, intAt(body, 0));
        break;
      case UP.ending:
        this.#events?.ending(id);
        break;
      case UP.clientOpen:
        this.#events?.clientOpened(id, parseHello(body));
        break;
      case UP.clientAck:
        this.#acks.get(id)?.shift()?.();
        break;
      case UP.clientSignal:
        this.#events?.clientSignalled(id, intAt(body, 0));
        break;
      case UP.clientClose:
        for (const resolve of this.#acks.get(id) ?? []) resolve();
        this.#acks.delete(id);
        this.#events?.clientClosed(id);
        break;
      case UP.clientDetach:
        this.#events?.clientDetached(id, intAt(body, 0) >>> 0);
        break;
      default:
        break;
    }
  }

  #done(id: number, body: Buffer): void {
    const run = this.#runs.get(id);
    this.#runs.delete(id);
    if (run === undefined) return;
    const [step, errno, count] = [intAt(body, 0), intAt(body, 1), intAt(body, 3)];
    if (errno !== 0) {
      run.reject(new StepError(run.what, this.abi, run.program.stepNames, step, errno));
      return;
    }
    const copy = Buffer.from(body);
    run.resolve({
      result: ({ number }) => longAt(copy, 16 + 8 * number),
      out: copy.subarray(16 + 8 * count),
    });
  }
}

function lostError(what: string): SysError {
  return new SysError('syscalld-lost', `cannot ${what}: found syscalld gone`, {
    syscall: 'recv',
    errno: 104,
    errnoName: 'ECONNRESET',
  });
}

/** Ids from here on are syscalld's own (native/daemon.h). */
const FIRST_OWN_ID = 0x80000000;
const CHUNK_BYTES = 64 * 1024;
const READ_BYTES = 64 * 1024;
/** Programs under way that keep workers busy. */
const BUSY_RUNS = 4;

/** Whether a held object is a process. */
export function isProcess(object: HeldObject): boolean {
  return object.kind === OBJECT_KIND.process;
}
