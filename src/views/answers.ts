/**
 * What system calls of a guest are answered with where the guest is shown its own measure: the text of a file beside its
 * views that no guest has, which its broker reads (call-handler.ts).
 *
 *     struct sysinfo | the same of 32-bit programs | CPUs the guest may run on | CPUs it sees
 */
import { endianness } from 'node:os';
import type { CpuSample, LoadSample } from './sample.ts';

/** The file; another layout gets another number, as brokers outlive vserverd. */
export const ANSWERS_FILE = { number: 32, name: 'answers', holdMs: 50 } as const;

/** CPUs are told 64 at a time (cpumask_t). */
const WORD_BYTES = 8;
/** Places and sizes in the text; `cpuBytes` bytes for each set of CPUs. */
export interface AnswersLayout {
  readonly native: { readonly at: number; readonly bytes: number };
  readonly compat: { readonly at: number; readonly bytes: number };
  readonly cpuBytes: number;
  readonly allowedCpus: number;
  readonly visibleCpus: number;
  readonly bytes: number;
}

/** struct sysinfo (linux/sysinfo.h) and struct compat_sysinfo (kernel/sys.c). */
const NATIVE_BYTES = 112;
const COMPAT_BYTES = 64;
const SI_LOAD_SHIFT = 16;
/** The kernel tells 32-bit programs of more than fits in larger units, up to this one. */
const UNIT_MAX_BYTES = 4096;
const UINT32_MAX = 0xffff_ffff;
const UINT16_MAX = 0xffff;

/** Returns the layout on a machine that may have so many CPUs. */
export function answersLayout(cpus: number): AnswersLayout {
  const cpuBytes = Math.ceil(cpus / (8 * WORD_BYTES)) * WORD_BYTES;
  const allowedCpus = NATIVE_BYTES + COMPAT_BYTES;
  return {
    native: { at: 0, bytes: NATIVE_BYTES },
    compat: { at: NATIVE_BYTES, bytes: COMPAT_BYTES },
    cpuBytes,
    allowedCpus,
    visibleCpus: allowedCpus + cpuBytes,
    bytes: allowedCpus + 2 * cpuBytes,
  };
}

/** What sysinfo(2) tells of memory, in bytes. */
export interface SysinfoMemory {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly sharedBytes: number;
  readonly bufferBytes: number;
  readonly swapTotalBytes: number;
  readonly swapFreeBytes: number;
}

/** What the answers are made of. */
export interface AnswersSample {
  readonly memory: SysinfoMemory;
  readonly load: Pick<LoadSample, 'averages' | 'total'>;
  readonly cpu: Pick<CpuSample, 'cpus' | 'uptimeSeconds'>;
  /** Numbers of the CPUs the guest may run on. */
  readonly allowedCpus: readonly number[];
}

/** Returns the text, a byte of it in each character. */
export function formatAnswers(layout: AnswersLayout, sample: AnswersSample): string {
  const bytes = Buffer.alloc(layout.bytes);
  writeSysinfo(bytes, layout.native.at, 8, sample);
  writeSysinfo(bytes, layout.compat.at, 4, sample);
  for (const [at, cpus] of [
    [layout.allowedCpus, sample.allowedCpus],
    [layout.visibleCpus, sample.cpu.cpus],
  ] as const)
    writeCpus(bytes.subarray(at, at + layout.cpuBytes), cpus);
  return bytes.toString('latin1');
}

/** @param long its bytes */
function writeSysinfo(bytes: Buffer, start: number, long: 4 | 8, { memory, load, cpu }: AnswersSample): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start);
  const isLittle = endianness() === 'LE';
  let at = 0;
  const put = (value: number, size: 2 | 4 | 8): void => {
    at = Math.ceil(at / size) * size;
    if (size === 8) view.setBigUint64(at, BigInt(value), isLittle);
    else if (size === 4) view.setUint32(at, Math.min(value, UINT32_MAX), isLittle);
    else view.setUint16(at, Math.min(value, UINT16_MAX), isLittle);
    at += size;
  };
  let unit = 1;
  while (
    long === 4 &&
    Math.max(memory.totalBytes, memory.swapTotalBytes) / unit > UINT32_MAX &&
    unit < UNIT_MAX_BYTES
  )
    unit *= 2;
  put(Math.ceil(cpu.uptimeSeconds), long);
  for (const average of load.averages) put(Math.round(average * 2 ** SI_LOAD_SHIFT), long);
  for (const value of [
    memory.totalBytes,
    memory.freeBytes,
    memory.sharedBytes,
    memory.bufferBytes,
    memory.swapTotalBytes,
    memory.swapFreeBytes,
  ])
    put(Math.floor(value / unit), long);
  put(load.total, 2);
  for (const highBytes of [0, 0]) put(highBytes, long);
  put(unit, 4);
}

/** A bit for each CPU, in words of the machine. */
function writeCpus(bytes: Buffer, cpus: readonly number[]): void {
  const isLittle = endianness() === 'LE';
  for (const cpu of cpus) {
    const byte = Math.floor(cpu / 8);
    const at = isLittle ? byte : byte ^ (WORD_BYTES - 1);
    bytes[at] = (bytes[at] ?? 0) | (1 << (cpu % 8));
  }
}
