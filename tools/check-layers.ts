/** Checks the import directions of src/ against tools/layers.ts: `node tools/check-layers.ts`, exit 1 on a violation. */
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { BUILTIN_RULES, LAYERS, type Layer } from './layers.ts';

/** What a check saw: the files it read, and one line per violation, each with the reason of its rule. */
export type LayerReport = {
  readonly scanned: number;
  readonly violations: readonly string[];
};

// Statements start a line, so that an import quoted in a comment is not one. `import(` also covers import types.
const IMPORTS = [
  /^\s*(?:import|export)\b[^'"`;]*?\bfrom\s*['"]([^'"]+)['"]/gm,
  /^\s*import\s*['"]([^'"]+)['"]/gm,
  /\bimport\(\s*['"]([^'"]+)['"]/g,
];

/**
 * The source files git knows or would add, as paths relative to `root`. A deleted file that is still in the index is
 * left out. Throws when `root` is not a git checkout.
 */
export function listSources(root: string): readonly string[] {
  const args = ['-C', root, 'ls-files', '-z', '--cached', '--others', '--exclude-standard', '--', 'src'];
  const listing = spawnSync('git', args, { encoding: 'utf8' });
  if (listing.status !== 0) {
    throw new Error(`cannot list sources: found git saying "${listing.stderr.trim()}"; need a git checkout`);
  }
  return listing.stdout.split('\0').filter((path) => path.endsWith('.ts') && existsSync(join(root, path)));
}

/**
 * Reads `files` (paths relative to `root`) and compares every import with the table. Also a violation: a cycle between
 * folders, a folder the table does not know, and a source file on disk that `files` leaves out.
 */
export function checkLayers(root: string, files: readonly string[]): LayerReport {
  const violations: string[] = [];
  const edges = new Map<string, Set<string>>();

  for (const file of files) {
    const layer = layerOf(file);
    if (layer === undefined) {
      violations.push(`${file}: lies in no known folder of src; add the folder to tools/layers.ts`);
      continue;
    }
    const isTest = file.endsWith('.test.ts');
    for (const specifier of importsOf(readFileSync(join(root, file), 'utf8'))) {
      if (!specifier.startsWith('.')) {
        const why = isTest ? undefined : builtinViolation(layer, specifier);
        if (why !== undefined) violations.push(`${file}: imports "${specifier}": ${why}`);
        continue;
      }
      const target = relative(root, resolve(root, dirname(file), specifier));
      if (!existsSync(join(root, target))) {
        violations.push(`${file}: imports "${specifier}", which does not exist`);
        continue;
      }
      if (!target.startsWith('src/')) {
        if (!isTest) violations.push(`${file}: imports "${target}": only src is shipped`);
        continue;
      }
      const folder = folderOf(target);
      if (folder === layer.name) continue;
      edges.set(layer.name, (edges.get(layer.name) ?? new Set()).add(folder));
      if (!layer.mayImport.includes(folder)) {
        violations.push(`${file}: imports "${target}": ${layer.why}`);
      }
    }
  }

  for (const cycle of findCycles(edges))
    violations.push(`src: folders import each other: ${cycle.join(' -> ')}`);
  violations.push(...unscanned(root, files));
  return { scanned: files.length, violations };
}

// A check that looked at nothing must not pass: an ignore rule or a moved folder would otherwise switch it off.
function unscanned(root: string, files: readonly string[]): readonly string[] {
  const listed = new Set(files);
  const missed = globSync('src/**/*.ts', { cwd: root }).filter((path) => !listed.has(path));
  if (missed.length > 0) return missed.map((path) => `${path}: was not scanned; is it ignored by git?`);
  return files.length === 0 ? ['src: no source file was scanned'] : [];
}

function importsOf(source: string): readonly string[] {
  const found: string[] = [];
  for (const pattern of IMPORTS) {
    for (const match of source.matchAll(pattern)) {
      if (match[1] !== undefined) found.push(match[1]);
    }
  }
  return found;
}

function folderOf(path: string): string {
  const [, folder, ...rest] = path.split('/');
  return folder === undefined || rest.length === 0 ? '' : folder;
}

function layerOf(path: string): Layer | undefined {
  const folder = folderOf(path);
  return LAYERS.find((layer) => layer.name === folder);
}

function builtinViolation(layer: Layer, specifier: string): string | undefined {
  const [name] = specifier.replace(/^node:/, '').split('/');
  const rule = BUILTIN_RULES.find(({ builtins }) => name !== undefined && builtins.includes(name));
  return rule === undefined || rule.allowedIn.includes(layer.name) ? undefined : rule.why;
}

/** Depth first; each cycle is reported once, by the edge that closes it. */
function findCycles(edges: ReadonlyMap<string, ReadonlySet<string>>): readonly (readonly string[])[] {
  const cycles: string[][] = [];
  const done = new Set<string>();
  const visit = (folder: string, path: readonly string[]): void => {
    const start = path.indexOf(folder);
    if (start >= 0) {
      cycles.push([...path.slice(start), folder]);
      return;
    }
    if (done.has(folder)) return;
    for (const next of edges.get(folder) ?? []) visit(next, [...path, folder]);
    done.add(folder);
  };
  for (const folder of edges.keys()) visit(folder, []);
  return cycles;
}

if (import.meta.main) {
  const root = resolve(import.meta.dirname, '..');
  const { scanned, violations } = checkLayers(root, listSources(root));
  for (const violation of violations) console.error(violation);
  console.log(`layers: ${scanned} files scanned, ${violations.length} violations`);
  if (violations.length > 0) process.exitCode = 1;
}
