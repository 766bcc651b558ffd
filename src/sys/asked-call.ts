/** System calls that a filter asks a broker about (seccomp_unotify(2)), as steps of the broker's handler see them. */
import type { Data, Import, Label, Program, Result } from './program.ts';

const ARGUMENT_BYTES = 8;

/** One call; its caller waits. */
export interface AskedCall {
  /** Of the filter that asks. */
  readonly listener: Import | Result;
  /** struct seccomp_notif, as the kernel wrote it. */
  readonly request: Data;
  readonly id: Result;
  readonly nr: Result;
  /** Loads the caller's number in the broker's pid namespace: of a thread. */
  readonly caller: () => Result;
  /** Loads its AUDIT_ARCH, sign-extended. */
  readonly arch: () => Result;
  readonly argument: (index: number) => Result;
  /** Loads an argument that the kernel takes as an int. */
  readonly int: (index: number) => Result;
  /** Where the handler ends. */
  readonly end: Label;
}

/** Adds the steps that take a call; import 0 is the listener. Another one may have been withdrawn: then the handler ends. */
export function planTakeCall(h: Program): AskedCall {
  const listener = h.import(0);
  const request = h.struct('seccomp_notif', {});
  const end = h.label();
  // The kernel refuses one that is not all zero.
  for (let at = 0; at < request.length; at += 8) h.store(request.at(at, 8), 0, 8);
  // ENOENT: the caller was killed, or a signal came first and it will call again.
  h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_RECV'), request], {
    about: 'receive',
    otherwise: { on: ['ENOENT', 'EINTR'], to: end },
  });
  return askedCall(h, listener, request, end);
}

/** What a handler sees of a call that was taken, by another process perhaps. */
export function askedCall(
  h: Program,
  listener: Import | Result,
  request: Data,
  end: Label = h.label(),
): AskedCall {
  const data = h.field(request, 'seccomp_notif', 'data');
  const args = h.field(data, 'seccomp_data', 'args');
  return {
    listener,
    request,
    id: h.loadField(request, 'seccomp_notif', 'id'),
    nr: h.load(h.field(data, 'seccomp_data', 'nr').at(0, 4), 4),
    caller: () => h.loadField(request, 'seccomp_notif', 'pid'),
    arch: () => h.loadField(data, 'seccomp_data', 'arch'),
    int: (index) => h.load(args.at(ARGUMENT_BYTES * index + (h.abi.littleEndian ? 0 : 4), 4)),
    argument: (index) => h.load(args.at(ARGUMENT_BYTES * index, 8), 8),
    end,
  };
}

/** Adds the steps that go to a label unless the call is this one, of either ABI: no number means two of those asked about. */
export function planUnlessCall(h: Program, { nr }: AskedCall, name: string, other: Label): void {
  const numbers = [h.abi, h.abi.compat].flatMap((table) => table?.syscalls[name] ?? []);
  const found = h.label();
  for (const number of numbers.slice(0, -1)) h.expect(nr, '!=', number, 'EINVAL', name, { otherwise: found });
  h.expect(nr, '==', numbers.at(-1) ?? -1, 'EINVAL', name, { otherwise: other });
  h.place(found);
}

/** Adds the steps that end a call with a result, or with a negative errno. The handler ends there. */
export function planAnswer(
  h: Program,
  { listener, id, end }: AskedCall,
  answer: { readonly value: Result | number } | { readonly error: Result | number },
): void {
  const response = h.struct('seccomp_notif_resp', {});
  h.storeField(response, 'seccomp_notif_resp', 'id', id);
  if ('value' in answer) h.storeField(response, 'seccomp_notif_resp', 'val', answer.value);
  else h.storeField(response, 'seccomp_notif_resp', 'error', answer.error);
  h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_SEND'), response], { about: 'answer', ignore: [] });
  h.jump(end);
}

/** Adds the steps that let the kernel execute a call as if nobody had asked. The handler ends there. */
export function planGoOn(h: Program, { listener, id, end }: AskedCall): void {
  const response = h.struct('seccomp_notif_resp', { flags: h.flags('SECCOMP_USER_NOTIF_FLAG_CONTINUE') });
  h.storeField(response, 'seccomp_notif_resp', 'id', id);
  h.sys('ioctl', [listener, h.flags('SECCOMP_IOCTL_NOTIF_SEND'), response], { about: 'go on', ignore: [] });
  h.jump(end);
}
