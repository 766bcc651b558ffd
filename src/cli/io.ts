import type { HistoryRecorder } from '../guest/history-recorder.ts';
import type { Manager } from '../guest/manager.ts';

/** What a verb has of its caller. */
export interface Io {
  /** Writes to the caller's stdout; resolves when that has taken it, or nobody reads any more. */
  out(text: string | Uint8Array): Promise<void>;
  /** Writes to the caller's stderr. */
  err(text: string | Uint8Array): Promise<void>;
  /** Which of the caller's stdin, stdout, stderr are terminals. */
  readonly tty: readonly [boolean, boolean, boolean];
  readonly columns: number;
  readonly rows: number;
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** Aborted when the caller is interrupted or gone. */
  readonly signal: AbortSignal;
  /** The caller as syscalld knows it, whose descriptors a guest's command can be given; undefined in a test. */
  readonly client: number | undefined;
}

/** The control plane, as `daemon` and `version` show and end it. */
export interface ControlPlane {
  readonly version: string;
  readonly vserverdPid: number;
  readonly syscalldPid: number;
  readonly startedAt: string;
  /** Ends vserverd and syscalld after the present verb; resolves when nothing is left of them on the host. Running guests are not touched. */
  shutdown(): Promise<void>;
}

/** What the verbs work on. */
export interface Services {
  readonly manager: Manager;
  readonly controlPlane: ControlPlane;
  readonly history: HistoryRecorder;
}

/** An exit code, or that the caller shares the fate of a process (`bind` of the wire): its exit code follows without us. */
export type VerbResult = number | 'bound';
