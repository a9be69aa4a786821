// The page: what is shown, what the buttons and keys do. Start reading here.

import { api } from "./api.js";
import { ask, byId, clearProblem, drawIcons, el, showProblem } from "./dom.js";
import { Lane } from "./lane.js";
import { Models } from "./models.js";
import { defaults, drawParameters } from "./parameters.js";
import { announce, grow, moveInMenu, showMenu, showSidebar, switchTheme, useTheme } from "./shell.js";
import { Sidebar, download } from "./sidebar.js";

const STATUS_EVERY_MS = 3000; // while an engine does not answer
const KEYS = {
  "Alt+N": ["A new chat", () => newChat(1)],
  "Alt+C": ["Compare two models", () => newChat(2)],
  "Alt+M": ["Models", () => models.open()],
  "Alt+S": ["Settings of this chat", () => byId("open-parameters").click()],
  "Alt+R": ["Regenerate the last answer", () => lanes.forEach((lane) => lane.root.querySelector(".message:last-child [aria-label^=Regenerate]")?.click())],
  "Alt+ArrowUp": ["The chat above", () => open(sidebar.beside(-1))],
  "Alt+ArrowDown": ["The chat below", () => open(sidebar.beside(1))],
  "Ctrl+K": ["Search", () => (showSidebar(true), byId("search").focus())],
  Escape: ["Stop the answer", () => stop()],
  "Alt+/": ["This list", () => showKeys()],
};
const prompt = byId("prompt");
const tabs = new BroadcastChannel("webui"); // other tabs of this page learn what has changed
let lanes = [];
let shown = null; // the id of the chat on the screen
let targets = [];
let opening = 0;
let sending = false;
let done = 0; // how often this page has changed something
let saved = Promise.resolve(); // the last change of a model or of settings

const sidebar = new Sidebar((chat, message) => {
  showSidebar(false);
  open(chat, message);
});
const models = new Models(modelsChanged);

function makeLanes(count) {
  if (lanes.length === count) return;
  lanes.forEach((lane) => lane.show(null)); // a lane that goes must not read out its answer any more
  lanes = Array.from({ length: count }, () => new Lane({ changed, ended, announce, pick, reopen: () => open(shown) }));
  byId("lanes").replaceChildren(...lanes.map((lane) => lane.root));
  byId("lanes").className = count > 1 ? "pair" : "";
}

/** Show a chat; `message`: the one to scroll to. */
async function open(id, message = null) {
  if (!id) return;
  const turn = ++opening, before = done;
  const path = `/api/chats/${id}`;
  try {
    let found = await api("GET", message ? `${path}?at=${message}` : path);
    const lane = found.lanes.find((one) => one.messages.some(({ id: other }) => other === message));
    if (message && !lane) { // it belongs to another version of the chat
      for (const one of found.lanes) await api("POST", `/api/chats/${one.id}/switch`, { message }).catch(() => {});
      found = await api("GET", `${path}?at=${message}`);
    }
    if (turn !== opening) return; // another chat was chosen meanwhile
    if (id === shown && before !== done) await open(id, message); // what came is older than what is on the screen
    else show(found.lanes, message);
  } catch (error) {
    showProblem(error);
    if (error.status === 404 || !lanes.length) newChat(1);
  }
}

function show(chats, message = null) {
  makeLanes(chats.length);
  shown = chats[0].id;
  chats.forEach((chat, place) => {
    lanes[place].show(chat, message);
    fillTargets(lanes[place], chat.target);
  });
  setTitle(chats[0].title);
  history.replaceState(null, "", `#/chats/${shown}`);
  sidebar.refresh(shown);
  drawParameters(chats[0], (settings) => save(chats, settings));
  busy();
}

function newChat(count) {
  opening++;
  makeLanes(count);
  shown = null;
  const last = JSON.parse(localStorage.getItem("webui.targets") ?? "[]");
  lanes.forEach((lane, place) => {
    lane.show(null);
    fillTargets(lane, last[place] ?? targets[place] ?? targets[0]);
    if (!place) lane.messages.append(el("div", { class: "welcome" }, el("h2", {}, count > 1 ? "One question, two answers" : "What would you like to know?"),
      el("p", {}, count > 1 ? "Choose two models or engines above. Both are asked the same, and their figures stand below. Two models of one engine may wait for each other." : "Everything stays on this machine.")));
  });
  setTitle("New chat");
  history.replaceState(null, "", "#/");
  sidebar.refresh(null);
  drawParameters(defaults(), () => {});
  showSidebar(false);
  busy();
  prompt.focus();
}

async function send() {
  const text = prompt.value.trim();
  if (!text || sending || lanes.some((lane) => lane.answer)) return;
  sending = true; // else a second Enter, before the server has answered, would ask twice
  let asked = shown;
  try {
    await saved; // else the question might overtake a change of the settings
    if (lanes.some((lane) => !lane.target)) await models.refresh(); // the list of models was not here yet
    if (shown !== asked) return; // the text stays in its field
    const chosen = lanes.map((lane) => lane.target);
    if (chosen.some((one) => !one)) throw { what: "There is no model yet.", fix: "Open Models, and pull one." };
    localStorage.setItem("webui.targets", JSON.stringify(chosen));
    if (shown === null) show((await api("POST", "/api/chats", { targets: chosen, ...defaults() })).lanes);
    prompt.value = "";
    grow(prompt);
    asked = shown;
    const sent = await Promise.all(lanes.map((lane) => lane.send(text)));
    if (!sent.some(Boolean)) prompt.value = text; // nothing was sent: what was typed is not lost
    if (shown === asked && document.title === "New chat") setTitle(text.slice(0, 80));
  } catch (error) {
    showProblem(error);
  } finally {
    sending = false;
  }
  busy();
}

const stop = () => Promise.all(lanes.map((lane) => lane.stop()));

function busy() {
  const running = lanes.some((lane) => lane.answer);
  byId("send").hidden = running;
  byId("stop").hidden = !running;
  for (const id of ["delete", "rename", "export-md", "export-json"]) byId(id).disabled = shown === null;
}

/** The history changed: here, or (`told`) in another tab. */
function changed(chat, told = false) {
  if (!told) (done++, tabs.postMessage(chat));
  else if (lanes.some((lane) => lane.chat?.id === chat) && !lanes.some((lane) => lane.answer) && !document.querySelector(".edit, #parameters :focus")) {
    open(shown);
  }
  sidebar.refresh();
  busy();
}

function ended() {
  sidebar.refresh();
  models.refresh(); // an answer that failed may mean that its engine is gone
}

tabs.onmessage = (event) => changed(event.data, true);

const pick = (lane, target) => lane.chat && save([lane.chat], { target });

/** Change these chats: one change after the other, so that the last one holds. */
function save(chats, fields) {
  for (const chat of chats) {
    Object.assign(chat, fields);
    saved = saved.then(() => api("PATCH", `/api/chats/${chat.id}`, fields)).catch(showProblem);
  }
}

function modelsChanged(state) {
  const before = targets.join("\n");
  targets = state.targets;
  for (const problem of byId("problems").querySelectorAll("[data-key^='engine:']")) problem.remove();
  clearProblem("server");
  for (const problem of state.problems) showProblem(problem, `engine:${problem.what}`);
  clearTimeout(modelsChanged.timer);
  if (state.problems.length) modelsChanged.timer = setTimeout(() => models.refresh(), STATUS_EVERY_MS);
  if (before !== targets.join("\n")) for (const lane of lanes) fillTargets(lane, lane.chat?.target ?? (lane.target || targets[lanes.indexOf(lane)] || targets[0]));
}

function fillTargets(lane, chosen) {
  const all = chosen && !targets.includes(chosen) ? [...targets, chosen] : targets;
  lane.select.replaceChildren(...all.map((one) =>
    el("option", { value: one }, one.replace(/^ollama:/, "") + (targets.includes(one) ? "" : " (missing)"))));
  lane.select.value = chosen ?? "";
}

function setTitle(text) {
  byId("title").textContent = document.title = text;
}

function showKeys() {
  const rows = Object.entries(KEYS).flatMap(([key, [what]]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]);
  ask("Keyboard shortcuts", "Enter sends, Shift+Enter begins a new line.", "Close");
  byId("question").querySelector("p").after(el("dl", { class: "keys" }, ...rows));
}

function wire() {
  drawIcons(document);
  const submit = (event) => (event.preventDefault(), send());
  byId("composer").onsubmit = submit;
  prompt.oninput = () => grow(prompt);
  prompt.onkeydown = (event) => { // without a value: false would cancel every other key
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  const clicks = {
    "new-chat": () => newChat(1), compare: () => newChat(2), stop, "open-models": () => models.open(),
    "open-menu": () => showMenu(byId("menu").hidden), shortcuts: showKeys,
    "open-sidebar": () => showSidebar(!document.body.classList.contains("sidebar")),
    "open-parameters": () => {
      const now = byId("parameters").hidden = !byId("parameters").hidden;
      byId("open-parameters").setAttribute("aria-expanded", !now);
    },
    "export-md": () => download(`/api/export?chat=${shown}&form=md`), "export-json": () => download(`/api/export?chat=${shown}`),
    "export-all": () => download("/api/export"),
    theme: switchTheme, skip: (event) => (event.preventDefault(), prompt.focus()), // its address is no chat
    rename: async () => {
      const title = await ask("Rename this chat", "", "Rename", { field: byId("title").textContent });
      if (title) await api("PATCH", `/api/chats/${shown}`, { title }).then(() => setTitle(title), showProblem).then(() => changed(shown));
    },
    delete: async () => {
      if (!(await ask("Delete this chat?", "Its messages are removed for good.", "Delete", { danger: true }))) return;
      await api("DELETE", `/api/chats/${shown}`).then(() => (tabs.postMessage(shown), newChat(1)), showProblem);
    },
  };
  for (const [id, onclick] of Object.entries(clicks)) byId(id).addEventListener("click", onclick);
  byId("menu").addEventListener("keydown", moveInMenu);
  document.addEventListener("click", ({ target }) => {
    if (!target.closest("#open-menu")) showMenu(false);
    if (!target.closest("#sidebar, #open-sidebar, dialog")) showSidebar(false);
  });
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.defaultPrevented || event.isComposing) return;
    const typed = event.key.length === 1 ? event.key.toUpperCase() : event.key;
    // On a Mac, Alt makes another character of a key, so its place counts there.
    const name = event.altKey && !/^[A-Z/]$|^Arrow/.test(typed) ? event.code.replace("Key", "").replace("Slash", "/") : typed;
    const key = `${event.altKey ? "Alt+" : ""}${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${name}`;
    if (!KEYS[key]) return;
    if (key !== "Escape") event.preventDefault();
    else if (!byId("menu").hidden) return showMenu(false);
    KEYS[key][1]();
  });
  window.onhashchange = start;
}

function start() {
  const chat = Number(location.hash.match(/^#\/chats\/(\d+)$/)?.[1]);
  return chat ? open(chat) : newChat(1);
}

useTheme();
wire();
start();
models.refresh();
