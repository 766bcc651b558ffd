/** The hooks of the fence with nothing behind them: what it costs that the kernel asks a program at all. */
import { fenceErrnos, planOpen } from '../src/network/fence-making.ts';
import { fencePrograms } from '../src/network/fence-programs.ts';
import { EbpfAssembler } from '../src/sys/bpf/assembler.ts';
import { planAttachProgram, planLoad, planMapTable } from '../src/sys/bpf/load.ts';
import { Program } from '../src/sys/program.ts';
import { withMachine } from '../test/lib/machine.ts';

/** At every hook of a cgroup where the fence has a program attaches one that only says yes; they go with the cgroup. */
export async function attachEmptyHooks(cgroup: string): Promise<void> {
  await withMachine(async ({ syscalld }) => {
    const program = new EbpfAssembler().move(0, 1).exit().program([]);
    const target = { errnos: fenceErrnos(syscalld.abi), guestLevel: 2, netnsCookie: 0n };
    const p = new Program(syscalld.abi);
    const directory = planOpen(p, cgroup);
    const maps = planMapTable(p, []);
    for (const spec of fencePrograms(target)) {
      if (spec.type === 'skLookup') continue; // of the network namespace: it is there for all
      const loaded = planLoad(p, { ...spec, program }, maps);
      planAttachProgram(p, spec, loaded, directory);
      p.sys('close', [loaded]);
    }
    await syscalld.run('attach empty programs', p);
  });
}
