/** What the kernel, libseccomp and Docker call each architecture. */

/** The three names of an architecture. */
export interface SeccompArch {
  /** `AUDIT_ARCH_…` of linux/audit.h: ELF machine, 0x80000000 for 64 bits, 0x40000000 for little-endian. */
  readonly auditArch: number;
  /** libseccomp's name, in `architectures` and `archMap`. */
  readonly scmp: string;
  /** Docker's name, in `includes.arches` and `excludes.arches`. */
  readonly docker: string;
}

const ARCHES: readonly SeccompArch[] = [
  { auditArch: 0xc000003e, scmp: 'SCMP_ARCH_X86_64', docker: 'amd64' },
  { auditArch: 0x40000003, scmp: 'SCMP_ARCH_X86', docker: 'x86' },
  { auditArch: 0xc00000b7, scmp: 'SCMP_ARCH_AARCH64', docker: 'arm64' },
  { auditArch: 0x40000028, scmp: 'SCMP_ARCH_ARM', docker: 'arm' },
  { auditArch: 0xc00000f3, scmp: 'SCMP_ARCH_RISCV64', docker: 'riscv64' },
  { auditArch: 0x80000016, scmp: 'SCMP_ARCH_S390X', docker: 's390x' },
  { auditArch: 0x00000016, scmp: 'SCMP_ARCH_S390', docker: 's390' },
  { auditArch: 0xc0000015, scmp: 'SCMP_ARCH_PPC64LE', docker: 'ppc64le' },
  { auditArch: 0x80000015, scmp: 'SCMP_ARCH_PPC64', docker: 'ppc64' },
  { auditArch: 0x00000014, scmp: 'SCMP_ARCH_PPC', docker: 'ppc' },
  { auditArch: 0xc0000102, scmp: 'SCMP_ARCH_LOONGARCH64', docker: 'loongarch64' },
];

/** Names a profile may use for machines this project has no number of: their rules are simply not for this host. */
const FOREIGN_SCMP_ARCHES: readonly string[] = [
  'X32',
  'M68K',
  'MIPS',
  'MIPS64',
  'MIPS64N32',
  'MIPSEL',
  'MIPSEL64',
  'MIPSEL64N32',
  'PARISC',
  'PARISC64',
  'SH',
  'SHEB',
].map((name) => `SCMP_ARCH_${name}`);
const FOREIGN_DOCKER_ARCHES: readonly string[] = [
  'x32',
  'loong64',
  'm68k',
  'mips',
  'mips64',
  'mips64n32',
  'mips3l64n32',
  'mipsel',
  'mipsel64',
  'mipsel64n32',
  'parisc',
  'parisc64',
];

/** Every architecture name `architectures` and `archMap` may hold. */
export const SCMP_ARCHES: readonly string[] = [...ARCHES.map((arch) => arch.scmp), ...FOREIGN_SCMP_ARCHES];
/** Every architecture name `includes.arches` and `excludes.arches` may hold. */
export const DOCKER_ARCHES: readonly string[] = [
  ...ARCHES.map((arch) => arch.docker),
  ...FOREIGN_DOCKER_ARCHES,
];

/** Finds an architecture by its `AUDIT_ARCH_…` number; undefined for one this project does not know. */
export function findSeccompArch(auditArch: number): SeccompArch | undefined {
  return ARCHES.find((arch) => arch.auditArch === auditArch);
}
