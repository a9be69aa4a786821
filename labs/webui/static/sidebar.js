// The list of chats, the search in all messages, export and import.

import { api } from "./api.js";
import { byId, el, showProblem } from "./dom.js";
import { isRunning } from "./live.js";

const SEARCH_AFTER_MS = 120; // after the last key
const MOST_IMPORT_BYTES = 32e6;

export class Sidebar {
  /** `open(chat, message)` shows a chat, and scrolls to a message if one is given. */
  constructor(open) {
    this.open = open;
    this.list = byId("chats");
    this.field = byId("search");
    this.field.oninput = () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.search(), SEARCH_AFTER_MS);
    };
    this.field.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault(); // else it would stop the answer, too
      this.clear();
    };
    byId("import").onclick = () => byId("import-file").click();
    byId("import-file").onchange = (event) => this.load(event.target);
  }

  /** Ask for the chats, and mark the one that is shown. */
  async refresh(shown = this.shown) {
    this.shown = shown;
    try {
      const { chats, running } = await api("GET", "/api/chats");
      this.chats = chats;
      this.running = running;
      if (!this.field.value.trim()) this.draw();
    } catch (error) {
      showProblem(error, "server");
    }
  }

  draw() {
    let day = "";
    const rows = [];
    for (const chat of this.chats ?? []) {
      const when = dayOf(chat.changed);
      if (when !== day) rows.push(el("li", { class: "day" }, (day = when)));
      const busy = isRunning(chat.id) || this.running.includes(chat.id);
      rows.push(el("li", {}, this.link(chat.id, null, chat.id === this.shown,
        chat.title, chat.pair && el("small", {}, "compare"), busy && el("span", { class: "busy", title: "An answer is being written" }))));
    }
    if (!rows.length) rows.push(el("li", { class: "empty" }, "Your chats will be listed here."));
    this.list.replaceChildren(...rows);
  }

  link(chat, message, current, ...content) {
    const href = `#/chats/${chat}`;
    const onclick = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // the browser opens a new tab or window
      event.preventDefault();
      this.open(chat, message);
    };
    return el("a", { href, onclick, "aria-current": current ? "page" : null }, ...content);
  }

  async search() {
    const words = this.field.value.trim();
    if (!words) return this.draw();
    try {
      const { found } = await api("GET", `/api/search?q=${encodeURIComponent(words)}`);
      if (this.field.value.trim() !== words) return undefined; // a later search is on its way
      this.list.replaceChildren(...found.map((hit) =>
        el("li", {}, this.link(hit.opens, hit.id, false, hit.title, el("small", { class: "snippet" }, ...marked(hit.snippet))))));
      if (!found.length) this.list.replaceChildren(el("li", { class: "empty" }, "No message has all these words."));
    } catch (error) {
      showProblem(error);
    }
    return undefined;
  }

  clear() {
    this.field.value = "";
    this.draw();
  }

  /** The id of the chat before (-1) or after (1) the shown one. */
  beside(step) {
    const place = this.chats?.findIndex((chat) => chat.id === this.shown) ?? -1;
    return this.chats?.[place + step]?.id;
  }

  async load(input) {
    const [file] = input.files;
    input.value = "";
    try {
      if (file.size > MOST_IMPORT_BYTES) throw { what: "This file is larger than 32 MB.", fix: "Export fewer chats at once." };
      let data;
      try {
        data = JSON.parse(await file.text());
      } catch {
        throw { what: "This file is not JSON.", fix: "Choose a file that Export as JSON has written." };
      }
      await api("POST", "/api/import", data);
      await this.refresh();
    } catch (error) {
      showProblem(error);
    }
  }
}

/** Have the browser save a file of our server. */
export function download(path) {
  el("a", { href: path, download: "" }).click();
}

/** The server encloses what was found in \x01 and \x02. */
function marked(snippet) {
  return snippet.split("\x01").flatMap((part, place) => {
    if (place === 0) return [part];
    const [found, rest = ""] = part.split("\x02");
    return [el("mark", {}, found), rest];
  });
}

function dayOf(seconds) {
  const date = new Date(seconds * 1000);
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 864e5);
  return days === 0 ? "Today" : days === 1 ? "Yesterday" : date.toLocaleDateString("en", { month: "long", year: "numeric", day: "numeric" });
}
