/** /proc/cpuinfo, /proc/stat, /proc/uptime and the list of CPUs of a guest. */
import type { CpuSample, LoadSample } from './sample.ts';

/** USER_HZ, which is 100 on every architecture that Node runs on. */
const TICKS_PER_SECOND = 100;
const US_PER_TICK = 1_000_000 / TICKS_PER_SECOND;

/**
 * Returns the CPUs a guest sees: those it may run on, but no more than it gets the time of.
 *
 * @param allowed numbers, ascending
 * @param limit as a number of CPUs; undefined: none
 */
export function visibleCpus(allowed: readonly number[], limit: number | undefined): readonly number[] {
  return limit === undefined ? allowed : allowed.slice(0, Math.max(1, Math.ceil(limit)));
}

/** Returns numbers in the kernel's form for lists: 0-1,4. */
export function formatCpuList(cpus: readonly number[]): string {
  const ranges: [number, number][] = [];
  for (const cpu of cpus) {
    const last = ranges.at(-1);
    if (last && last[1] === cpu - 1) last[1] = cpu;
    else ranges.push([cpu, cpu]);
  }
  return `${ranges.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(',')}\n`;
}

/** Returns /proc/cpuinfo of a guest: the host's without the CPUs that it does not see. */
export function formatCpuinfo(hostText: string, { cpus }: Pick<CpuSample, 'cpus'>): string {
  const seen = new Set(cpus);
  return hostText
    .split(/(?<=\n\n)/)
    .filter((block) => {
      const [, number] = /^processor\s*:\s*(\d+)$/m.exec(block) ?? [];
      return number === undefined || seen.has(Number(number));
    })
    .map((block) =>
      block.replace(
        /^(siblings|cpu cores)(\s*): (\d+)$/gm,
        (_, name, gap, count) => `${name}${gap}: ${Math.min(Number(count), cpus.length)}`,
      ),
    )
    .join('');
}

/** Returns what /proc/uptime of a guest will be so many seconds after the sample. */
export function formatUptime(sample: CpuSample, aheadSeconds: number): string {
  const uptimeSeconds = sample.uptimeSeconds + aheadSeconds;
  const busySeconds = (sample.userUs + sample.systemUs) / 1e6;
  const idle = Math.max(0, uptimeSeconds * sample.cpus.length - busySeconds);
  return `${uptimeSeconds.toFixed(2)} ${idle.toFixed(2)}\n`;
}

/**
 * Returns /proc/stat of a guest, in which "processes" is the number of forks. Interrupts and context switches are not counted per guest, and the host's would tell
 * what its devices do: they are 0.
 *
 * @param bootSeconds when the guest started, of the epoch
 * @param forks undefined where nobody counts them: then as many as there are tasks
 */
export function formatStat(
  sample: CpuSample,
  load: Omit<LoadSample, 'averages'>,
  bootSeconds: number,
  forks: number | undefined,
): string {
  const { cpus } = sample;
  const ticks = (part: number): string => {
    const user = sample.userUs / US_PER_TICK / part;
    const system = sample.systemUs / US_PER_TICK / part;
    const whole = (sample.uptimeSeconds * TICKS_PER_SECOND * cpus.length) / part;
    const idle = Math.max(0, Math.floor(whole) - Math.floor(user) - Math.floor(system));
    return `${Math.floor(user)} 0 ${Math.floor(system)} ${idle} 0 0 0 0 0 0`;
  };
  return (
    `cpu  ${ticks(1)}\n` +
    cpus.map((cpu) => `cpu${cpu} ${ticks(cpus.length)}\n`).join('') +
    `intr 0\nctxt 0\nbtime ${bootSeconds}\nprocesses ${forks ?? load.total}\n` +
    `procs_running ${load.running}\nprocs_blocked ${load.blocked}\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n`
  );
}

/** Returns /proc/loadavg of a guest. */
export function formatLoadavg({ averages, running, total }: LoadSample): string {
  return `${averages.map((one) => one.toFixed(2)).join(' ')} ${running}/${total} ${total}\n`;
}

/** Reads /proc/loadavg. */
export function parseLoadavg(text: string): Pick<LoadSample, 'averages' | 'total'> {
  const [one = 0, five = 0, fifteen = 0, total = 0] =
    /^(\S+) (\S+) (\S+) \d+\/(\d+)/.exec(text)?.slice(1).map(Number) ?? [];
  return { averages: [one, five, fifteen], total };
}
