import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  parseSeccompProfile,
  resolveSeccompProfile,
  type SeccompCircumstances,
  type SeccompRule,
  toSeccompProfile,
} from './seccomp-profile.ts';

const ANYWHERE: SeccompCircumstances = {
  caps: new Set(['CAP_SYS_ADMIN', 'CAP_CHOWN']),
  auditArch: 0xc000003e,
  kernel: { major: 5, minor: 10 },
};

/** One rule of a profile that has only it, after resolution; undefined if it was dropped. */
function ruleOf(rule: object, circumstances: SeccompCircumstances = ANYWHERE): SeccompRule | undefined {
  const full = { names: ['read'], action: 'SCMP_ACT_ALLOW', ...rule };
  return resolveSeccompProfile(
    toSeccompProfile({ defaultAction: 'SCMP_ACT_ERRNO', syscalls: [full] }),
    circumstances,
  ).rules[0];
}

test('a whole profile', () => {
  const profile = parseSeccompProfile(`{
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
    "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] }],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
      { "names": ["clone", "fork"], "action": "SCMP_ACT_ALLOW", "comment": "why",
        "args": [{ "index": 0, "value": 18446744073709551615, "valueTwo": 9007199254740993, "op": "SCMP_CMP_MASKED_EQ" }],
        "includes": {}, "excludes": null },
      { "name": "kill", "action": "SCMP_ACT_TRACE", "errnoRet": 65535, "args": null }
    ] }`);
  assert.deepEqual(resolveSeccompProfile(profile, ANYWHERE), {
    defaultVerdict: { action: 'errno', data: 38 },
    architectures: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
    flags: ['SECCOMP_FILTER_FLAG_LOG'],
    rules: [
      {
        names: ['clone', 'fork'],
        verdict: { action: 'allow', data: 0 },
        alternatives: [
          [
            {
              index: 0,
              operator: 'masked-eq',
              value: 0xffff_ffff_ffff_ffffn,
              valueTwo: 9_007_199_254_740_993n,
            },
          ],
        ],
      },
      { names: ['kill'], verdict: { action: 'trace', data: 65535 }, alternatives: [[]] },
    ],
  });
});

test('architectures: the list, the map, neither, a machine the map does not name', () => {
  const resolve = (json: object): readonly string[] | undefined =>
    resolveSeccompProfile(toSeccompProfile({ defaultAction: 'SCMP_ACT_ALLOW', ...json }), ANYWHERE)
      .architectures;
  assert.equal(resolve({}), undefined);
  assert.deepEqual(resolve({ architectures: ['SCMP_ARCH_X86'] }), ['SCMP_ARCH_X86']);
  assert.deepEqual(resolve({ archMap: [{ architecture: 'SCMP_ARCH_AARCH64' }] }), []);
});

test('the conditions of a rule must all hold, unless two are on one argument', () => {
  const on = (index: number): object => ({ index, value: 1, op: 'SCMP_CMP_EQ' });
  const shape = (args: readonly object[]): readonly (readonly number[])[] | undefined =>
    ruleOf({ args })?.alternatives.map((all) => all.map((one) => one.index));
  assert.deepEqual(shape([]), [[]]);
  assert.deepEqual(shape([on(0), on(2)]), [[0, 2]]);
  assert.deepEqual(shape([on(0), on(2), on(0)]), [[0], [2], [0]]);
});

test('includes and excludes', () => {
  const cases: readonly (readonly [object, boolean])[] = [
    [{ includes: { caps: ['CAP_SYS_ADMIN'] } }, true],
    [{ includes: { caps: ['CAP_SYS_ADMIN', 'CAP_BPF'] } }, false],
    [{ includes: { arches: ['arm', 'amd64'] } }, true],
    [{ includes: { arches: ['x86'] } }, false],
    [{ includes: { minKernel: '5.10' } }, true],
    [{ includes: { minKernel: '4.99' } }, true],
    [{ includes: { minKernel: '5.11' } }, false],
    [{ includes: { minKernel: '6.0' } }, false],
    [{ excludes: { caps: ['CAP_BPF', 'CAP_CHOWN'] } }, false],
    [{ excludes: { caps: ['CAP_BPF'] } }, true],
    [{ excludes: { arches: ['amd64'] } }, false],
    [{ excludes: { arches: ['s390x'] } }, true],
    [{ excludes: { minKernel: '5.10' } }, false],
    [{ excludes: { minKernel: '5.11' } }, true],
    [{ includes: { caps: ['CAP_CHOWN'] }, excludes: { minKernel: '5.2' } }, false],
  ];
  for (const [rule, isKept] of cases) {
    assert.equal(ruleOf(rule) !== undefined, isKept, JSON.stringify(rule));
  }
  const unknownMachine = { ...ANYWHERE, auditArch: 1 };
  assert.equal(ruleOf({ includes: { arches: ['amd64'] } }, unknownMachine), undefined);
  assert.notEqual(ruleOf({ excludes: { arches: ['amd64'] } }, unknownMachine), undefined);
});

test('bad profiles name the place', () => {
  const rule = (fields: object): object => ({
    defaultAction: 'SCMP_ACT_ERRNO',
    syscalls: [{ names: ['read'], action: 'SCMP_ACT_ALLOW', ...fields }],
  });
  const arg = (fields: object): object =>
    rule({ args: [{ index: 0, value: 1, op: 'SCMP_CMP_EQ', ...fields }] });
  const cases: readonly (readonly [unknown, string])[] = [
    [[], 'found a list; need an object'],
    [null, 'found null; need an object'],
    ['x', 'found "x"; need an object'],
    [{}, 'defaultAction: found nothing; need one of'],
    [{ defaultAction: 'ALLOW' }, 'defaultAction: found "ALLOW"; need one of'],
    [{ defaultAction: 7 }, 'defaultAction: found 7; need one of'],
    [
      { defaultAction: 'SCMP_ACT_ERRNO', defaultErrnoRet: 4096 },
      'defaultErrnoRet: found 4096; need an integer',
    ],
    [
      { defaultAction: 'SCMP_ACT_ALLOW', defaultErrnoRet: 1 },
      'defaultErrnoRet: found it with SCMP_ACT_ALLOW',
    ],
    [{ defaultAction: 'SCMP_ACT_ERRNO', sycalls: [] }, 'sycalls: found an unknown key; need one of'],
    [JSON.parse('{"defaultAction":"SCMP_ACT_ERRNO","__proto__":{}}'), '__proto__: found an unknown key'],
    [{ defaultAction: 'SCMP_ACT_ERRNO', syscalls: {} }, 'syscalls: found an object; need a list'],
    [{ defaultAction: 'SCMP_ACT_ERRNO', flags: ['X'] }, 'flags[0]: found "X"; need one of'],
    [{ defaultAction: 'SCMP_ACT_ERRNO', architectures: ['amd64'] }, 'architectures[0]: found "amd64"'],
    [
      { defaultAction: 'SCMP_ACT_ERRNO', architectures: [], archMap: [] },
      'architectures: found it together with "archMap"',
    ],
    [
      {
        defaultAction: 'SCMP_ACT_ERRNO',
        archMap: [{ architecture: 'SCMP_ARCH_X86' }, { architecture: 'SCMP_ARCH_X86' }],
      },
      'archMap[1].architecture: found "SCMP_ARCH_X86" again',
    ],
    [rule({ names: [] }), 'syscalls[0].names: found none'],
    [rule({ names: 'read' }), 'syscalls[0].names: found "read"; need a list'],
    [rule({ names: ['read', 'Wr ite'] }), 'syscalls[0].names[1]: found "Wr ite"; need a system call name'],
    [rule({ name: 'read' }), 'syscalls[0].name: found it together with "names"'],
    [rule({ action: 'SCMP_ACT_ALOW' }), 'syscalls[0].action: found "SCMP_ACT_ALOW"; need one of'],
    [rule({ errnoRet: 1 }), 'syscalls[0].errnoRet: found it with SCMP_ACT_ALLOW'],
    [rule({ action: 'SCMP_ACT_ERRNO', errnoRet: -1 }), 'syscalls[0].errnoRet: found -1'],
    [rule({ comment: 1 }), 'syscalls[0].comment: found 1; need a string'],
    [rule({ arg: [] }), 'syscalls[0].arg: found an unknown key'],
    [arg({ op: 'SCMP_CMP_EQUAL' }), 'syscalls[0].args[0].op: found "SCMP_CMP_EQUAL"; need one of'],
    [arg({ index: 6 }), 'syscalls[0].args[0].index: found 6; need an integer from 0 to 5'],
    [arg({ index: '0' }), 'syscalls[0].args[0].index: found "0"'],
    [arg({ value: -1 }), 'syscalls[0].args[0].value: found -1; need an integer from 0 to 2^64 - 1'],
    [arg({ value: 1.5 }), 'syscalls[0].args[0].value: found 1.5'],
    [arg({ value: 2 ** 64 }), 'syscalls[0].args[0].value: found 18446744073709552000'],
    [arg({ value: undefined }), 'syscalls[0].args[0].value: found nothing'],
    [
      arg({ op: 'SCMP_CMP_MASKED_EQ', value: 1, valueTwo: 2 }),
      'syscalls[0].args[0].valueTwo: found bits outside',
    ],
    [rule({ includes: { cap: [] } }), 'syscalls[0].includes.cap: found an unknown key'],
    [rule({ includes: { caps: ['SYS_ADMIN'] } }), 'syscalls[0].includes.caps[0]: found "SYS_ADMIN"'],
    [rule({ includes: { arches: ['x86_64'] } }), 'syscalls[0].includes.arches[0]: found "x86_64"'],
    [rule({ excludes: { minKernel: '5' } }), 'syscalls[0].excludes.minKernel: found "5"'],
  ];
  for (const [value, message] of cases) {
    assert.throws(
      () => toSeccompProfile(value),
      (error: Error & { code?: string }) =>
        error.code === 'invalid-seccomp-profile' &&
        error.message.startsWith(`cannot read seccomp profile: ${message}`),
      message,
    );
  }
});

test('text that is no JSON, numbers beyond 64 bits', () => {
  assert.throws(() => parseSeccompProfile('{'), {
    code: 'invalid-seccomp-profile',
    message: /found no JSON/,
  });
  for (const value of ['18446744073709551616', '1e30']) {
    const text = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG",
      "args":[{"index":0,"value":${value},"op":"SCMP_CMP_EQ"}]}]}`;
    assert.throws(() => parseSeccompProfile(text), /syscalls\[0\]\.args\[0\]\.value: found/);
  }
});
