// The figures below an answer.

import { milliseconds, number } from "./dom.js";

/** The engine's own counters in words. */
export function figures(stats) {
  const parts = [];
  if (stats.ttft_ms !== undefined) parts.push(`first token ${milliseconds(stats.ttft_ms)}`);
  if (stats.load_ms > 1000) parts.push(`of that, loading ${milliseconds(stats.load_ms)}`);
  if (stats.tok_s) parts.push(`${stats.tok_s.toFixed(1)} tok/s${stats.timed_here ? " (timed here)" : ""}`);
  if (stats.prompt_tokens) parts.push(`prompt ${number(stats.prompt_tokens)} tokens`);
  if (stats.output_tokens) parts.push(`answer ${number(stats.output_tokens)} tokens`);
  if (stats.context_length) {
    const used = (stats.prompt_tokens ?? 0) + (stats.output_tokens ?? 0);
    parts.push(`context ${Math.round((100 * used) / stats.context_length)} % of ${number(stats.context_length)}`);
  }
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · "); // a part is not broken over two lines
}

/** How far an answer is that is being written. A piece is usually a token, but only the engine knows. */
export function progress(stats) {
  const rate = number(stats.pieces / (stats.elapsed_ms / 1000));
  return `first token ${milliseconds(stats.ttft_ms)} · ${milliseconds(stats.elapsed_ms)} · about ${rate} pieces/s`;
}
