// The rhythm of rendering: text comes at any moment, the screen changes once a frame.

/**
 * Returns {add, flush}. `add(text)` takes text at any rate. Once a frame at most, `render(text)` gets all that came.
 *
 * At 200 tokens a second and 60 frames, `render` runs 60 times instead of 200. In a hidden tab there are no frames: text
 * gathers, and is rendered when the tab is shown again. `flush` renders at once what is left (at the end of an answer).
 */
export function pacer(render) {
  // TODO: gather the text, and ask for one animation frame if none is asked for yet
  throw new Error("pacer: gather the text, and ask for one animation frame if none is asked for yet");
}
