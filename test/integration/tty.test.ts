/** Terminals: every command gets one of the guest's own, and ours behaves as if the command were on it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { eventually, type OpenInstance, openInstance } from '../lib/instance.ts';
import { unmet } from '../lib/requires.ts';
import { openTerminal, type Terminal } from '../lib/terminal.ts';

const IS_VM = process.env['VSERVER_TEST_VM'] === '1';

/** Whether a process is in the foreground of its terminal, and not stopped (proc_pid_stat(5)). */
function hasTerminal(pid: number): boolean {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const [state, , group, , , foreground] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return state === 'S' && group === foreground;
}

describe('terminals', { skip: unmet('root', 'overlay') }, () => {
  let v: OpenInstance;
  before(async () => {
    v = await openInstance();
    await v.ok(['run', '-d', '--name', 'idle', '--', 'sleep', '1000']);
  });
  after(() => v.close());

  const on = async (script: string, body: (terminal: Terminal) => Promise<void>): Promise<void> => {
    const terminal = await openTerminal(v, script);
    try {
      await body(terminal);
    } finally {
      await terminal.close();
    }
  };

  const ways = ['run -it -- sh', 'run -- sh', 'enter idle', 'exec -it idle sh', 'exec idle sh'];
  for (const way of ways) {
    test(`${way}: a terminal of our size that follows ours`, async () => {
      await on(`exec "$V" ${way}`, async (terminal) => {
        terminal.type('stty size; tty; echo $TERM\r');
        await terminal.see(/24 80\r\n\/dev\/pts\/\d+\r\nvt100\r\n/);
        terminal.type('trap "echo resized to \\$(stty size)" WINCH; echo re""ady\r');
        await terminal.see(/ready\r\n/);
        terminal.resize(50, 100);
        // dash runs the trap when it has read a line, and the size may come behind that.
        await eventually('the new size', async () => {
          terminal.type('\r');
          await setTimeout(50);
          return /resized to 50 100/.test(terminal.shown) ? true : undefined;
        });
        terminal.type('exit 5\r');
        assert.equal(await terminal.ended, 5);
      });
    });
  }

  test('Ctrl-C interrupts the command, and its exit code is 130', async () => {
    await on('"$V" run -- sh -c "echo re\\"\\"ady; exec sleep 1000"; echo code $?', async (terminal) => {
      await terminal.see(/ready/);
      terminal.type('\x03');
      await terminal.see(/code 130/);
    });
  });

  test('Ctrl-Z, fg and Ctrl-C work in a shell of the guest', async () => {
    await on('"$V" enter idle; echo code $?', async (terminal) => {
      terminal.type('PS1=; echo $((6*7))\r');
      await terminal.see(/42\r\n/);
      terminal.type('sleep 1000\r');
      // The shell hands the terminal over to the job before that can be stopped.
      await eventually('the job', async () =>
        (await v.ok(['ps', 'idle'])).match(/sleep/g)?.length === 2 ? true : undefined,
      );
      terminal.type('\x1a');
      await terminal.see(/Stopped/);
      terminal.type('fg\r');
      await terminal.see(/\nsleep 1000/);
      // Its name is shown before it has the terminal again.
      await eventually('the job goes on', async () => {
        const all = JSON.parse(await v.ok(['ps', '--json', 'idle'])) as { pid: number; argv: string[] }[];
        return all.some(({ pid, argv }) => argv[0] === 'sleep' && hasTerminal(pid)) || undefined;
      });
      terminal.type('\x03');
      terminal.type('echo $?; exit 3\r');
      await terminal.see(/130\r\n/);
      await terminal.see(/code 3/);
    });
  });

  test('a command that never stops writing is interrupted all the same', async () => {
    await on('"$V" run -it -- yes; echo code $?', async (terminal) => {
      await terminal.see(/y\r\ny\r\n/);
      terminal.type('\x03');
      await terminal.see(/code 130/);
    });
    await on('"$V" run -it -- yes & read x; kill $!; wait $!; echo code $?', async (terminal) => {
      await terminal.see(/y\r\ny\r\n/);
      terminal.type('\r');
      await terminal.see(/code 143/);
    });
  });

  test('our settings are back after the end, also of a client that was told to end', async () => {
    // With `exec`: a child of dash that is about to become `sleep` takes Ctrl-C for its parent (vfork), and nobody ends.
    await on(
      'read line; "$V" run -it -- sh -c "echo re\\"\\"ady; exec sleep 1000"; echo code $?; read line',
      async (terminal) => {
        const before = terminal.settings();
        terminal.type('\r');
        await terminal.see(/ready/);
        assert.notEqual(terminal.settings(), before, 'raw meanwhile');
        terminal.type('\x03');
        await terminal.see(/code 130/);
        assert.equal(terminal.settings(), before);
      },
    );
    // At any moment: before it asked for anything, while the guest starts, when it runs.
    for (let i = 0; i < (IS_VM ? 8 : 40); i++) {
      const script =
        'read line; "$V" run -it -- sleep 1000 & read x; kill $!; wait $!; echo code $?; read line';
      await on(script, async (terminal) => {
        const before = terminal.settings();
        terminal.type('\r');
        await setTimeout((i * (IS_VM ? 150 : 3)) % (IS_VM ? 1000 : 31));
        terminal.type('\r');
        await terminal.see(/code 143/);
        assert.equal(terminal.settings(), before);
      });
    }
  });

  test('Ctrl-P Ctrl-Q leaves the guest running, and what it writes from then on is in its log', async () => {
    const script =
      '"$V" run -it --name left --init=none -- sh -c "echo re\\"\\"ady; while read line; do echo got \\$line; done; ' +
      'while :; do echo still here; sleep 0.1; done"; echo code $?; stty -a';
    await on(script, async (terminal) => {
      await terminal.see(/ready/);
      terminal.type('abc\r');
      await terminal.see(/got abc/);
      terminal.type('\x04\x10\x11');
      await terminal.see(/\[detached\]/);
      await terminal.see(/code 0/);
      await terminal.see(/[^-]echo/);
    });
    assert.match(await v.ok(['list']), /^left +\d+ +running/m);
    await eventually('a log', async () =>
      (await v.ok(['logs', 'left'])).includes('still here') ? true : undefined,
    );
    assert.equal(await v.ok(['exec', 'left', 'echo', 'hi']), 'hi\n');
    await v.ok(['delete', '--force', 'left']);
  });

  test('a Ctrl-P of its own reaches the command', async () => {
    await on(
      '"$V" exec -it idle sh -c "stty raw -echo; echo re\\"\\"ady; head -c 2 | od -An -tx1"',
      async (terminal) => {
        await terminal.see(/ready/);
        terminal.type('\x10x');
        await terminal.see(/10 78/);
        assert.equal(await terminal.ended, 0);
      },
    );
  });

  test('ours is nowhere in the guest', async () => {
    await on('"$V" exec idle sh -c "ls -l /proc/self/fd; cat /proc/self/stat"', async (terminal) => {
      const pts = /\/dev\/pts\/\d+/g;
      assert.equal(await terminal.ended, 0);
      assert.deepEqual(new Set(terminal.shown.match(pts)), new Set(['/dev/pts/0']));
    });
  });

  test('with its output in a pipe a command leaves our input to its neighbour', async () => {
    await on(
      '"$V" exec idle echo text | { read word </dev/tty; cat; echo "read $word"; }',
      async (terminal) => {
        terminal.type('mine\r');
        await terminal.see(/text\r\nread mine/);
        assert.equal(await terminal.ended, 0);
      },
    );
    for (const command of [
      'echo piped | "$V" exec -i idle cat',
      'echo piped | "$V" exec -it idle cat',
      '"$V" exec idle sh -c "echo piped >&2" | cat',
      '"$V" exec idle echo piped | cat',
    ]) {
      await on(command, async (terminal) => {
        await terminal.see(/piped/);
        assert.equal(await terminal.ended, 0);
        assert.match(terminal.shown, /piped\r\n$/, command);
        assert.doesNotMatch(terminal.shown, /\r\r/, command);
      });
    }
  });

  test('a command that closes its terminal before it ends is not hung up', async () => {
    const once = 'echo x | "$V" exec -i idle cat || echo failed $?';
    await on(`for i in $(seq 20); do ${once}; done; echo over`, async (terminal) => {
      await terminal.see(/over/);
      assert.match(terminal.shown, /^(x\r\n){20}over/);
    });
  });

  test('a shell prompt, much output, and the end of it', async () => {
    await on('"$V" exec -t idle sh -c "seq 1 20000; echo l\\"\\"ast"', async (terminal) => {
      await terminal.see(/\n20000\r\nlast\r\n/);
      assert.equal(await terminal.ended, 0);
      assert.equal(terminal.shown.match(/\n/g)?.length, 20_001);
    });
  });
});
