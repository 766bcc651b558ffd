import { UserError } from '../../base/errors.ts';
import { isGuestName } from '../../base/ids.ts';
import { formatTable } from '../../base/text-table.ts';
import { checkHost, type HostFinding } from '../../guest/check.ts';
import { guestPaths } from '../../guest/paths.ts';
import type { Io, Services, VerbResult } from '../io.ts';
import { formatJson } from '../json.ts';
import type { ParsedVerb } from '../verb-types.ts';

const EXIT_FAILED = 1;
const EXIT_USER = 2;

/** A guest's configuration file, checked. */
interface CheckedFile {
  readonly name: string;
  readonly ok: boolean;
  /** `file:line:column: message`, each on its own; or where the file is. */
  readonly messages: readonly string[];
}

/** `vserver check`: tries what the host can do, or checks configuration files. */
export async function check(parsed: ParsedVerb<'check'>, io: Io, services: Services): Promise<VerbResult> {
  return parsed.operands.length === 0
    ? await checkThisHost(parsed, io, services)
    : await checkFiles(parsed, io, services);
}

async function checkThisHost(
  parsed: ParsedVerb<'check'>,
  io: Io,
  { manager }: Services,
): Promise<VerbResult> {
  const findings = await checkHost(manager.host, manager.registry);
  await io.out(parsed.global.json ? formatJson(findings) : formatFindings(findings));
  return areRequiredMet(findings) ? 0 : EXIT_FAILED;
}

/** Says whether guests can run. */
export function areRequiredMet(findings: readonly HostFinding[]): boolean {
  return findings.every((one) => one.ok || !one.isRequired);
}

/** Formats findings as a table: what is missing and needed says FAIL, what can be done without says "no". */
export function formatFindings(findings: readonly HostFinding[]): string {
  return formatTable(
    [{ title: 'WHAT' }, { title: 'OK' }, { title: 'DETAIL' }],
    findings.map((one) => [one.name, one.ok ? 'yes' : one.isRequired ? 'FAIL' : 'no', one.detail]),
  );
}

async function checkFiles(parsed: ParsedVerb<'check'>, io: Io, services: Services): Promise<VerbResult> {
  const files: CheckedFile[] = [];
  let exitCode = 0;
  for (const word of parsed.operands) {
    const file = checkFile(word, services);
    files.push(file);
    if (!file.ok) exitCode = EXIT_USER;
  }
  if (parsed.global.json) await io.out(formatJson(files));
  else {
    for (const { messages, ok } of files) {
      await io.out(messages.map((message) => `${message}${ok ? ': ok' : ''}\n`).join(''));
    }
  }
  return exitCode;
}

/** @throws UserError guest-not-found */
function checkFile(word: string, { manager }: Services): CheckedFile {
  const { registry, host } = manager;
  const isBroken = registry.broken.some((one) => one.name === word);
  const guest = isBroken ? undefined : registry.find(word);
  const name = guest?.name ?? word;
  if (guest?.isEphemeral === true || !isGuestName(name)) return { name, ok: true, messages: [] };
  try {
    registry.readConfig(name);
    return { name, ok: true, messages: [guestPaths(host.paths, name).config] };
  } catch (error) {
    if (!(error instanceof UserError) || error.code !== 'invalid-config') throw error;
    return { name, ok: false, messages: formatIssues(error) };
  }
}

/** Lists all that is wrong with a configuration file as `file:line:column: message`. */
export function formatIssues(error: UserError): readonly string[] {
  const { file, issues } = error.details ?? {};
  if (!Array.isArray(issues)) return [error.message];
  return issues.map((issue: unknown) => {
    const { line, column, message } = Object(issue) as Readonly<Record<string, unknown>>; // ConfigFileIssue
    return `${String(file)}:${String(line)}:${String(column)}: ${String(message)}`;
  });
}
