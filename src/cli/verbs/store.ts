import { UserError } from '../../base/errors.ts';
import { formatTable } from '../../base/text-table.ts';
import { formatSizeRounded } from '../../base/units.ts';
import type { StoreResult } from '../../storage/helper/tasks.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import { Progress } from '../progress.ts';
import type { ParsedVerb } from '../verb-types.ts';

const EXIT_FAILED = 1;

/** What `store` tells of one trust domain; `deletedImages` of `gc` only. */
interface DomainView extends StoreResult {
  readonly trustDomain: string;
  readonly deletedImages: readonly string[];
}

/** Sums over all trust domains, and each of them. */
interface StoreView extends Omit<DomainView, 'trustDomain'> {
  readonly trustDomains: readonly DomainView[];
}

/** `vserver store`: counts, checks or cleans what images share. */
export async function store(parsed: ParsedVerb<'store'>, io: Io, { manager }: Services): Promise<VerbResult> {
  const { storage, snapshots, registry } = manager;
  const [action = 'stat'] = parsed.operands;
  const { dryRun, full, trustDomain } = parsed.options;
  const domains = storage.domains();
  if (trustDomain !== undefined && !domains.includes(trustDomain)) {
    throw new UserError(
      'trust-domain-not-found',
      `cannot look after the store of trust domain ${JSON.stringify(trustDomain)}: found ${domains.join(', ')}`,
    );
  }
  await using progress = new Progress(io, parsed.global, `${action} of the store`);
  const { options } = progress;
  const views: DomainView[] = [];
  for (const domain of trustDomain === undefined ? domains : [trustDomain])
    views.push({ trustDomain: domain, ...(await examine(domain)) });
  progress.clear();
  await io.out(
    parsed.global.json
      ? formatJson(sumOf(views))
      : formatTable(
          [{ title: 'TRUST DOMAIN' }, { title: 'WHAT' }, { title: 'COUNT' }, { title: 'SIZE' }],
          views.flatMap((view) => formatDomain(view, action === 'gc' && !dryRun)),
        ),
  );
  return views.every(({ faults }) => faults.length === 0) ? 0 : EXIT_FAILED;

  async function examine(domain: string): Promise<Omit<DomainView, 'trustDomain'>> {
    const one = storage.store(domain);
    if (action !== 'gc') {
      const kind = action === 'check' ? (full ? 'full check' : 'check') : 'stat';
      return { ...(await one.examine(kind, options)), deletedImages: [] };
    }
    const needed = async (): Promise<((image: string) => boolean) | undefined> => {
      await storage.publishAll();
      return storage.isNeeded(
        domain,
        (guest) => snapshots.list(guest).map(({ pin }) => pin),
        registry.list().map(({ config }) => config),
      );
    };
    const { images, result } = await one.collect(needed, dryRun, options);
    return { ...result, deletedImages: images };
  }
}

function sumOf(views: readonly DomainView[]): StoreView {
  const sum = (count: (view: DomainView) => number): number =>
    views.reduce((total, view) => total + count(view), 0);
  return {
    images: sum(({ images }) => images),
    imageBytes: sum(({ imageBytes }) => imageBytes),
    objects: sum(({ objects }) => objects),
    objectBytes: sum(({ objectBytes }) => objectBytes),
    sealedObjects: sum(({ sealedObjects }) => sealedObjects),
    apparentBytes: sum(({ apparentBytes }) => apparentBytes),
    unusedObjects: sum(({ unusedObjects }) => unusedObjects),
    unusedBytes: sum(({ unusedBytes }) => unusedBytes),
    cacheBytes: sum(({ cacheBytes }) => cacheBytes),
    faults: views.flatMap(({ faults }) => faults),
    deletedImages: views.flatMap(({ deletedImages }) => deletedImages),
    trustDomains: views,
  };
}

/** Formats what a store holds, one thing on a line. */
function formatDomain(view: DomainView, wasCleaned: boolean): readonly (readonly string[])[] {
  const { images, imageBytes, objects, objectBytes, apparentBytes, unusedObjects, unusedBytes, cacheBytes } =
    view;
  const size = formatSizeRounded;
  // What a damaged image needs is not known, so objects stay.
  const wereDeleted = wasCleaned && view.faults.every(({ kind }) => kind !== 'image-damaged');
  return [
    ['images', String(images), size(imageBytes)],
    ['objects', String(objects), size(objectBytes)],
    ['sealed objects', String(view.sealedObjects), ''],
    ['files of all images', '', size(apparentBytes)],
    [wereDeleted ? 'deleted objects' : 'objects of no image', String(unusedObjects), size(unusedBytes)],
    [wasCleaned ? 'deleted cache of builds' : 'cache of builds', '', size(cacheBytes)],
    ...view.deletedImages.map((name) => [wasCleaned ? 'deleted image' : 'image of no guest', name, '']),
    ...view.faults.map(({ kind, name, detail }) => [kind, name, detail]),
  ].map((row) => [view.trustDomain, ...row]);
}
