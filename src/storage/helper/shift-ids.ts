/**
 * Ids inside extended attributes: on disk they are the host's ids of a guest's users, in an image the guest's own.
 */
import type { Xattr } from '../../spec/image-tree.ts';

/** `struct vfs_ns_cap_data` and `struct vfs_cap_data` (linux/capability.h); version 3 since Linux 4.14. */
const CAP_REVISION_MASK = 0xff000000;
const CAP_REVISION_2 = 0x02000000;
const CAP_REVISION_3 = 0x03000000;
const CAP_V2_BYTES = 20;
const CAP_V3_BYTES = 24;
/** `struct posix_acl_xattr_header` and its entries (linux/posix_acl_xattr.h). */
const ACL_HEADER_BYTES = 4;
const ACL_ENTRY_BYTES = 8;
const ACL_USER = 0x02;
const ACL_GROUP = 0x08;

/** Returns an attribute with the ids of a guest counted from 0. */
export function shiftXattr([name, value]: Xattr, hostBase: number): Xattr {
  if (name === 'security.capability') return [name, shiftCapability(Buffer.from(value), hostBase)];
  if (name.startsWith('system.posix_acl_')) return [name, shiftAcl(Buffer.from(value), hostBase)];
  return [name, value];
}

function shiftCapability(value: Buffer, hostBase: number): Buffer {
  if (value.length !== CAP_V3_BYTES) return value;
  const magic = value.readUInt32LE(0);
  if ((magic & CAP_REVISION_MASK) >>> 0 !== CAP_REVISION_3) return value;
  const root = value.readUInt32LE(CAP_V2_BYTES);
  const own = root >= hostBase ? root - hostBase : root;
  if (own !== 0) {
    value.writeUInt32LE(own, CAP_V2_BYTES);
    return value;
  }
  value.writeUInt32LE(((magic & ~CAP_REVISION_MASK) | CAP_REVISION_2) >>> 0, 0);
  return value.subarray(0, CAP_V2_BYTES);
}

function shiftAcl(value: Buffer, hostBase: number): Buffer {
  for (let at = ACL_HEADER_BYTES; at + ACL_ENTRY_BYTES <= value.length; at += ACL_ENTRY_BYTES) {
    const tag = value.readUInt16LE(at);
    const id = value.readUInt32LE(at + 4);
    if ((tag === ACL_USER || tag === ACL_GROUP) && id >= hostBase) value.writeUInt32LE(id - hostBase, at + 4);
  }
  return value;
}
