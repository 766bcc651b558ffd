/** Whose a file on disk is: the ids of a guest's users are a range that its xid gives. */
import { idRangeOf, toGuestId, xidOfHostId } from '../context/id-map.ts';
import type { Registry } from './registry.ts';

/** The owner of a file. */
export interface FileOwner {
  /** 0: the host. */
  readonly xid: number;
  /** Name of the guest with that number, if there is one. */
  readonly guest: string | undefined;
  /** As the guest sees them; a group that is not the guest's stays the host's number. */
  readonly uid: number;
  readonly gid: number;
}

/** Tells whose a file with these ids is. */
export function ownerOf(file: { readonly uid: number; readonly gid: number }, registry: Registry): FileOwner {
  const xid = xidOfHostId(file.uid);
  if (xid === undefined) return { xid: 0, guest: undefined, ...file };
  const [uid = file.uid, gid = file.gid] = [file.uid, file.gid].map((id) => toGuestId(idRangeOf(xid), id));
  return { xid, guest: registry.numbered(xid)?.name, uid, gid };
}
