import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadingOrder } from './initrd.ts';

const DEP = `kernel/net/9p/9pnet.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/net/9p/9pnet.ko.xz
kernel/drivers/virtio/virtio.ko.xz:
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/lib/crc-thing.ko.xz:
`;
const BUILTIN = 'kernel/drivers/virtio/virtio-pci.ko\n';

test('a module comes once, after what it needs', () => {
  assert.deepEqual(loadingOrder(DEP, BUILTIN, ['9pnet_virtio', '9p']), [
    'kernel/drivers/virtio/virtio.ko.xz',
    'kernel/net/9p/9pnet.ko.xz',
    'kernel/net/9p/9pnet_virtio.ko.xz',
    'kernel/fs/netfs/netfs.ko.xz',
    'kernel/fs/9p/9p.ko.xz',
  ]);
});

test('the dash and the underscore of a module name are one, and a built-in needs nothing', () => {
  assert.deepEqual(loadingOrder(DEP, BUILTIN, ['virtio_pci', 'crc_thing', 'crc-thing']), [
    'kernel/lib/crc-thing.ko.xz',
  ]);
});

test('a name nobody has is an error', () => {
  assert.throws(() => loadingOrder(DEP, BUILTIN, ['overlay']), /found no module "overlay"/);
});
