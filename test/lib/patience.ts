/** How many times longer than on the machine itself what is waited for may take: in the VM tier, which is emulated. */
export const PATIENCE: number = process.env['VSERVER_TEST_VM'] === '1' ? 6 : 1;
