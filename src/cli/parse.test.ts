import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseCommandLine } from './parse.ts';
import { VERB_NAMES } from './verb-table.ts';
import type { ParsedVerb, Verb } from './verb-types.ts';

function parse<V extends Verb>(verb: V, ...argv: string[]): ParsedVerb<V> {
  const parsed = parseCommandLine(argv);
  assert.equal(parsed.verb, verb);
  return parsed as unknown as ParsedVerb<V>;
}

describe('order of words', () => {
  test('verb first, or the guest first as in the original', () => {
    assert.deepEqual(parse('start', 'start', 'web', 'db').operands, ['web', 'db']);
    assert.deepEqual(parse('start', 'web', 'start').operands, ['web']);
    assert.deepEqual(parse('stop', '42', 'stop', '-t', '5').options.timeout, 5000);
    assert.deepEqual(parse('exec', 'web', 'exec', 'ls', '-l').command, ['ls', '-l']);
    assert.deepEqual(parse('stop', 'stop', 'start').operands, ['start'], 'a guest named like a verb');
    assert.equal(parse('delete', 'rm', 'web').verb, 'delete');
  });

  test('the command begins at the first word after the operands and is not looked at', () => {
    const run = parse('run', 'run', '--rm', '--template', 'busybox', 'sh', '-c', '--rm', '--', '-x');
    assert.deepEqual(run.command, ['sh', '-c', '--rm', '--', '-x']);
    assert.deepEqual(parse('run', 'run', '--', '--rm').command, ['--rm']);
    const exec = parse('exec', 'exec', 'web', '-it', 'sh', '-h');
    assert.deepEqual([exec.operands, exec.command], [['web'], ['sh', '-h']]);
    assert.deepEqual([exec.options.interactive, exec.options.tty], [true, true]);
    assert.deepEqual(parse('exec', 'exec', 'web', '--', '-x').command, ['-x']);
  });

  test('the name of a new guest is an operand or an option', () => {
    const first = parse('create', 'create', 'web', '--template', 'busybox', '--', '-x', 'y');
    assert.deepEqual([first.operands, first.command], [['web'], ['-x', 'y']]);
    const second = parse('create', 'create', '--name', 'web', '--', 'httpd', '-f');
    assert.deepEqual([second.operands, second.options.name, second.command], [[], 'web', ['httpd', '-f']]);
  });

  test('other verbs take options anywhere until --', () => {
    assert.equal(parse('kill', 'kill', 'web', '-s', 'hup').options.signal, 'SIGHUP');
    assert.throws(() => parseCommandLine(['kill', '--', '-s']), { code: 'invalid-name' });
  });

  test('global options stand before and after the verb', () => {
    const before = parse('list', '--root', '/r', '--json', 'list', '-a');
    assert.deepEqual(before.global, { root: '/r', json: true, quiet: false });
    assert.equal(before.options.all, true);
    assert.deepEqual(parse('list', 'list', '-aq', '--root=/s').global, {
      root: '/s',
      json: false,
      quiet: true,
    });
  });

  test('help and version', () => {
    assert.deepEqual(parse('help').operands, []);
    assert.deepEqual(parse('help', '--help').operands, []);
    assert.deepEqual(parse('help', '-h', 'run').operands, ['run']);
    assert.deepEqual(parse('help', 'help', 'run').operands, ['run']);
    assert.equal(parse('version', '--version').verb, 'version');
    for (const verb of VERB_NAMES) assert.deepEqual(parse('help', verb, '--help').operands, [verb]);
  });
});

describe('values', () => {
  test('of run', () => {
    const argv =
      'run -dit --name web --template busybox --xid 42 -e A=1 -eB -e=C=x=y --env-file f -w /srv -u www:www --hostname h ' +
      '--domainname d --init -m512m --memory-swap=-1 --cpus 1.5 --cpu-shares 1024 --cpu-weight 7 --pids-limit -1 ' +
      '--shm-size 64m --disk 2g --disk-inodes 1000 --network host --ip 10.0.0.5/24 --ip 2001:DB8::5 --network-interface eth0 --bridge br0 --gateway 10.0.0.1 --traffic-quota 100g/month --dns 10.0.0.53 --dns-search example.org --add-host db:10.0.0.7 --add-host six:[fd00::7] --network-of db --cap-add net_raw --cap-drop CAP_MKNOD --ccaps raw_icmp --bcaps +SYS_NICE,~KILL ' +
      '--security-opt seccomp=unconfined --security-opt no-new-privileges:false --ulimit nofile=10:20 --read-only ' +
      '--tmpfs /tmp:size=1m,ro -v /a:/b:ro --mount type=bind,src=/c,dst=/d,idmap --sysctl net.x=1 --stop-signal 9 ' +
      '--stop-timeout 10 --restart on-failure:3 --mark default --depends db --health-cmd true --health-interval 5 --health-timeout 1s --health-retries 2 ' +
      '--health-start-period 1m --health-on-failure stop --label a=b --trust-domain tenant-a --label c --explain --rm -- httpd -f';
    const { options, command } = parse('run', ...argv.split(' '));
    assert.deepEqual(command, ['httpd', '-f']);
    assert.deepEqual(options, {
      name: 'web',
      template: 'busybox',
      trustDomain: 'tenant-a',
      xid: 42,
      command: undefined,
      env: [
        { name: 'A', value: '1' },
        { name: 'B', value: undefined },
        { name: 'C', value: 'x=y' },
      ],
      envFile: ['f'],
      user: 'www:www',
      workdir: '/srv',
      hostname: 'h',
      domainname: 'd',
      init: 'fake',
      memory: 536_870_912,
      memorySwap: 'max',
      cpus: 1.5,
      cpuShares: 100,
      cpuWeight: 7,
      pidsLimit: 'max',
      shmSize: 67_108_864,
      disk: 2_147_483_648,
      diskInodes: 1000,
      network: 'host',
      ip: ['10.0.0.5/24', '2001:db8::5/128'],
      networkInterface: 'eth0',
      bridge: 'br0',
      gateway: ['10.0.0.1'],
      trafficQuota: { bytes: '100g', per: 'month' },
      dns: ['10.0.0.53'],
      dnsSearch: ['example.org'],
      addHost: [
        ['db', '10.0.0.7'],
        ['six', 'fd00::7'],
      ],
      networkOf: 'db',
      capAdd: ['+NET_RAW'],
      capDrop: ['-MKNOD'],
      bcaps: ['+SYS_NICE', '~KILL'],
      ccaps: ['raw_icmp'],
      securityOpt: [
        { kind: 'seccomp', choice: 'unconfined' },
        { kind: 'noNewPrivileges', isOn: false },
      ],
      ulimit: [{ name: 'nofile', limit: { soft: 10, hard: 20 } }],
      readOnly: true,
      tmpfs: [{ type: 'tmpfs', target: '/tmp', readonly: true, size: 1_048_576 }],
      volume: [{ type: 'bind', source: '/a', target: '/b', readonly: true }],
      mount: [{ type: 'bind', source: '/c', target: '/d', readonly: false, idmap: true }],
      sysctl: [['net.x', '1']],
      stopSignal: 'SIGKILL',
      stopTimeout: 10_000,
      restart: { policy: 'on-failure', maxRetries: 3 },
      mark: ['default'],
      depends: ['db'],
      healthCmd: 'true',
      healthInterval: 5000,
      healthTimeout: 1000,
      healthRetries: 2,
      healthStartPeriod: 60_000,
      healthOnFailure: 'stop',
      label: [
        ['a', 'b'],
        ['c', ''],
      ],
      explain: true,
      detach: true,
      rm: true,
      interactive: true,
      tty: true,
    });
  });

  test('flags can be turned off, init takes its style only with =', () => {
    assert.equal(parse('run', 'run', '--rm', '--rm=false', 'x').options.rm, false);
    const run = parse('run', 'run', '--init=own', '--init', 'none');
    assert.deepEqual([run.options.init, run.command], ['fake', ['none']]);
    assert.deepEqual(parse('run', 'run', '--command', "sh -c 'a b'").options.command, ['sh', '-c', 'a b']);
  });

  test('--all stands for the guests', () => {
    assert.deepEqual(parse('stop', 'stop', '--all').operands, []);
  });
});

describe('bad command lines', () => {
  const RUN_VALUES: readonly string[] = [
    '--name 42',
    '--name a/b',
    '--template=',
    '--xid 1',
    '--xid web',
    '--command=',
    "--command='x",
    '--env =x',
    '-e=',
    '--env-file=',
    '--user=',
    '--workdir=',
    '--hostname=',
    '--domainname=',
    '--init=systemd',
    '--init=',
    '--memory 5x',
    '-m -5',
    '--memory-swap lots',
    '--cpus 0',
    '--cpus abc',
    '--cpu-shares 1',
    '--cpu-weight 10001',
    '--pids-limit 0',
    '--shm-size max',
    '--network bridge',
    '--cap-add FLY',
    '--cap-add -CHOWN',
    '--cap-drop ',
    '--bcaps NET_RAW,-KILL',
    '--security-opt apparmor=x',
    '--security-opt seccomp=relative.json',
    '--security-opt no-new-privileges=maybe',
    '--ulimit nofile',
    '--ulimit nofile=20:10',
    '--ulimit files=1',
    '--tmpfs tmp',
    '--tmpfs /tmp:exec',
    '-v /a',
    '-v a:/b',
    '-v /a:/b:rx',
    '--mount type=volume,target=/x',
    '--mount type=bind,target=/x',
    '--mount type=tmpfs,source=/y,target=/x',
    '--mount type=tmpfs,target=/x,idmap',
    '--mount source=/y,target=/x,target=/z',
    '--mount source=/y,target=/x,tmpfs-size=1m',
    '--mount source=/y,target=/x,readonly=maybe',
    '--sysctl net.x',
    '--sysctl =1',
    '--stop-signal TERMINATE',
    '--stop-timeout soon',
    '--restart sometimes',
    '--mark=a/b',
    '--depends 42',
    '--health-cmd=',
    '--health-interval soon',
    '--health-retries 0',
    '--health-on-failure reboot',
    '--restart always:3',
    '--restart on-failure:0',
    '--label =x',
    '--explain=maybe',
    '--detach=1',
    '--rm=no',
    '-ix',
    '--tty=',
  ];
  const LINES: Readonly<Record<Verb, readonly string[]>> = {
    run: [...RUN_VALUES.map((value) => `run ${value}`), 'run --command a b', 'run --name', 'run -e'],
    create: [
      'create',
      'create a/b',
      'create 42',
      'create x --name y',
      'create --name w --rm',
      'create w --explain',
      'create --name w --command a b',
      'create --name w -d',
    ],
    build: [
      'build -m skeleton',
      'build x -m nothing',
      'build x -m',
      'build x -m template --interface eth0',
      'build x -m template --interface eth0:10.0.0.5/255.0.255.0',
      'build x -m template --flags private',
      'build x -m template --initstyle gentoo',
    ],
    start: [
      'start',
      'start --all web',
      'start --mark a web',
      'start --mark=',
      'start --force web',
      'start --explain=2 web',
    ],
    stop: ['stop', 'stop -t', 'stop -t x web', 'stop --signal TERM web'],
    restart: ['restart', 'restart --timeout -1 web', 'restart -a web'],
    exec: [
      'exec',
      'exec web',
      'exec web --',
      'exec --memory 5m web ls',
      'exec -e = web ls',
      'exec --rm web ls',
    ],
    diff: ['diff', 'diff --all'],
    du: ['du --all', 'du -x'],
    quota: ['quota', 'quota web db', 'quota web --space -1', 'quota web --inodes many'],
    retag: ['retag', 'retag web', 'retag web 1', 'retag web 77 x'],
    owner: ['owner', 'owner -x'],
    export: ['export', 'export web other', 'export -o', 'export --all', 'export --zstd=x web'],
    import: ['import', 'import a 42', 'import a b c', 'import --xid 1 a', 'import --max-size x a'],
    enter: ['enter', 'enter web sh', 'enter -u', 'enter -i web'],
    kill: [
      'kill',
      'kill -s NOPE web',
      'kill -9 web',
      'kill -s 0 web',
      'kill -a web',
      'kill -p x web',
      'kill -p 0 web',
    ],
    pause: ['pause', 'pause --all web', 'pause -x web'],
    resume: ['resume', 'resume --all web', 'resume --timeout 1 web'],
    ps: ['ps -x', 'ps --all web', 'ps --tree=2'],
    list: ['list web', 'list --label', 'list --label =x', 'list --filter a=b'],
    status: ['status', 'status --all web', 'status -x web'],
    inspect: ['inspect', 'inspect -a web', 'inspect --format x web'],
    limit: ['limit', 'limit web db', 'limit web -c db', 'limit --nproc x web', 'limit --cpu 5 web'],
    sched: [
      'sched',
      'sched web db',
      'sched web --hard=1',
      'sched web --fill-rate x',
      'sched web --prio-bias 1.5',
    ],
    procfs: ['procfs a b', 'procfs --all'],
    stat: ['stat --all', 'stat -x web', 'stat --since', 'stat --since yesterday'],
    top: ['top web', 'top --sort x', 'top --interval 0', 'top --interval x', 'top --once=1'],
    traffic: ['traffic', 'traffic -a web', 'traffic --format x web'],
    denied: ['denied', 'denied -a web', 'denied --format x web'],
    set: ['set', 'set web memory', 'set web =1', 'set --unset', 'set --unset= web', 'set -m 5m web'],
    logs: ['logs', 'logs web db', 'logs -n x web', 'logs --tail -1 web', 'logs --since 1m web'],
    events: [
      'events web',
      'events --since yesterday',
      'events --type nonsense',
      'events --type started,',
      'events --guest=',
    ],
    wait: ['wait', 'wait --all', 'wait -x web'],
    delete: ['delete', 'delete -a web', 'delete --yes web'],
    check: ['check --all', 'check --kernel'],
    clone: ['clone', 'clone web', 'clone web a/b', 'clone web b =1', 'clone web b --ip x'],
    snapshot: ['snapshot', 'snapshot web --keep 0', 'snapshot web a b'],
    snapshots: ['snapshots', 'snapshots web db', 'snapshots web --forget'],
    rollback: ['rollback', 'rollback web', 'rollback web a b'],
    unify: ['unify', 'unify --all web', 'unify --dry-run=1 web'],
    store: ['store x', 'store gc web', 'store gc --dry-run=1'],
    version: ['version 1', 'version --short'],
    completion: ['completion', 'completion tcsh', 'completion bash zsh'],
    daemon: ['daemon', 'daemon restart', 'daemon start now', 'daemon --foreground start'],
    help: ['help run stop', 'help --topic'],
  };

  for (const verb of VERB_NAMES) {
    test(verb, () => {
      for (const line of LINES[verb]) {
        // A blank at the line's end is an empty value.
        assert.throws(() => parseCommandLine(line.split(' ')), { name: 'UserError' }, line);
      }
    });
  }

  test('of no verb', () => {
    for (const line of [
      'frobnicate',
      'web frobnicate',
      'web run',
      'web list',
      '../x start',
      '--rot /x list',
      '--root',
      '-x',
    ]) {
      assert.throws(() => parseCommandLine(line.split(' ')), { name: 'UserError', code: 'usage' }, line);
    }
  });

  test('wrong operands keep the code of what is wrong', () => {
    assert.throws(() => parseCommandLine(['start', 'a/b']), { code: 'invalid-name' });
    assert.throws(() => parseCommandLine(['start', '1']), { code: 'invalid-xid' });
  });

  test('come with a hint', () => {
    assert.throws(() => parseCommandLine(['strat', 'web']), { hint: 'did you mean "start"?' });
    assert.throws(() => parseCommandLine(['pstree', 'web']), { hint: 'use "vserver ps --tree"' });
    assert.throws(() => parseCommandLine(['stats']), { hint: 'use "vserver top"' });
    assert.throws(() => parseCommandLine(['web', 'suexec', 'www', 'id']), {
      message: 'cannot understand "suexec"; need a verb',
      hint: 'use "vserver exec -u USER GUEST COMMAND"',
    });
    assert.throws(() => parseCommandLine(['web', 'strat']), {
      message: 'cannot understand "strat"; need a verb',
      hint: 'did you mean "start"?',
    });
    assert.throws(() => parseCommandLine(['web', 'list']), {
      message: 'cannot understand "web list"; need the verb first',
      hint: 'see "vserver list --help"',
    });
    assert.throws(() => parseCommandLine(['web', 'nonsense']), {
      message: 'cannot understand "web"; need a verb',
      hint: 'see "vserver help"',
    });
    assert.throws(() => parseCommandLine(['run', '-p', '80:80', 'nginx']), {
      hint: 'a guest is reached at every port of its own addresses: use --ip ADDRESS',
    });
    assert.throws(() => parseCommandLine(['exec', '-p', 'web']), { hint: 'see "vserver exec --help"' });
    assert.throws(() => parseCommandLine(['logs', '--since=1h', 'web']), {
      hint: 'use --tail LINES, or --timestamps',
    });
    assert.throws(() => parseCommandLine(['run', '--memroy', '5m']), { hint: 'did you mean "--memory"?' });
    assert.throws(() => parseCommandLine(['list', '--jsn']), { hint: 'did you mean "--json"?' });
    assert.throws(() => parseCommandLine(['exec', 'web']), { hint: 'see "vserver exec --help"' });
    assert.throws(() => parseCommandLine(['run', '-m', '5x']), {
      message:
        'cannot take -m: cannot read size "5x"; need a number with an optional unit b, k, m, g, t or p, for example 512m',
    });
  });
});
