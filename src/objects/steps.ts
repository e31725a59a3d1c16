/** A step of a checkpoint or restart, as it begins or ends. */
export interface StepEvent {
  readonly step: string;
  readonly state: 'begin' | 'end';
  /** How long it took, with 'end'; milliseconds. */
  readonly milliseconds?: number;
}

/** How long a step took. */
export interface StepTime {
  readonly step: string;
  readonly milliseconds: number;
}

/** Runs the steps of a story: tells of each, takes its time, and stops between two when asked to. */
export class Steps {
  readonly times: StepTime[] = [];

  constructor(
    private readonly onStep: ((event: StepEvent) => void) | undefined,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** Runs a step. Throws the signal's reason when it was aborted before. */
  run<T>(step: string, work: () => T): T {
    const begin = this.begin(step);
    const result = work();
    this.end(step, begin);
    return result;
  }

  /** As {@link run}, for a step that returns to the event loop now and then. */
  async runAsync<T>(step: string, work: () => Promise<T>): Promise<T> {
    const begin = this.begin(step);
    const result = await work();
    this.end(step, begin);
    return result;
  }

  /** Lets the event loop run, so that an abort can arrive. Throws the signal's reason when it did. */
  async breathe(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.signal?.throwIfAborted();
  }

  private begin(step: string): number {
    this.signal?.throwIfAborted();
    this.onStep?.({ step, state: 'begin' });
    return performance.now();
  }

  private end(step: string, begin: number): void {
    const milliseconds = performance.now() - begin;
    this.times.push({ step, milliseconds });
    this.onStep?.({ step, state: 'end', milliseconds });
  }
}
