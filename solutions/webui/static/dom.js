// Small helpers around the DOM. Text is always set as text: nothing here parses HTML.

const ICONS = {
  plus: "M12 5v14M5 12h14",
  columns: "M4 5h16v14H4zM12 5v14",
  box: "M4 8l8-4 8 4v8l-8 4-8-4zM4 8l8 4 8-4M12 12v8",
  dots: "M6 12h.01M12 12h.01M18 12h.01",
  menu: "M4 7h16M4 12h16M4 17h16",
  pencil: "M4 20l4-1L19 8l-3-3L5 16z",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  sliders: "M4 8h9M19 8h1M4 16h1M11 16h9M16 5.5v5M8 13.5v5",
  up: "M12 19V5M6 11l6-6 6 6",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  again: "M19 12a7 7 0 1 1-2-5M19 4v4h-4",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  close: "M6 6l12 12M18 6L6 18",
};
const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element: el("p", {class: "note", onclick: f}, "text", child). */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list" && name !== "form") made[name] = value;
    else made.setAttribute(name === "class" ? "class" : name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; its label is read aloud and shown as a tooltip. */
export function iconButton(name, label, onclick, more = {}) {
  return el("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...more }, icon(name));
}

/** Put the icons into buttons that are written in the page: <button data-icon="plus">. */
export function drawIcons(root) {
  for (const button of root.querySelectorAll("[data-icon]")) {
    button.prepend(icon(button.dataset.icon));
    if (button.ariaLabel) button.title = button.ariaLabel;
  }
}

export const number = (value) => Math.round(value).toLocaleString("en");

export function bytes(value) {
  const power = value < 1e3 ? 0 : Math.min(4, Math.floor(Math.log10(value) / 3));
  return `${(value / 1000 ** power).toFixed(power > 2 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

export function milliseconds(value) {
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

/** Show an error with its fix, until it is closed or `clear` is called. */
export function showProblem(error, key = error.what) {
  const what = error.what ?? `This page has a fault: ${error.message ?? error}`;
  const fix = error.fix ?? "Reload the page.";
  clearProblem(key);
  const close = iconButton("close", "Close this message", () => clearProblem(key));
  byId("problems").append(el("div", { class: "problem", "data-key": key }, el("p", {}, el("b", {}, what), " Fix: ", fix), close));
}

export function clearProblem(key) {
  for (const one of byId("problems").children) if (one.dataset.key === key) one.remove();
}

/** Put text on the clipboard; whether the browser allowed it. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch (error) {
    showProblem({ what: `The browser did not copy it (${error.message}).`, fix: "Allow this page to use the clipboard, or select the text." }, "copy");
    return false;
  }
}

/** Ask in a dialog. Resolves to true, the text of the field (with `field`), or null if it is cancelled. */
export function ask(title, text, verb, { field, danger } = {}) {
  const dialog = byId("question");
  const input = field === undefined ? null : el("input", { value: field, "aria-label": title, required: true });
  const cancel = el("button", { type: "button", onclick: () => dialog.close("") }, "Cancel");
  const yes = el("button", { class: danger ? "danger" : "primary", value: "yes" }, verb);
  dialog.replaceChildren(
    el("form", { method: "dialog" }, el("h2", { id: "question-title" }, title), text && el("p", {}, text), input,
      el("div", { class: "row end" }, cancel, yes)),
  );
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue !== "yes" ? null : input ? input.value.trim() : true);
  });
}

/** What a model thought before its answer, folded. */
export function thoughts(text) {
  return text ? el("details", { class: "thinking" }, el("summary", {}, "Thinking"), el("div", {}, text)) : null;
}

/** Add to the thoughts of a message. */
export function addThought(article, text) {
  const place = article.querySelector(".thinking div");
  if (place) place.append(text);
  else article.querySelector(".body").before(thoughts(text));
}
