/** Several things at once, whose events are read as if they had been one after the other. */

/** Something under way. Its events wait until they are read; it ends whether or not anybody reads. */
export interface Run<Event> {
  readonly events: AsyncIterable<Event>;
  readonly ended: Promise<unknown>;
}

/**
 * The events of a run of each item, in the order of the items. The first `lanes` runs start when the first of these is
 * read, and from then on one whenever another has ended.
 */
export function inLanes<Item, Event>(
  items: readonly Item[],
  lanes: number,
  start: (item: Item) => Run<Event>,
): readonly AsyncGenerator<Event>[] {
  const runs = items.map((item) => ({ item, started: Promise.withResolvers<Run<Event>>() }));
  const waiting = runs.values();
  const work = async (): Promise<void> => {
    for (const { item, started } of waiting) {
      const run = start(item);
      started.resolve(run);
      await run.ended;
    }
  };
  let isUnderWay = false;
  return runs.map(async function* ({ started }) {
    if (!isUnderWay) {
      isUnderWay = true;
      for (let lane = 0; lane < lanes; lane++) void work();
    }
    yield* (await started.promise).events;
  });
}
