/**
 * What a storage helper can be told to do, and what it answers: the contract between vserverd and the process beside it
 * that does what takes long (main.ts).
 */
import type { TreeChange } from '../../spec/tree-changes.ts';

/**
 * Descriptors a helper starts with, `layer` the upper layer with a guest's own files; from `store` on they are of its machine:
 * the store, the directory of an archive, the archive without a name there, and that layer.
 */
export const HELPER_FD = {
  tree: 0,
  out: 1,
  messages: 2,
  machine: 3,
  archive: 4,
  layer: 5,
  store: 201,
  target: 202,
  unnamed: 203,
  own: 204,
} as const;

/** The upper layer with a guest's own files, as a path of the helper. */
export const OWN_LAYER: string = `/proc/self/fd/${HELPER_FD.layer}`;

/** Reads the tree of descriptor 0 into the store and writes its image. */
export interface CaptureTask {
  readonly kind: 'capture';
  /** Directory of objects. */
  readonly objects: string;
  /** An empty directory on the file system of `objects`. */
  readonly staging: string;
  /** Where the image goes. */
  readonly image: string;
  /** The image that shows through the tree, if any. */
  readonly base: string | undefined;
  /** Ids from here on are counted from it. */
  readonly hostBase: number;
  readonly origin: TreeOrigin;
  /** Objects stay in `staging`, and this file says which they are: a `publish` task gives them their names. */
  readonly list: string | undefined;
  /** There is an upper layer with a guest's own files, whose bytes on disk are counted. */
  readonly hasLayer: boolean;
  /** Nothing is written but the answer. */
  readonly isDryRun: boolean;
  readonly maxEntries: number;
  /** Files of the layer that match these patterns (exclusions.ts) stay there, and are not in the image. */
  readonly exclude: readonly string[];
}

/**
 * Whose the tree is: `ours`, of our own making, and its files become objects without a copy; `left`: so do those of the
 * upper layer that are in no other project, for its guest leaves it when the objects are staged; `still`, nobody writes it
 * now; `live`: somebody may.
 */
export type TreeOrigin = 'ours' | 'left' | 'still' | 'live';

/** Gives staged objects their names. May be done again when it was not done to the end. */
export interface PublishTask {
  readonly kind: 'publish';
  /** The store's directory; the others are relative to it. */
  readonly root: string;
  readonly objects: string;
  readonly staging: string;
  /** File that says which they are. */
  readonly list: string;
}

/** What was added to the store. */
export interface ObjectTotals {
  readonly objects: number;
  readonly bytes: number;
}

/** Unpacks archives over each other into an image, and their files into the store, or where those wait to be adopted. */
export interface UnpackTask {
  readonly kind: 'unpack';
  readonly objects: string;
  readonly staging: string;
  readonly image: string;
  readonly archives: readonly Archive[];
  /** They are layers of an OCI image. */
  readonly hasWhiteouts: boolean;
  /** Bytes that all archives together may have when they are decompressed. */
  readonly maxBytes: number;
  readonly maxEntries: number;
  /**
   * Nothing gets into the store: files stay in `staging`, under their hashes. The archive need not be a root then; texts of
   * these names, at its top or two directories below, are told.
   */
  readonly texts?: readonly string[] | undefined;
}

/** Makes a directory of an image whose files wait in a directory an image of its own. */
export interface AdoptTask {
  readonly kind: 'adopt';
  readonly objects: string;
  /** Where its files are, under their hashes. */
  readonly staging: string;
  /** The image of all of it, and the path of the directory in it. */
  readonly from: string;
  readonly directory: string;
  /** Where the image goes. */
  readonly image: string;
  /** Hash of the listing that it must have. */
  readonly expected: string;
}

/** What an archive's bytes have to be. */
export interface Archive {
  /** For messages. */
  readonly name: string;
  /** What is left to be undone of its compression. */
  readonly compression: 'gzip' | 'zstd' | undefined;
  /** sha256 in hex of the bytes as they come, and of those decompressed, where they are known before. */
  readonly digest?: string | undefined;
  readonly plainDigest?: string | undefined;
}

/** What an image that was made is, and what it took. */
export interface ImageResult {
  /** sha256 of the image in hex. */
  readonly imageHash: string;
  readonly imageBytes: number;
  readonly entries: number;
  /** What the store did not have before. */
  readonly newObjects: number;
  readonly newBytes: number;
  /** Of the tree's root, which an overlay shows from its upper layer. */
  readonly root: RootAttributes;
}

/** What a capture did. */
export interface CaptureResult extends ImageResult {
  /** Bytes on disk of the layer. */
  readonly ownBytes: number;
  /** What stays the guest's own. */
  readonly kept: KeptFiles;
}

/** What unpacking did. */
export interface UnpackResult extends ImageResult {
  /** sha256 in hex of each archive as it is stored. */
  readonly digests: readonly string[];
  /** Texts by their paths. */
  readonly texts: Readonly<Record<string, string>>;
}

/** Attributes of a root directory, ids counted from 0. */
export interface RootAttributes {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanoseconds: number;
}

/** A tree of an archive that is written. */
export interface ArchivedTree extends ImageOfTree {
  /** Name of its directory in the archive. */
  readonly prefix: string;
}

/** Writes an archive of images to the descriptor `archive`. */
export interface ExportTask {
  readonly kind: 'export';
  readonly objects: string;
  /** What `vserver.json` holds beside the hashes of the trees. */
  readonly manifest: object;
  readonly texts: readonly { readonly name: string; readonly text: string }[];
  readonly trees: readonly ArchivedTree[];
  readonly isCompressed: boolean;
  /** Time of the texts, in seconds since 1970. */
  readonly seconds: number;
  /** The archive is a file without a name, which is given this one, below `target`, when all of it is on the disk. */
  readonly name: string | undefined;
}

/** What was written. */
export interface ExportResult {
  /** Of the archive, compressed if that was asked for. */
  readonly bytes: number;
  /** Names in all trees. */
  readonly entries: number;
}

/** A tree as an image. */
export interface ImageOfTree {
  /** File of the image. */
  readonly image: string;
  /** What the image says of the root may be older. */
  readonly root?: RootAttributes;
}

/** Compares two trees. */
export interface DiffTask {
  readonly kind: 'diff';
  readonly before: ImageOfTree;
  readonly after: ImageOfTree;
}

/** What differs. */
export interface DiffResult {
  readonly changes: readonly TreeChange[];
}

/** What a guest has on disk. */
export interface UsageOwner {
  readonly name: string;
  /** Directories of its own files; a disk in one counts as the file that it is. */
  readonly own: readonly string[];
  /** Names of the image it goes on from, and of those of its snapshots. */
  readonly image: string | undefined;
  readonly snapshots: readonly string[];
}

/** Counts what guests have on disk. */
export interface UsageTask {
  readonly kind: 'usage';
  readonly objects: string;
  readonly images: string;
  /** All of the instance; what images of nobody have is shared. */
  readonly owners: readonly UsageOwner[];
}

/** What one guest has on disk, in bytes of blocks. */
export interface Usage {
  readonly name: string;
  readonly ownBytes: number;
  readonly ownInodes: number;
  /** Images and objects of the store that only this guest and its snapshots need. */
  readonly aloneBytes: number;
  /** The part of that which only its snapshots need. */
  readonly snapshotBytes: number;
  /** What others need too. */
  readonly sharedBytes: number;
}

/** By the order of the task. */
export interface UsageResult {
  readonly usages: readonly Usage[];
}

/** Writes what comes by the descriptor `archive` to a file, without its compression. */
export interface SpoolTask {
  readonly kind: 'spool';
  readonly to: string;
  readonly maxBytes: number;
}

/** How much that was. */
export interface SpoolResult {
  readonly bytes: number;
}

/** A directory that leads to files which are kept; ids counted from 0. */
export interface KeptDirectory extends RootAttributes {
  /** Relative to the tree's root, latin1. */
  readonly path: string;
}

/** Files that stay a guest's own. */
export interface KeptFiles {
  readonly files: readonly string[];
  /** Parents first. */
  readonly directories: readonly KeptDirectory[];
  /** On disk. */
  readonly bytes: number;
}

/**
 * Gives files of one upper layer, the tree, second names below another one, the layer, which is empty; on another file system,
 * or of another project, they are copied.
 */
export interface CarryTask {
  readonly kind: 'carry';
  readonly hostBase: number;
  /** File with `KeptFiles` as JSON. */
  readonly list: string;
}

/** Looks at a whole store. */
export interface StoreTask {
  /** `gc`: delete objects of no image; `check`: read what is not sealed, and compare; `stat`: count. */
  readonly kind: 'gc' | 'check' | 'stat';
  readonly objects: string;
  readonly images: string;
  readonly cache: string;
  /** `gc` only says what it would do. */
  readonly isDryRun: boolean;
  /** Images that `gc` deletes: what only they need goes too. */
  readonly unneeded: readonly string[];
  /** `check` reads what is sealed too (seal.ts). */
  readonly isFull: boolean;
}

/** What there is in a store, and what is wrong with it. */
export interface StoreResult {
  readonly images: number;
  readonly imageBytes: number;
  readonly objects: number;
  readonly objectBytes: number;
  /** Objects that the kernel compares with what they were whenever they are read (seal.ts). */
  readonly sealedObjects: number;
  /** Bytes of all files of all images, as if nothing were shared. */
  readonly apparentBytes: number;
  /** Objects of no image. */
  readonly unusedObjects: number;
  readonly unusedBytes: number;
  /** Bytes on disk of what was fetched for images. */
  readonly cacheBytes: number;
  readonly faults: readonly StoreFault[];
}

/** Something a store lacks or has wrong. */
export interface StoreFault {
  readonly kind: 'image-damaged' | 'object-missing' | 'object-damaged' | 'foreign-file';
  /** Name of the image, hash of the object, or path. */
  readonly name: string;
  readonly detail: string;
}

/** Each task with its result. */
export interface TaskResults {
  readonly adopt: ImageResult;
  readonly capture: CaptureResult;
  readonly export: ExportResult;
  readonly diff: DiffResult;
  readonly carry: object;
  readonly publish: ObjectTotals;
  readonly spool: SpoolResult;
  readonly usage: UsageResult;
  readonly unpack: UnpackResult;
  readonly gc: StoreResult;
  readonly check: StoreResult;
  readonly stat: StoreResult;
}

/** A task. */
export type HelperTask =
  | AdoptTask
  | CarryTask
  | CaptureTask
  | DiffTask
  | ExportTask
  | PublishTask
  | UnpackTask
  | SpoolTask
  | StoreTask
  | UsageTask;

/** How far a task is. */
export interface HelperProgress {
  readonly files: number;
  /** Of archives. */
  readonly readBytes?: number;
  readonly totalBytes?: number;
}

/** A line of descriptor 1, as JSON: how far it is, and at last what came of it. */
export type HelperLine =
  | { readonly done: HelperProgress }
  | { readonly result: unknown }
  | {
      readonly error: {
        readonly kind: 'user' | 'state' | 'bug';
        readonly code: string;
        readonly message: string;
      };
    };
