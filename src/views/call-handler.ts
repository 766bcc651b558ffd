/**
 * What a guest's broker does when a process asks for memory, load or CPUs by a system call: it answers with the guest's
 * own (answers.ts), written into the caller's memory. What cannot be told so, the kernel answers as it would anyway.
 */
import { type AskedCall, planAnswer, planGoOn, planUnlessCall } from '../sys/asked-call.ts';
import { planNumberPath } from '../sys/number-path.ts';
import type { Data, Label, Program, Result } from '../sys/program.ts';
import type { AnswersLayout } from './answers.ts';

/** Descriptors that a broker has for it. */
export interface AnswersDescriptors {
  /** The file of answers, opened so that it is not waited for. */
  readonly file: number;
  /** The guest's pid namespace, where the kernel has a descriptor for it. */
  readonly pidNamespace: number;
  readonly layout: AnswersLayout;
}

/** Linux 6.11, linux/nsfs.h: _IOR(0xb7, 6, int), the number here of a process there. */
const NS_GET_PID_FROM_PIDNS = 0x8004_b706;
/** No kernel has more CPUs (CONFIG_NR_CPUS of x86: 8192), nor writes more of them than it has. */
const CPUS_MAX_BYTES = 1024;
/** Lengths below: whoever gives more room than any program does gets the kernel's answer. */
const LENGTH_LIMIT = 0x4000;
const UINT32 = 0x1_0000_0000;
/** Bytes of a pointer, and of a word of CPUs. */
const LONG = 8;

/** Adds the steps that answer sysinfo(2) and sched_getaffinity(2). Other calls fall through. */
export function planOwnMeasure(h: Program, call: AskedCall, has: AnswersDescriptors): void {
  const [other, affinity, write, goOn] = [h.label(), h.label(), h.label(), h.label()];
  const text = h.data(has.layout.bytes, '<answers>');
  const out: Out = {
    from: h.data(LONG, '<from>'),
    length: h.data(LONG, '<length>'),
    to: h.data(LONG, '<to>'),
    value: h.data(LONG, '<value>'),
  };
  planUnlessCall(h, call, 'sysinfo', affinity);
  planSysinfo(h, call, has, { text, out, write, goOn });
  h.place(affinity);
  planUnlessCall(h, call, 'sched_getaffinity', other);
  planAffinity(h, call, has, { text, out, write, goOn });
  h.place(write);
  planWriteOut(h, call, out, goOn);
  h.place(goOn);
  planGoOn(h, call);
  h.place(other);
}

/** Places in the handler's data: what is written into the caller's memory, and the call's result. */
interface Out {
  readonly from: Data;
  readonly length: Data;
  readonly to: Data;
  readonly value: Data;
}

/** What both calls share. */
interface Answering {
  /** Where the answers are read to. */
  readonly text: Data;
  readonly out: Out;
  /** Where what is in `out` is written. */
  readonly write: Label;
  /** Where the kernel is left to answer. */
  readonly goOn: Label;
}

function planSysinfo(
  h: Program,
  call: AskedCall,
  { file, layout: { native, compat } }: AnswersDescriptors,
  { text, out, write, goOn }: Answering,
): void {
  const of32bit = h.label();
  planReadAnswers(h, file, text, goOn);
  h.store(out.to, call.argument(0), LONG);
  h.store(out.value, 0, LONG);
  for (const { at, bytes, next } of [
    { ...native, next: of32bit },
    { ...compat, next: undefined },
  ]) {
    const about = 'a 64-bit program';
    if (next) h.expect(call.arch(), '==', h.abi.auditArch | 0, 'EINVAL', about, { otherwise: next });
    h.store(out.from, addressOf(h, text.at(at, bytes)), LONG);
    h.store(out.length, bytes, LONG);
    h.jump(write);
    if (next) h.place(next);
  }
}

/** Loads where something is in the broker's memory. */
function addressOf(h: Program, target: Data): Result {
  const pointer = h.data(LONG, '<address>');
  h.pointer(pointer, target);
  return h.load(pointer, LONG);
}

/**
 * Who runs on all CPUs that the guest may use is told those that the guest sees. Who chose some of them itself, or was
 * given some, is told those, by the kernel.
 */
function planAffinity(
  h: Program,
  call: AskedCall,
  { file, pidNamespace, layout: { cpuBytes, allowedCpus, visibleCpus } }: AnswersDescriptors,
  { text, out, goOn }: Answering,
): void {
  const [itself, known] = [h.label(), h.label()];
  const length = call.argument(1);
  const refused = { otherwise: { on: [], to: goOn } };
  h.expect(length, '&', 0, 'EINVAL', 'a length', { mask: UINT32 - LENGTH_LIMIT, otherwise: goOn });
  const pid = h.data(4, '<pid>');
  const asked = call.int(0);
  h.expect(asked, '!=', 0, 'ESRCH', 'another', { otherwise: itself });
  h.store(pid, h.sys('ioctl', [pidNamespace, NS_GET_PID_FROM_PIDNS, asked], refused));
  h.jump(known);
  h.place(itself);
  h.store(pid, call.caller());
  h.place(known);
  const cpus = h.data(CPUS_MAX_BYTES, '<CPUs>');
  const written = h.sys('sched_getaffinity', [h.load(pid), length, cpus], refused);
  planReadAnswers(h, file, text, goOn);
  h.expectBytes(cpus.at(0, cpuBytes), text.at(allowedCpus, cpuBytes), 'EINVAL', 'all CPUs', goOn);
  for (let at = 0; at < cpuBytes; at += LONG)
    h.store(cpus.at(at, LONG), h.load(text.at(visibleCpus + at, LONG), LONG), LONG);
  h.store(out.from, addressOf(h, cpus), LONG);
  h.store(out.length, written, LONG);
  h.store(out.to, call.argument(2), LONG);
  h.store(out.value, written, LONG);
}

function planReadAnswers(h: Program, file: number, text: Data, goOn: Label): void {
  const about = 'answers';
  const read = h.sys('pread64', [file, text, text.length, 0], { about, otherwise: { on: [], to: goOn } });
  h.expect(read, '==', text.length, 'EIO', about, { otherwise: goOn });
}

/**
 * Writes into the caller's memory, and ends the call. The memory is opened first and the call looked at then: as long as it
 * is there its caller is, whose number cannot have become another's.
 */
function planWriteOut(h: Program, call: AskedCall, out: Out, goOn: Label): void {
  const [closed, gone, fault] = [h.label(), h.label(), h.label()];
  const about = "the caller's memory";
  const path = planNumberPath(h, '/proc/', call.caller());
  const directory = h.sys('openat', [h.flags('AT_FDCWD'), path, h.flags('O_PATH', 'O_CLOEXEC'), 0], {
    about,
    otherwise: { on: [], to: goOn },
  });
  const memory = h.sys('openat', [directory, 'mem', h.flags('O_WRONLY', 'O_CLOEXEC'), 0], {
    about,
    otherwise: { on: [], to: closed },
  });
  h.sys('close', [directory]);
  const id = h.data(LONG, '<id>');
  h.store(id, call.id, LONG);
  h.sys('ioctl', [call.listener, h.flags('SECCOMP_IOCTL_NOTIF_ID_VALID'), id], {
    about: 'still there',
    otherwise: { on: [], to: gone },
  });
  const length = h.load(out.length, LONG);
  const written = h.sys('pwrite64', [memory, h.load(out.from, LONG), length, h.load(out.to, LONG)], {
    about,
    ignore: [],
  });
  h.sys('close', [memory]);
  h.expect(written, '==', length, 'EFAULT', about, { otherwise: fault });
  planAnswer(h, call, { value: h.load(out.value, LONG) });
  h.place(fault);
  planAnswer(h, call, { error: -(h.abi.errnos['EFAULT'] ?? 14) });
  h.place(gone);
  h.sys('close', [memory]);
  h.jump(call.end);
  h.place(closed);
  h.sys('close', [directory]);
  h.jump(goOn);
}
