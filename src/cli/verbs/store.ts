import { formatTable } from '../../base/text-table.ts';
import { formatSizeRounded } from '../../base/units.ts';
import type { StoreResult } from '../../storage/helper/tasks.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

const EXIT_FAILED = 1;

/** What `store` tells; `deletedImages` of `gc` only. */
interface StoreView extends StoreResult {
  readonly deletedImages: readonly string[];
}

/** `vserver store`: counts, checks or cleans what images share. */
export async function store(parsed: ParsedVerb<'store'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const { storage, snapshots, registry } = manager;
  const [action = 'stat'] = parsed.operands;
  await using progress = new Progress(io, parsed.global, `${action} of the store`);
  const { options } = progress;
  const view = await examine();
  progress.clear();
  const { dryRun } = parsed.options;
  await io.out(parsed.global.json ? formatJson(view) : formatStore(view, action === 'gc' && !dryRun));
  return view.faults.length === 0 ? 0 : EXIT_FAILED;

  async function examine(): Promise<StoreView> {
    if (action !== 'gc')
      return {
        ...(await storage.store.examine(action === 'check' ? 'check' : 'stat', options)),
        deletedImages: [],
      };
    const needed = (): ((image: string) => boolean) =>
      storage.isNeeded(
        (guest) => snapshots.list(guest).map(({ pin }) => pin),
        registry.list().map(({ config }) => config.template),
      );
    const { images, result } = await storage.store.collect(needed, parsed.options.dryRun, options);
    return { ...result, deletedImages: images };
  }
}

/** Formats what a store holds, one thing on a line. */
function formatStore(view: StoreView, wasCleaned: boolean): string {
  const { images, imageBytes, objects, objectBytes, apparentBytes, unusedObjects, unusedBytes, cacheBytes } =
    view;
  const size = formatSizeRounded;
  const rows = [
    ['images', String(images), size(imageBytes)],
    ['objects', String(objects), size(objectBytes)],
    ['files of all images', '', size(apparentBytes)],
    [wasCleaned ? 'deleted objects' : 'objects of no image', String(unusedObjects), size(unusedBytes)],
    [wasCleaned ? 'deleted cache of builds' : 'cache of builds', '', size(cacheBytes)],
    ...view.deletedImages.map((name) => [wasCleaned ? 'deleted image' : 'image of no guest', name, '']),
    ...view.faults.map(({ kind, name, detail }) => [kind, name, detail]),
  ];
  return formatTable([{ title: 'WHAT' }, { title: 'COUNT' }, { title: 'SIZE' }], rows);
}
