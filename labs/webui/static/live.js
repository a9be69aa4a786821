// The running answers that this page listens to. A page goes on listening to an answer whose chat is not on the screen,
// because the server stops an answer that no page listens to.

import { events } from "./api.js";

const RETRY_MS = [300, 1000, 2000, 4000];
const running = new Map(); // the id of the answer → {chat, sofar, watcher}

/**
 * Listen to an answer. `watcher` gets {text, thinking, stats} for each piece and {message} at the end; after a broken
 * connection it gets {restart: true}, and all text once more.
 */
export function listen(answer, chat, watcher, onEnd) {
  const known = running.get(answer);
  if (known) {
    known.watcher = watcher;
    watcher(known.sofar);
    return;
  }
  const entry = { chat, watcher, sofar: { text: "", thinking: "", stats: {} } };
  running.set(answer, entry);
  follow(answer, entry).finally(() => {
    running.delete(answer);
    onEnd(chat);
  });
}

/** Stop showing an answer, but go on listening. */
export function unwatch(answer) {
  const known = running.get(answer);
  if (known) known.watcher = () => {};
}

/** Close this page's connection for an answer; it is opened again at once. A browser has six for each server. */
export function reconnect(answer) {
  running.get(answer)?.connection.abort();
}

export const isRunning = (chat) => [...running.values()].some((entry) => entry.chat === chat);

async function follow(answer, entry) {
  for (let tries = 0; ; tries++) {
    try {
      entry.connection = new AbortController();
      for await (const event of events(answer, entry.connection.signal)) {
        tries = 0;
        if (event.message) return entry.watcher(event);
        const { sofar } = entry;
        entry.sofar = {
          text: sofar.text + event.text, thinking: sofar.thinking + event.thinking, stats: event.stats,
        };
        entry.watcher(event);
      }
    } catch (error) {
      if (error.status === 404 || tries >= RETRY_MS.length) return entry.watcher({ lost: error });
    }
    // The connection broke. The answer may still be running: listen again, from its beginning.
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]));
    entry.sofar = { text: "", thinking: "", stats: {} };
    entry.watcher({ restart: true });
  }
}
