/** A FUSE file system of texts, as its server sees it: directories that list names, and files that have a text. */
import {
  attrBody,
  entryBody,
  FUSE,
  FUSE_ERRNO,
  type FuseNode,
  type FuseRequest,
  initBody,
  lookupName,
  moveNodes,
  readdirBody,
  readdirRange,
  statfsBody,
} from '../spec/fuse-wire.ts';
import type { FuseReply } from './fuse-relay.ts';

/** A name in a directory. */
export interface FuseEntry extends FuseNode {
  readonly name: string;
}

/** What there is, by node. */
export interface FuseTree {
  /** What a name in a directory stands for; undefined: for nothing. */
  lookup(node: number, name: string): FuseNode | undefined;
  attributes(node: number): FuseNode;
  /** All of a directory; nothing of a file. */
  entries(node: number): readonly FuseEntry[];
  /** Whether two directories list the same, with numbers of nodes that differ as their own do. */
  isAlike?(one: number, other: number): boolean;
  /** A promise must not be refused. */
  read(node: number): FuseReply | Promise<FuseReply>;
}

/** Answers a request by what a tree has. */
export function answerFuse(
  tree: FuseTree,
  { opcode, node, body }: FuseRequest,
): FuseReply | Promise<FuseReply> {
  switch (opcode) {
    case FUSE.init: {
      const init = initBody(body);
      return init ? { body: init } : { errno: FUSE_ERRNO.EPROTO };
    }
    case FUSE.lookup: {
      const found = tree.lookup(node, lookupName(body));
      return found ? { body: entryBody(found) } : { errno: FUSE_ERRNO.ENOENT };
    }
    case FUSE.getattr:
      return { body: attrBody(tree.attributes(node)) };
    case FUSE.readlink: {
      const { target } = tree.attributes(node);
      return target === undefined ? { errno: FUSE_ERRNO.EINVAL } : { body: Buffer.from(target) };
    }
    case FUSE.statfs:
      return { body: statfsBody() };
    case FUSE.readdir:
      return { body: readdirBody(tree.entries(node), readdirRange(body), false) };
    case FUSE.readdirplus:
      return { body: listOf(tree, node, readdirRange(body)) };
    case FUSE.read:
      return tree.read(node);
    default:
      return { errno: FUSE_ERRNO.ENOSYS };
  }
}

/** What was listed last. Each start has its guest's directory listed, which is like that of any other. */
let last:
  | { readonly tree: FuseTree; readonly node: number; readonly size: number; readonly body: Buffer }
  | undefined;

function listOf(
  tree: FuseTree,
  node: number,
  range: { readonly offset: number; readonly size: number },
): Buffer {
  if (
    range.offset === 0 &&
    last?.tree === tree &&
    last.size === range.size &&
    tree.isAlike?.(last.node, node)
  )
    return moveNodes(last.body, node - last.node);
  const body = readdirBody(tree.entries(node), range, true);
  if (range.offset === 0) last = { tree, node, size: range.size, body };
  return body;
}
