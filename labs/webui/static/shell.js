// What surrounds the chat: menu, sidebar, theme, the height of the field, and what a screen reader hears.

import { byId, el } from "./dom.js";

/** Have a screen reader read this aloud. */
export function announce(text) {
  const announcer = byId("announcer");
  announcer.append(el("p", {}, text));
  while (announcer.childElementCount > 20) announcer.firstElementChild.remove();
}

/** Open or close the sidebar (of a narrow window). */
export function showSidebar(on) {
  document.body.classList.toggle("sidebar", on);
  byId("open-sidebar").setAttribute("aria-expanded", on);
}

export function showMenu(on) {
  const menu = byId("menu");
  const inside = menu.contains(document.activeElement);
  menu.hidden = !on;
  byId("open-menu").setAttribute("aria-expanded", on);
  if (on) menu.querySelector("button:enabled").focus();
  else if (inside) byId("open-menu").focus();
}

/** The arrow keys, Home and End in the menu. */
export function moveInMenu(event) {
  const items = [...byId("menu").querySelectorAll("button:enabled")];
  const place = items.indexOf(document.activeElement);
  const to = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: -1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  items.at(to % items.length).focus();
}

/** Use the theme that was chosen earlier, if any. */
export function useTheme(theme = localStorage.getItem("webui.theme")) {
  if (theme) document.documentElement.dataset.theme = theme;
}

/** From dark to light, or back; the choice stays. */
export function switchTheme() {
  const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("webui.theme", theme);
  useTheme(theme);
}

/** Make a field as high as its text. */
export function grow(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, innerHeight / 3)}px`;
}
