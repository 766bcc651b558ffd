/** How much a guest may write. */
export interface DiskLimit {
  /** Bytes of files. */
  readonly spaceBytes: number;
  /** Files and directories; absent: as many as the space is likely to need. */
  readonly inodes?: number | undefined;
  /** Part of the space, in percent, that is for nobody. */
  readonly reservedPercent: number;
  /** What keeps it; absent: a project quota where the file system has that, else an image. */
  readonly method?: 'quota' | 'image' | undefined;
}

/** What files take of a limit. */
export interface DiskUse {
  readonly spaceBytes: number;
  readonly inodes: number;
}

/** What of a limit is for the guest: none of the part that is reserved. */
export function usableBytes({ spaceBytes, reservedPercent }: DiskLimit): number {
  return Math.floor((spaceBytes * (100 - reservedPercent)) / 100);
}
