/** The two shell scripts a machine starts with. Shell, because at that point there is nothing but busybox. */
import { join } from 'node:path';

/** What the second script is made of. */
export type CommandScript = {
  readonly kernel: { readonly release: string; readonly modulesPath: string };
  readonly checkout: string;
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
};

// Every path that the scripts share; below /run, so that they end with it.
const LOWER = '/run/vm/lower';
const RUN_COMMAND = '/run/vm/run-command';
const NODE = '/run/vm/node';
/** Where Node keeps in the machine what it has compiled. */
export const COMPILE_CACHE = '/run/vm/compile-cache';
/**
 * How Node runs in the machine: without its compilers of machine code. Under emulation what they make is translated a
 * second time, and a start is over before it pays: a control plane starts with half the CPU time.
 */
export const NODE_OPTIONS: readonly string[] = ['--no-opt', '--no-maglev', '--no-sparkplug'];

/**
 * /init of the initramfs: loads the boot modules, makes a root of the host's tree (9P, read-only, with a tmpfs over it)
 * and enters it. A step that fails ends pid 1, so the kernel panics and qemu exits.
 *
 * The host's tree does not change under a running test, so its pages and names are cached (cache=loose): Node starts in
 * 1.5 s the first time and in 0.4 s from then on. That is why the checkout is not carried in a disk image: making one
 * takes as long as the one slow start. /out is read by the host and is not cached.
 */
export function enterRootScript(): string {
  return `#!/bin/busybox sh
set -eu
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro root /lower
mount -t tmpfs -o mode=0755 writes /writes
mkdir /writes/upper /writes/work
mount -t overlay -o lowerdir=/lower,upperdir=/writes/upper,workdir=/writes/work root /root
mkdir -p /root/out /root/dev /root/proc /root/sys /root/run /root/tmp
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=none out /root/out
mount -t ext4 -o usrquota,grpquota,prjquota /dev/vda /root/tmp
chmod 1777 /root/tmp
mount -t tmpfs -o mode=0755 run /root/run
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
mkdir -p /root${LOWER}
mount --move /lower /root${LOWER}
cp /run-command /root${RUN_COMMAND}
cp /bin/busybox /root/run/vm/busybox
exec switch_root /root /run/vm/busybox sh ${RUN_COMMAND}
`;
}

/**
 * Pid 1 of the real root: mounts what an init system mounts, runs the command in the checkout, leaves its output in
 * /out/output.log and its exit status in /out/exit, powers off.
 *
 * The checkout is bound to its place after /tmp, where it may be, and past the overlay: a guest's own overlay may stack
 * on it (the kernel allows two levels).
 */
export function runCommandScript(script: CommandScript): string {
  const modules = `/lib/modules/${script.kernel.release}`;
  const variables = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', TMPDIR: '/tmp', ...script.env };
  const assignments = Object.entries(variables).map(([name, value]) => quote(`${name}=${value}`));
  return `busybox=/run/vm/busybox
for applet in mount umount mkdir mknod ln ip hostname poweroff env cat chmod; do alias $applet="$busybox $applet"; done
mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/net
# What modules.devname is for: opening the node loads its module.
[ -e /dev/fuse ] || mknod -m 0666 /dev/fuse c 10 229
[ -e /dev/net/tun ] || mknod -m 0666 /dev/net/tun c 10 200
[ -e /dev/loop-control ] || mknod -m 0600 /dev/loop-control c 10 237
mount -t devpts -o gid=5,mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
# As systemd does: a manager of cgroups finds the controllers enabled below the root.
echo '+cpuset +cpu +io +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p ${quote(script.checkout)} ${quote(modules)}
mount --bind ${quote(LOWER + script.checkout)} ${quote(script.checkout)}
mount --bind ${quote(LOWER + script.kernel.modulesPath)} ${quote(modules)}
umount -l ${LOWER}
ln -s busybox /run/vm/modprobe
echo /run/vm/modprobe >/proc/sys/kernel/modprobe
ip link set lo up
hostname vm
cd ${quote(script.checkout)}
# vserverd, too, runs as said above; and with the allocator as it is, which gives less back and changes fewer mappings.
cat >${NODE} <<'end'
#!/bin/sh
unset MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_ MALLOC_TOP_PAD_ MALLOC_MMAP_THRESHOLD_
export NODE_COMPILE_CACHE=${COMPILE_CACHE}
exec ${quote(join(script.checkout, 'node_modules/.bin/node'))} ${NODE_OPTIONS.join(' ')} "$@"
end
chmod 755 ${NODE}
mount --bind ${NODE} tools/node
env -i ${assignments.join(' ')} ${script.command.map(quote).join(' ')} </dev/null >/out/output.log 2>&1
echo $? >/out/exit
poweroff -f
`;
}

/** One word of a shell command line. */
function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
