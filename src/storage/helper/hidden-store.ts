/**
 * Before Linux 6.5 the layer that has the objects cannot be one of data only: an overlay shows it below the image, unless
 * the image hides it.
 */
import type { ImageDirectory, ImageNode } from '../../spec/image-tree.ts';

/** The one name in the layer of the objects. */
const NAME = 'obj';
const OPAQUE = ['trusted.overlay.opaque', Buffer.from('y')] as const;

/** Returns the tree with something in the place of the store's name: a whiteout, or its own directory made opaque. */
export function hideStore(root: ImageDirectory): ImageDirectory {
  return { ...root, children: new Map([...root.children, [NAME, hiding(root.children.get(NAME))]]) };
}

function hiding(own: ImageNode | undefined): ImageNode {
  if (own === undefined) {
    const plain = { mode: 0, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanoseconds: 0, xattrs: [] };
    return { ...plain, kind: 'character', major: 0, minor: 0 };
  }
  return own.kind === 'directory' ? { ...own, xattrs: [...own.xattrs, OPAQUE] } : own;
}
