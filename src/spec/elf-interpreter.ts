/** Type of the program header that names the dynamic loader. */
const PT_INTERP = 3;

/**
 * Says whether an ELF program runs without a dynamic loader; false for anything that is no ELF program.
 *
 *     offset  32-bit  64-bit          offset  32-bit  64-bit
 *     magic   0       0               e_phentsize  42      54     u16
 *     class   4       4    1 or 2     e_phnum      44      56     u16
 *     data    5       5    1 LE 2 BE  p_type       0       0      u32, of each program header
 *     e_phoff 28      32   word
 *
 * @param head the file's first bytes, program headers included; headers beyond them count as "no"
 * @see elf(5)
 */
export function isStaticElf(head: Uint8Array): boolean {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (head.length < 64 || view.getUint32(0) !== 0x7f454c46) return false;
  const is64 = view.getUint8(4) === 2;
  const le = view.getUint8(5) === 1;
  const tableAt = is64 ? Number(view.getBigUint64(32, le)) : view.getUint32(28, le);
  const entryBytes = view.getUint16(is64 ? 54 : 42, le);
  const count = view.getUint16(is64 ? 56 : 44, le);
  if (count === 0 || entryBytes < 4 || tableAt + entryBytes * count > head.length) return false;
  for (let i = 0; i < count; i++) {
    if (view.getUint32(tableAt + i * entryBytes, le) === PT_INTERP) return false;
  }
  return true;
}
