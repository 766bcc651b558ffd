/** Reads whole eBPF maps, a batch at a time. */
import type { Arg, Program } from '../program.ts';
import type { Syscalld } from '../syscalld.ts';
import { type BatchLayout, planLookupBatch } from './map.ts';

const POSITION_BYTES = 8;

/** Some elements of a map. */
export interface MapBatch {
  readonly out: Buffer;
  readonly layout: BatchLayout;
  /** How many there are. */
  readonly count: number;
}

/**
 * Yields a map's elements, `most` at a time (Linux 5.6).
 *
 * @param begin a program for a batch, and the map in it
 * @throws StepError
 */
export async function* readMap(
  syscalld: Syscalld,
  what: string,
  spec: { readonly keyBytes: number; readonly valueBytes: number },
  most: number,
  begin: () => { readonly p: Program; readonly map: Arg },
): AsyncGenerator<MapBatch> {
  for (let position: Uint8Array | undefined; ; ) {
    const { p, map } = begin();
    const layout = planLookupBatch(p, map, spec, most, { position });
    const { out } = await syscalld.run(what, p);
    const view = new DataView(out.buffer, out.byteOffset, out.length);
    const count = view.getUint32(layout.count, syscalld.abi.littleEndian);
    yield { out, layout, count };
    if (count < most) return;
    position = out.slice(layout.position, layout.position + POSITION_BYTES);
  }
}
