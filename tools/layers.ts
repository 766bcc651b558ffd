/** The import directions of src/, as data: which folder may import which, which Node modules it may use, and why. */

/** One folder of src/ and what its files may import. */
export type Layer = {
  readonly name: string;
  /** Other folders of src/ this one may import; its own files are always allowed. */
  readonly mayImport: readonly string[];
  readonly why: string;
};

/** A set of Node modules kept to some folders. Tests are exempt: they build trees and spawn what they test. */
export type BuiltinRule = {
  /** Names without the `node:` prefix; a submodule such as `fs/promises` falls under its parent. */
  readonly builtins: readonly string[];
  readonly allowedIn: readonly string[];
  readonly why: string;
};

const PARTS = ['context', 'network', 'resources', 'storage', 'views'] as const;
const BELOW_GUEST = ['base', 'spec', 'sys', ...PARTS] as const;
const ENGINE = ['guest', ...BELOW_GUEST] as const;

/** Every folder of src/; a folder missing here is itself a violation. */
export const LAYERS: readonly Layer[] = [
  { name: 'base', mayImport: [], why: 'base is the ground everything stands on, and runs in a browser' },
  {
    name: 'spec',
    mayImport: ['base'],
    why: 'spec turns bytes into values and back, and is fuzzed as pure code',
  },
  {
    name: 'api',
    mayImport: ['base'],
    why: 'api is the wire contract, shared with the client and the console',
  },
  {
    name: 'sys',
    mayImport: ['base', 'spec'],
    why: 'sys is the seam to the kernel and knows nothing above it',
  },
  ...PARTS.map((name) => ({
    name,
    mayImport: ['base', 'spec', 'sys'],
    why: `${name} stays ignorant of its siblings, so that guest alone knows the order`,
  })),
  {
    name: 'guest',
    mayImport: [...BELOW_GUEST, 'api'],
    why: 'guest is the engine, usable without HTTP by the OCI front and tests; its events have the words of the api',
  },
  {
    name: 'daemon',
    mayImport: [...ENGINE, 'api', 'cli'],
    why: 'daemon is the composition root: it serves HTTP, and runs the verbs for the client',
  },
  {
    name: 'cli',
    mayImport: [...ENGINE, 'api', 'client'],
    why: 'verbs run inside vserverd on the engine, and know nothing of who serves them',
  },
  { name: 'oci', mayImport: ENGINE, why: 'an OCI runtime call works when the daemon is down' },
  { name: 'client', mayImport: ['api', 'base'], why: 'what the client pulls in is part of the product' },
  { name: 'web', mayImport: ['client', 'api', 'base'], why: 'the console runs in a browser' },
];

/** Node modules that not every folder may use. */
export const BUILTIN_RULES: readonly BuiltinRule[] = [
  {
    builtins: ['child_process', 'net', 'dgram'],
    allowedIn: ['sys'],
    why: 'only sys reaches the kernel, spawns and opens raw sockets',
  },
  {
    builtins: ['fs'],
    allowedIn: ['sys', 'storage', 'resources', 'guest', 'daemon', 'cli', 'oci'],
    why: 'pure folders take bytes as values; the others touch only trees the operator owns',
  },
];
