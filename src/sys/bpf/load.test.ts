import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EbpfAssembler } from './assembler.ts';
import { verifierError } from './load.ts';

test("a verifier's complaint names the program, the instruction and the label before it", () => {
  const program = new EbpfAssembler().move(0, 0).label('look up').load(1, 0, 0, 4).exit().program();
  const spec = { name: 'bind4', type: 'cgroupSockAddr', attach: 'BPF_CGROUP_INET4_BIND', program } as const;
  const log = [
    '0: R1=ctx() R10=fp0',
    '0: (b7) r0 = 0                        ; R0_w=0',
    '1: (61) r1 = *(u32 *)(r0 +0)',
    "R0 invalid mem access 'scalar'",
    'processed 2 insns (limit 1000000) max_states_per_insn 0',
    '',
  ].join('\n');
  const error = verifierError(spec, log);
  assert.equal(
    error.message,
    `cannot load eBPF program "bind4": found "R0 invalid mem access 'scalar'" at instruction 1, "look up"`,
  );
  assert.equal(error.code, 'ebpf-refused');
  assert.match(String(error.details?.['log']), /r1 = /);
  assert.match(verifierError(spec, '').message, /found "no reason" at no instruction/);
});
