/**
 * The four kinds of failure, and how one travels as JSON.
 *
 * A message reads `cannot <verb> <object>: <what was found>; <what is needed>`. A code is a stable kebab-case
 * word; `src/api/error-codes.ts` is the catalogue that gives each its HTTP status, exit code and meaning.
 */

/** What every error of this project may carry beside its code and message. */
export interface ErrorOptions {
  /** The failure this one was made from. */
  readonly cause?: unknown;
  /** What the user can do about it, one clause. */
  readonly hint?: string | undefined;
  /** Facts for programs: JSON values only. */
  readonly details?: Readonly<Record<string, unknown>> | undefined;
}

/** Carries a stable code beside the message; thrown only as one of its subclasses. */
export abstract class VserverError extends Error {
  readonly code: string;
  readonly hint?: string;
  readonly details?: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    if (options.hint !== undefined) this.hint = options.hint;
    if (options.details !== undefined) this.details = options.details;
  }
}

/** Reports bad input: the caller has to ask differently. Shown without a stack. */
export class UserError extends VserverError {}

/** Reports a legal request at the wrong moment; the message says the current and the needed state. */
export class StateError extends VserverError {}

/** Reports a broken invariant of our own: shown with a stack and a request to report it. */
export class BugError extends VserverError {}

/** What the kernel said, and to which call. */
export interface SysErrorOptions extends ErrorOptions {
  /** Name of the system call, as in section 2 of the manual. */
  readonly syscall: string;
  /** Positive error number; numbers differ between architectures, so the name travels with it. */
  readonly errno: number;
  /** Name of the error number, for example `EINVAL`. */
  readonly errnoName: string;
  /** Name of the program's step that failed. */
  readonly step?: string | undefined;
  /** File the call was about. */
  readonly path?: string | undefined;
}

/**
 * Reports that the kernel refused a call.
 *
 * The message is completed with the errno's name, the call and the step, unless it names the errno already:
 * `cannot mount "/proc"` becomes `cannot mount "/proc": EPERM (mount, step mount-proc)`.
 */
export class SysError extends VserverError {
  readonly syscall: string;
  readonly errno: number;
  readonly errnoName: string;
  readonly step?: string;
  readonly path?: string;

  constructor(code: string, message: string, options: SysErrorOptions) {
    const where = options.step === undefined ? options.syscall : `${options.syscall}, step ${options.step}`;
    const full = message.includes(options.errnoName)
      ? message
      : `${message}: ${options.errnoName} (${where})`;
    super(code, full, options);
    this.syscall = options.syscall;
    this.errno = options.errno;
    this.errnoName = options.errnoName;
    if (options.step !== undefined) this.step = options.step;
    if (options.path !== undefined) this.path = options.path;
  }
}

/** Which class an error is rebuilt as; `other` is a plain `Error` that is not of this project. */
export type ErrorKind = 'user' | 'state' | 'sys' | 'bug' | 'other';

/** One error as JSON. Stacks stay behind: they belong in the log of the process that threw. */
export interface SerializedError {
  readonly kind: ErrorKind;
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
  readonly details?: Readonly<Record<string, unknown>>;
  readonly syscall?: string;
  readonly errno?: number;
  readonly errnoName?: string;
  readonly step?: string;
  readonly path?: string;
  readonly cause?: SerializedError;
  /** Failures beside this one: parts of an `AggregateError`, or undo steps that failed while this one was handled. */
  readonly errors?: readonly SerializedError[];
}

/** A chain longer than this is cut: causes may form a ring, and bytes from a peer may nest without end. */
const MAX_CAUSES = 16;
const MAX_ERRORS = 32;

/**
 * Finds the failure that came first.
 *
 * `await using` wraps what a block threw into a `SuppressedError` when a disposal fails as well; its outermost `error`
 * is then the clean-up's, while the one the user asked about is the innermost `suppressed`.
 */
export function primaryError(error: unknown): unknown {
  let primary = error;
  for (let depth = 0; primary instanceof SuppressedError && depth < MAX_CAUSES; depth++) {
    primary = primary.suppressed;
  }
  return primary;
}

/** Turns anything thrown into JSON, with its chain of causes (at most 16). */
export function serializeError(error: unknown): SerializedError {
  return serialize(error, 0);
}

function serialize(error: unknown, depth: number): SerializedError {
  const primary = primaryError(error);
  const beside = suppressing(error);
  if (primary instanceof AggregateError) beside.push(...primary.errors);
  const nested = depth + 1 < MAX_CAUSES;
  const cause = primary instanceof Error ? primary.cause : undefined;
  return {
    ...ownFields(primary),
    ...(cause !== undefined && nested ? { cause: serialize(cause, depth + 1) } : {}),
    ...(beside.length > 0 && nested
      ? { errors: beside.slice(0, MAX_ERRORS).map((one) => serialize(one, depth + 1)) }
      : {}),
  };
}

function suppressing(error: unknown): unknown[] {
  const found: unknown[] = [];
  let next = error;
  while (next instanceof SuppressedError && found.length < MAX_CAUSES) {
    found.push(next.error);
    next = next.suppressed;
  }
  return found;
}

function ownFields(error: unknown): SerializedError {
  if (error instanceof VserverError) {
    return {
      kind: kindOf(error),
      code: error.code,
      message: error.message,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
      ...(error.details === undefined ? {} : { details: error.details }),
      ...(error instanceof SysError
        ? {
            syscall: error.syscall,
            errno: error.errno,
            errnoName: error.errnoName,
            ...(error.step === undefined ? {} : { step: error.step }),
            ...(error.path === undefined ? {} : { path: error.path }),
          }
        : {}),
    };
  }
  if (!(error instanceof Error)) return { kind: 'other', code: 'unknown', message: String(error) };
  // Node's own errors carry a code such as 'ENOENT' or 'ERR_SOCKET_CLOSED'.
  const code = 'code' in error && typeof error.code === 'string' ? error.code : 'unknown';
  return { kind: 'other', code, message: error.message };
}

function kindOf(error: VserverError): ErrorKind {
  if (error instanceof UserError) return 'user';
  if (error instanceof StateError) return 'state';
  return error instanceof SysError ? 'sys' : 'bug';
}

/**
 * Rebuilds an error from JSON with the class it had; fields of a wrong type are dropped.
 *
 * @param value what `serializeError` returned, after a trip through JSON; never trusted
 */
export function deserializeError(value: unknown): Error {
  return deserialize(value, 0);
}

function deserialize(value: unknown, depth: number): Error {
  const fields = isRecord(value) ? value : {};
  const message = stringOf(fields['message']) ?? 'unknown error';
  const code = stringOf(fields['code']) ?? 'unknown';
  const nested = depth + 1 < MAX_CAUSES;
  const cause = isRecord(fields['cause']) && nested ? deserialize(fields['cause'], depth + 1) : undefined;
  const options: ErrorOptions = {
    cause,
    hint: stringOf(fields['hint']),
    details: isRecord(fields['details']) ? fields['details'] : undefined,
  };
  const error = rebuild(fields, code, message, options);
  const beside = Array.isArray(fields['errors']) && nested ? fields['errors'].slice(0, MAX_ERRORS) : [];
  return beside.reduceRight<Error>(
    (suppressed, one) => new SuppressedError(deserialize(one, depth + 1), suppressed, message),
    error,
  );
}

function rebuild(
  fields: Readonly<Record<string, unknown>>,
  code: string,
  message: string,
  options: ErrorOptions,
): Error {
  switch (fields['kind']) {
    case 'user':
      return new UserError(code, message, options);
    case 'state':
      return new StateError(code, message, options);
    case 'bug':
      return new BugError(code, message, options);
    case 'sys':
      return new SysError(code, message, {
        ...options,
        syscall: stringOf(fields['syscall']) ?? 'unknown',
        errno: typeof fields['errno'] === 'number' ? fields['errno'] : 0,
        errnoName: stringOf(fields['errnoName']) ?? '',
        step: stringOf(fields['step']),
        path: stringOf(fields['path']),
      });
    default:
      return new Error(message, options.cause === undefined ? undefined : { cause: options.cause });
  }
}

function stringOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
