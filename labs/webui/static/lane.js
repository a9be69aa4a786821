// One conversation on the screen: its messages, and the answer that is being written. Compare shows two lanes.

import { api } from "./api.js";
import { addThought, copyText, el, iconButton, number, showProblem, thoughts } from "./dom.js";
import { figures, progress } from "./figures.js";
import { Follower } from "./follow.js";
import { listen, reconnect, unwatch } from "./live.js";
import { markdownWriter, renderMarkdown } from "./markdown.js";
import { pacer } from "./pacer.js";

const FIGURES_MS = 250; // the live figures change this often
const STOP_WITHIN_MS = 500;

export class Lane {
  /** `hooks`: changed(chat) after anything that changes the history, ended(chat), announce(text), pick(lane, target). */
  constructor(hooks) {
    this.hooks = hooks;
    this.chat = null; // null: a chat that is created with its first message
    this.answer = null; // the id of the running answer
    this.select = el("select", { "aria-label": "Model", onchange: () => hooks.pick(this, this.select.value) });
    this.fill = el("meter", { min: 0, max: 1, high: 0.9, optimum: 0, "aria-label": "How full the context is", hidden: true });
    this.earlier = el("button", { class: "earlier", hidden: true, onclick: () => this.showEarlier() }, "Earlier messages");
    this.messages = el("div", { class: "messages" });
    this.newest = el("button", { class: "newest", hidden: true, onclick: () => this.toNewest() }, "To the newest");
    this.scroller = el("div", { class: "scroller", tabIndex: 0, role: "region", "aria-label": "Messages" }, this.earlier, this.messages);
    this.root = el("section", { class: "lane" }, el("div", { class: "lane-head" }, this.select, this.fill), this.scroller, this.newest);
    this.follower = new Follower(this.scroller, this.messages, () => this.showNewest());
    new IntersectionObserver((seen) => seen[0].isIntersecting && this.showEarlier(), { root: this.scroller, rootMargin: "400px" })
      .observe(this.earlier);
  }

  get target() { return this.select.value; }

  /** Show a chat as the server sent it; `at`: the id of a message to scroll to. */
  show(chat, at = null) {
    if (this.answer) unwatch(this.answer);
    this.chat = chat;
    this.answer = null;
    this.follower.on = at === null;
    this.later = chat?.later ?? false;
    this.messages.replaceChildren();
    this.fill.hidden = true;
    this.earlier.hidden = !chat?.more;
    for (const message of chat?.messages ?? []) this.add(message);
    this.scroller.querySelector(`[data-id="${at}"]`)?.scrollIntoView({ block: "center" });
    if (at === null) this.follower.toEnd();
    else this.follower.look();
    this.showNewest();
  }

  toNewest() {
    if (this.later) this.hooks.reopen();
    this.follower.toEnd();
  }

  showNewest() { this.newest.hidden = this.follower.on && !this.later; }

  async showEarlier() {
    if (this.loading || this.earlier.hidden) return;
    this.loading = true;
    const { chat } = this;
    try {
      const before = this.messages.firstElementChild.dataset.id;
      const { lanes } = await api("GET", `/api/chats/${chat.id}?before=${before}`);
      if (this.chat !== chat) return; // another chat was chosen meanwhile
      const lane = lanes.find((one) => one.id === chat.id);
      const height = this.scroller.scrollHeight;
      this.messages.prepend(...lane.messages.map((message) => this.article(message)));
      this.scroller.scrollTop += this.scroller.scrollHeight - height;
      this.earlier.hidden = !lane.more;
    } catch (error) {
      showProblem(error);
    } finally {
      this.loading = false;
    }
  }

  add(message) {
    const article = this.article(message);
    this.messages.append(article);
    if (message.state === "running") this.attach(message.id, article);
    else this.showFill(message.stats);
    return article;
  }

  /** One message as an element. */
  article(message) {
    const mine = message.role === "user";
    const body = el("div", { class: "body" });
    if (mine) body.append(message.text);
    else renderMarkdown(body, message.text);
    const name = mine ? "You" : message.target.replace(/^ollama:/, "");
    const article = el("article", { class: `message ${message.role}`, "data-id": message.id, "aria-label": name },
      !mine && el("p", { class: "name" }, name), thoughts(message.thinking), body);
    if (message.state !== "running") this.finish(article, message);
    return article;
  }

  /** The line below a finished message: its note, its figures, and what can be done with it. */
  finish(article, message) {
    const mine = message.role === "user";
    const copy = iconButton("copy", "Copy this message", () => copyText(message.text));
    const change = mine
      ? iconButton("pencil", "Edit this message", () => this.edit(article, message))
      : iconButton("again", "Regenerate this answer", () => this.regenerate(message));
    article.querySelector("footer")?.remove();
    article.append(el("footer", {},
      message.note && el("p", { class: `note ${message.state}` }, message.note),
      message.state === "stopped" && !message.note && el("p", { class: "note" }, "Stopped."),
      el("span", { class: "figures" }, mine ? "" : figures(message.stats)), copy, change, this.versions(message)));
  }

  /** ‹ 2 / 3 › between the versions of an edited question or a regenerated answer. */
  versions({ id, versions = [id] }) {
    if (versions.length < 2) return null;
    const place = versions.indexOf(id);
    const go = (to) => this.act(() => api("POST", `/api/chats/${this.chat.id}/switch`, { message: versions[to] }), true);
    return el("span", { class: "versions" },
      iconButton("left", "The version before", () => go(place - 1), { disabled: place === 0 }),
      `${place + 1} / ${versions.length}`,
      iconButton("right", "The next version", () => go(place + 1), { disabled: place === versions.length - 1 }));
  }

  /** Do something that changes the chat, then show it anew if it is still on the screen. */
  async act(what, reopen) {
    const { chat } = this;
    try {
      const result = await what();
      if (this.chat?.id !== chat.id) { // another was chosen meanwhile: the server stops an answer that no page listens to
        if (result.answer) listen(result.answer, chat.id, () => {}, this.hooks.ended);
      } else if (reopen || this.chat !== chat) await this.hooks.reopen(); // or another tab made us show it anew meanwhile
      this.hooks.changed(chat.id);
      return result;
    } catch (error) {
      showProblem(error);
      return null;
    }
  }

  /** Send a question. The chat must exist. */
  async send(text, insteadOf) {
    const { chat, target } = this;
    const body = insteadOf ? { text, instead_of: insteadOf } : { text };
    const path = `/api/chats/${chat.id}/messages`;
    if (insteadOf || this.later) return this.act(() => api("POST", path, body), true);
    const ids = await this.act(() => api("POST", path, body));
    if (!ids || this.chat !== chat) return ids;
    this.follower.on = true;
    this.add({ id: ids.question, role: "user", text, state: "done", stats: {} });
    this.add({ id: ids.answer, role: "assistant", text: "", state: "running", target, stats: {} });
    return ids;
  }

  regenerate(message) {
    return this.act(() => api("POST", `/api/chats/${this.chat.id}/regenerate`, { message: message.id }), true);
  }

  edit(article, message) {
    const field = el("textarea", { value: message.text, "aria-label": "Your changed message", rows: 3 }), back = () => this.hooks.reopen();
    const send = () => field.value.trim() && this.send(field.value.trim(), message.id);
    field.onkeydown = (event) => {
      if (event.key === "Escape") {
        event.preventDefault(); // else it would stop the answer, too
        back();
      }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    };
    article.querySelector(".body").replaceWith(el("div", { class: "edit" }, field,
      el("div", { class: "row end" }, el("button", { type: "button", onclick: back }, "Cancel"),
        el("button", { type: "button", class: "primary", onclick: send }, "Send"))));
    field.focus();
  }

  /** Ask the server to stop the answer. It closes its connection to the engine, and that makes the engine stop. */
  async stop() {
    const { answer } = this;
    if (!answer) return;
    // With many running answers the browser has no connection left. Then this request gets the answer's own.
    const late = setTimeout(() => reconnect(answer), STOP_WITHIN_MS);
    await api("POST", `/api/answers/${answer}/stop`).catch(showProblem);
    clearTimeout(late);
  }

  /** Show a running answer as it comes. */
  attach(answer, article) {
    this.answer = answer;
    const shown = el("span", { class: "figures" }, "Waiting for the first token …");
    article.append(el("footer", {}, shown));
    let writer, last = -Infinity, stale = false; // stale: the connection broke, so what is shown will come once more
    const restart = () => {
      stale = false;
      article.querySelector(".body").replaceChildren();
      article.querySelector(".thinking")?.remove();
      writer = markdownWriter(article.querySelector(".body"), this.hooks.announce);
    };
    const pace = pacer((text) => writer.write(text));
    restart();
    this.hooks.announce("The answer begins.");
    const done = (message) => {
      pace.flush();
      writer.end();
      this.answer = null;
      this.finish(article, message);
      this.showFill(message.stats);
      const end = { done: "is complete", stopped: "was stopped", failed: "failed", lost: "was lost" }[message.state];
      this.hooks.announce(`The answer ${end}. ${message.note}`);
      this.hooks.changed(this.chat.id);
    };
    listen(answer, this.chat.id, (event) => {
      if (event.restart) {
        pace.flush();
        stale = true;
        return undefined;
      }
      if (event.lost) { // what has come stays on the screen
        showProblem(event.lost);
        const text = article.querySelector(".body").textContent;
        return done({ id: answer, role: "assistant", text, state: "lost", note: "The connection was lost. Reload the page.", stats: {} });
      }
      if (stale) restart();
      if (event.message) return done(event.message);
      pace.add(event.text);
      if (event.thinking) addThought(article, event.thinking);
      if (event.stats.pieces && performance.now() - last > FIGURES_MS) {
        last = performance.now();
        shown.textContent = progress(event.stats);
        if (!this.fill.hidden) this.showFill(this.filled, event.stats.pieces);
      }
      return undefined;
    }, this.hooks.ended);
  }

  /** `pieces`: of the answer that is being written, which the engine has not counted yet. */
  showFill(stats, pieces = 0) {
    if (!stats?.context_length) return;
    this.filled = stats;
    const used = (stats.prompt_tokens ?? 0) + (stats.output_tokens ?? 0) + pieces;
    this.fill.hidden = false;
    this.fill.value = used / stats.context_length;
    this.fill.title = `${pieces ? "About " : ""}${number(used)} of ${number(stats.context_length)} tokens of context are used`;
  }
}
