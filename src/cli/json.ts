/**
 * Formats a value as JSON for stdout, indented by two, with a line feed at its end.
 *
 * JSON lets DEL, the C1 controls and bidirectional overrides stand as they are; they are escaped, since the text may be a
 * guest's and the reader a terminal.
 */
export function formatJson(value: unknown): string {
  return `${escapeJson(JSON.stringify(value, null, 2))}\n`;
}

/** Formats a value as one line of JSON, for streams of them; escaped as by `formatJson`. */
export function formatJsonLine(value: unknown): string {
  return `${escapeJson(JSON.stringify(value))}\n`;
}

function escapeJson(json: string): string {
  return json.replace(
    /[\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
