/** One undo step that failed. */
export class UndoError extends Error {
  /** Name of the effect that could not be undone. */
  readonly step: string;

  constructor(step: string, cause: unknown) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    super(`cannot undo ${JSON.stringify(step)}: ${reason}`, { cause });
    this.name = 'UndoError';
    this.step = step;
  }
}

/**
 * Undoes effects in reverse order unless they are committed.
 *
 * ```ts
 * await using undo = new UndoStack();
 * await mkdir(path);
 * undo.defer('create directory', () => rmdir(path));   // right after the effect
 * …
 * undo.commit();                                       // success: nothing is undone
 * ```
 *
 * Differs from `AsyncDisposableStack` in that each step has a name and failures come as one flat `AggregateError` of
 * `UndoError`s instead of a nest of `SuppressedError`s. When the block itself threw, `await using` joins both into a
 * `SuppressedError`; `primaryError()` finds what the block threw.
 */
export class UndoStack implements AsyncDisposable {
  #steps: { readonly name: string; readonly undo: () => void | Promise<void> }[] = [];
  #isClosed = false;

  /** Remembers how to undo an effect that has just happened. Must be called right after it. */
  defer(name: string, undo: () => void | Promise<void>): void {
    if (this.#isClosed) throw new ReferenceError(`undo step ${JSON.stringify(name)} added to a closed stack`);
    this.#steps.push({ name, undo });
  }

  /** Keeps every effect: forgets all steps and closes the stack. */
  commit(): void {
    this.#steps = [];
    this.#isClosed = true;
  }

  /** Hands all steps to a new stack, whose owner then decides; closes this one. */
  move(): UndoStack {
    const moved = new UndoStack();
    moved.#steps = this.#steps;
    this.commit();
    return moved;
  }

  /**
   * Runs all steps, last first, each after the one before it has settled; a failing step does not stop the rest.
   *
   * @throws AggregateError of UndoError, after every step has run
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    const failures: UndoError[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.undo();
      } catch (error) {
        failures.push(new UndoError(step.name, error));
      }
    }
    if (failures.length > 0) {
      throw new AggregateError(failures, failures.map((failure) => failure.message).join('; '));
    }
  }
}
