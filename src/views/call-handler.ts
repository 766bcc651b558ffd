/**
 * What a guest's broker does when a process asks for memory, load or CPUs by a system call: it answers with the guest's
 * own (answers.ts), written into the caller's memory. What cannot be told so, the kernel answers as it would anyway.
 */
import { type AskedCall, planAnswer, planGoOn, planUnlessCall } from '../sys/asked-call.ts';
import { planNumberPath } from '../sys/number-path.ts';
import type { Arg, Data, Label, Program, Result } from '../sys/program.ts';
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

/** Adds the steps that answer sysinfo(2) and sched_getaffinity(2). Other calls fall through. */
export function planOwnMeasure(h: Program, call: AskedCall, has: AnswersDescriptors): void {
  const [other, affinity, goOn] = [h.label(), h.label(), h.label()];
  const text = h.data(has.layout.bytes, '<answers>');
  planUnlessCall(h, call, 'sysinfo', affinity);
  planSysinfo(h, call, has, text, goOn);
  h.place(affinity);
  planUnlessCall(h, call, 'sched_getaffinity', other);
  planAffinity(h, call, has, text, goOn);
  h.place(goOn);
  planGoOn(h, call);
  h.place(other);
}

function planSysinfo(
  h: Program,
  call: AskedCall,
  { file, layout: { native, compat } }: AnswersDescriptors,
  text: Data,
  goOn: Label,
): void {
  const of32bit = h.label();
  const address = call.argument(0);
  planReadAnswers(h, file, text, goOn);
  h.expect(call.arch(), '==', h.abi.auditArch | 0, 'EINVAL', 'a 64-bit program', { otherwise: of32bit });
  planWriteOut(
    h,
    call,
    { bytes: text.at(native.at, native.bytes), length: native.bytes, address, value: 0 },
    goOn,
  );
  h.place(of32bit);
  planWriteOut(
    h,
    call,
    { bytes: text.at(compat.at, compat.bytes), length: compat.bytes, address, value: 0 },
    goOn,
  );
}

/**
 * Who runs on all CPUs that the guest may use is told those that the guest sees. Who chose some of them itself, or was
 * given some, is told those, by the kernel.
 */
function planAffinity(
  h: Program,
  call: AskedCall,
  { file, pidNamespace, layout: { cpuBytes, allowedCpus, visibleCpus } }: AnswersDescriptors,
  text: Data,
  goOn: Label,
): void {
  const [itself, known] = [h.label(), h.label()];
  const [length, address] = [call.argument(1), call.argument(2)];
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
  for (let at = 0; at < cpuBytes; at += 8)
    h.store(cpus.at(at, 8), h.load(text.at(visibleCpus + at, 8), 8), 8);
  planWriteOut(h, call, { bytes: cpus, length: written, address, value: written }, goOn);
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
function planWriteOut(
  h: Program,
  call: AskedCall,
  out: {
    readonly bytes: Data;
    readonly length: Result | number;
    readonly address: Arg;
    readonly value: Result | number;
  },
  goOn: Label,
): void {
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
  const id = h.data(8, '<id>');
  h.store(id, call.id, 8);
  h.sys('ioctl', [call.listener, h.flags('SECCOMP_IOCTL_NOTIF_ID_VALID'), id], {
    about: 'still there',
    otherwise: { on: [], to: gone },
  });
  const written = h.sys('pwrite64', [memory, out.bytes, out.length, out.address], { about, ignore: [] });
  h.sys('close', [memory]);
  h.expect(written, '==', out.length, 'EFAULT', about, { otherwise: fault });
  planAnswer(h, call, { value: out.value });
  h.place(fault);
  planAnswer(h, call, { error: -(h.abi.errnos['EFAULT'] ?? 14) });
  h.place(gone);
  h.sys('close', [memory]);
  h.jump(call.end);
  h.place(closed);
  h.sys('close', [directory]);
  h.jump(goOn);
}
