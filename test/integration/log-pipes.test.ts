/** The pipes to a log, found again in processes that may have put anything in their place. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { findPipe, planLogPipes, planReopenPipe } from '../../src/guest/log-pipes.ts';
import { Program } from '../../src/sys/program.ts';
import { StepError } from '../../src/sys/syscalld.ts';
import { eventually } from '../lib/instance.ts';
import { type Machine, withMachine } from '../lib/machine.ts';
import { unmet } from '../lib/requires.ts';

describe('pipes to a log', { skip: unmet('root') }, () => {
  /** Runs `body` with a process whose standard output is what `output` says in a shell. */
  const withWriter = async (
    machine: Machine,
    output: string,
    body: (pid: number) => Promise<void>,
  ): Promise<void> => {
    const writer: ChildProcess = spawn('sh', ['-c', `exec ${output}; echo ready >&2; exec sleep 1000`], {
      cwd: machine.root,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const ended = once(writer, 'exit');
    await once(writer.stderr!, 'data');
    try {
      await body(writer.pid!);
    } finally {
      writer.kill('SIGKILL');
      await ended;
    }
  };
  const reopen = async (machine: Machine, path: string, inode: number): Promise<number> => {
    const object = machine.syscalld.newObject();
    const p = new Program(machine.abi);
    planReopenPipe(p, path, inode, object);
    await machine.syscalld.run('reopen', p);
    return object;
  };

  test('are read on by whoever finds them, and nobody gets a SIGPIPE in between', async () => {
    await withMachine(async (machine) => {
      const [reader, writer] = [machine.syscalld.newObject(), machine.syscalld.newObject()];
      const p = new Program(machine.abi);
      const [pipe] = planLogPipes(p, [
        { kind: 'null' },
        { kind: 'pipe', object: reader },
        { kind: 'null' },
      ]).values();
      assert.ok(pipe);
      const child = p.spawn('writer', { object: writer }, () => {
        p.sys('dup3', [pipe.end, 1, 0]);
        p.sys('execve', ['/bin/sleep', p.vector(['sleep', '1000']), p.vector([])]);
      });
      const outcome = await machine.syscalld.run('test', p);
      const [pid, inode] = [outcome.result(child), outcome.result(pipe.inode)];
      machine.syscalld.drop(reader);
      const path = await eventually('its standard output', () =>
        [...findPipe([pid], inode)].find((one) => one === `/proc/${pid}/fd/1`),
      );
      execFileSync('sh', ['-c', `echo still here >${path}`]);
      const object = await reopen(machine, path, inode);
      const read = new Program(machine.abi);
      const bytes = read.data(11);
      read.sys('read', [read.import(object), bytes, 11]);
      read.returns(bytes);
      assert.equal((await machine.syscalld.run('read', read)).out.toString(), 'still here\n');
      machine.syscalld.drop(object);
      machine.syscalld.signal(writer, constants.signals.SIGKILL);
      await machine.event('exited', writer);
      machine.syscalld.drop(writer);
    });
  });

  test('are not confused with what a guest puts there', async () => {
    await withMachine(async (machine) => {
      const at = (name: string): string => join(machine.root, name);
      execFileSync('mkfifo', [at('fifo'), at('pipe:[4711]')]);
      writeFileSync(at('file'), '');
      mkdirSync(at('directory'));
      const impostors = [
        ['>&2', 'another pipe'],
        ['1<>fifo', 'a named pipe'],
        [`1<>'pipe:[4711]'; rm -f 'pipe:[4711]'`, 'a named pipe of that name'],
        ['>file', 'a file'],
        ['1<directory', 'a directory'],
        ['1<>/dev/ptmx', 'a device whose opening makes something'],
      ] as const;
      for (const [output, what] of impostors) {
        await withWriter(machine, output, async (pid) => {
          await assert.rejects(reopen(machine, `/proc/${pid}/fd/1`, 4711), (error: unknown) => {
            assert.ok(error instanceof StepError, what);
            assert.deepEqual([error.call, error.errnoName], ['expect_bytes', 'ESTALE'], what);
            return true;
          });
        });
      }
    });
  });
});
