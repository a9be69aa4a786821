// Requests to our own server. A failed one is thrown as {what, fix}.

import { lines } from "./lines.js";

const OURS = "The server of this page";

async function failure(response) {
  const body = await response.json().catch(() => ({}));
  const what = body.what ?? `${OURS} answered with ${response.status}.`;
  return { what, fix: body.fix ?? "Look into its log.", status: response.status };
}

export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw { what: `${OURS} does not answer.`, fix: "Start it again: make webui, or python -m webui. What was saved is there." };
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** One request and its JSON: api("POST", "/api/chats", {targets: [...]}). */
export async function api(method, path, body) {
  const options = body === undefined ? { method } : {
    method,
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
  };
  return (await request(path, options)).json();
}

/** The events of a running answer, from its first word on. */
export async function* events(answer, signal) {
  yield* lines(await request(`/api/answers/${answer}/events`, { signal }));
}
