// The streaming reader: bytes in, JSON objects out.

/**
 * Yield each JSON object of an NDJSON response as soon as its line is whole.
 *
 * The network cuts the stream anywhere: a block may hold many lines, half a line, or half a UTF-8 character. Empty
 * lines are skipped, and the last line may have no newline. When the caller stops early (`break`, or an abort), the
 * connection is closed, so that the sender notices.
 */
export async function* lines(response) {
  // BEGIN SOLUTION: decode with {stream: true}, keep the unfinished line, and cancel the reader in `finally`
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const parts = rest.split("\n");
      rest = done ? "" : parts.pop();
      for (const line of parts) if (line.trim()) yield JSON.parse(line);
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
  // END SOLUTION
}
