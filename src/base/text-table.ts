/** One column of a table. */
export interface Column {
  readonly title: string;
  /** Numbers read better on the right; default left. */
  readonly align?: 'left' | 'right';
}

/**
 * Formats rows as columns two spaces apart, one line per row, with a line of titles first.
 *
 * Control characters in cells are shown escaped: a cell may hold text from a guest, which must not steer the terminal.
 *
 * @param columns give the order of the cells of each row
 * @param rows    missing cells are empty
 * @returns text ending in a line feed; the empty string when there is neither title line nor row
 */
export function formatTable(
  columns: readonly Column[],
  rows: readonly (readonly string[])[],
  options: { readonly withTitles?: boolean } = {},
): string {
  const titles = options.withTitles === false ? [] : [columns.map((column) => column.title)];
  const cells = [...titles, ...rows].map((row) =>
    columns.map((_, index) => escapeControls(row[index] ?? '')),
  );
  const widths = columns.map((_, index) =>
    Math.max(0, ...cells.map((row) => [...(row[index] ?? '')].length)),
  );
  return cells
    .map((row) => {
      const padded = columns.map((column, index) => {
        const cell = row[index] ?? '';
        const padding = ' '.repeat((widths[index] ?? 0) - [...cell].length);
        return column.align === 'right' ? padding + cell : cell + padding;
      });
      return `${padded.join('  ').trimEnd()}\n`;
    })
    .join('');
}

/** Shows control characters (C0, DEL, C1) and bidirectional overrides as `\xNN` or `\u{NNNN}`. */
export function escapeControls(text: string): string {
  return text.replace(/[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, (char) => {
    const code = char.codePointAt(0) ?? 0;
    return code <= 0xff ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u{${code.toString(16)}}`;
  });
}
