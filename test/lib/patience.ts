/**
 * How many times longer than on an idle machine what is waited for may take. Who waits for an event loses nothing by
 * patience: on a loaded machine twice, in the VM tier, which is emulated, six times.
 */
export const PATIENCE: number = process.env['VSERVER_TEST_VM'] === '1' ? 6 : 2;
