// The rhythm of rendering: text comes at any moment, the screen changes once a frame.

/**
 * Returns {add, flush}. `add(text)` takes text at any rate. Once a frame at most, `render(text)` gets all that came.
 *
 * At 200 tokens a second and 60 frames, `render` runs 60 times instead of 200. In a hidden tab there are no frames: text
 * gathers, and is rendered when the tab is shown again. `flush` renders at once what is left (at the end of an answer).
 */
export function pacer(render) {
  // BEGIN SOLUTION: gather the text, and ask for one animation frame if none is asked for yet
  let waiting = "";
  let frame = 0;
  const flush = () => {
    cancelAnimationFrame(frame);
    frame = 0;
    const text = waiting;
    waiting = "";
    if (text) render(text);
  };
  const add = (text) => {
    waiting += text;
    frame ||= requestAnimationFrame(flush);
  };
  return { add, flush };
  // END SOLUTION
}
