// The drawer with the settings of a chat: system prompt, and the engine's parameters in plain words.

import { api } from "./api.js";
import { ask, byId, el, iconButton, showProblem } from "./dom.js";

const STORED = "webui.defaults"; // the settings of new chats, in this browser
const PARAMETERS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.01 },
    "How freely the next token is chosen. 0 takes the likeliest each time, so answers repeat. High values surprise, and err more."],
  ["top_p", "Top-p", { min: 0.01, max: 1, step: 0.01 },
    "Choose only among the likeliest tokens that together have this probability. Lower cuts off odd choices."],
  ["num_ctx", "Context length", { min: 256, max: 1048576, step: 1 },
    "How many tokens the model sees at once, question and answer together. More takes more memory; what does not fit is forgotten."],
  ["num_predict", "Longest answer", { min: -1, max: 1048576, step: 1 },
    "The answer ends after so many tokens. -1: only the model decides."],
  ["seed", "Seed", { min: 0, max: 2147483647, step: 1 },
    "The same seed, prompt and settings give the same answer again. Empty: a new one each time."],
  ["keep_alive", "Keep the model loaded", { pattern: "-1|0|[0-9]{1,6}[smh]", placeholder: "5m" },
    "How long it stays in memory after an answer: 30s, 10m, 2h, 0 (unload at once) or -1 (for ever). Loading again takes time."],
];

export function defaults() {
  try {
    return { system: "", parameters: {}, ...JSON.parse(localStorage.getItem(STORED)) };
  } catch {
    return { system: "", parameters: {} };
  }
}

/** Fill the drawer for these settings; `save({system, parameters})` is called when they change. */
export async function drawParameters({ system, parameters }, save) {
  const drawer = byId("parameters");
  const fields = PARAMETERS.map(([name, label, attributes, help]) => {
    const type = name === "keep_alive" ? "text" : "number";
    const input = el("input", { id: `p-${name}`, name, type, ...attributes, "aria-describedby": `h-${name}` });
    input.placeholder ||= "the model's own";
    input.value = parameters[name] ?? "";
    return el("p", { class: "field" }, el("label", { for: input.id }, label), input,
      el("small", { id: `h-${name}` }, help));
  });
  const prompt = el("textarea", { id: "p-system", value: system, rows: 4, placeholder: "You are …" });
  const form = el("form", {}, ...fields);
  let kept = parameters; // the last values without a mistake
  const read = () => {
    const found = {};
    for (const [name] of PARAMETERS) {
      const { value, type, validity } = form.elements[name];
      if (!validity.valid) found[name] = kept[name]; // a mistake in one field doesn't hold up the others
      else if (value !== "") found[name] = type === "number" ? Number(value) : value;
    }
    kept = found;
    return { system: prompt.value, parameters: found };
  };
  const changed = () => {
    for (const [name, , , help] of PARAMETERS) {
      const input = form.elements[name];
      input.setAttribute("aria-invalid", !input.validity.valid);
      byId(`h-${name}`).textContent = input.validity.valid ? help : `Not saved. ${input.validationMessage}`;
    }
    const settings = read();
    localStorage.setItem(STORED, JSON.stringify(settings));
    save(settings);
  };
  form.onchange = prompt.onchange = changed;
  form.onsubmit = (event) => event.preventDefault();
  const saved = el("select", { "aria-label": "Saved system prompts" });
  const fill = ({ prompts }) => {
    const choices = prompts.map((one) => el("option", { value: one.text }, one.name));
    saved.replaceChildren(el("option", { value: "" }, prompts.length ? "Saved prompts …" : "No saved prompts yet"), ...choices);
  };
  saved.onchange = () => {
    if (!saved.value) return;
    prompt.value = saved.value;
    changed();
  };
  const keep = async () => {
    const name = await ask("Save this system prompt", "Under which name?", "Save", { field: saved.selectedOptions[0]?.text ?? "" });
    if (name) await api("PUT", "/api/prompts", { name, text: prompt.value }).then(fill, showProblem);
  };
  const forget = async () => {
    const { text: name, value } = saved.selectedOptions[0];
    if (value) await api("PUT", "/api/prompts", { name, text: "" }).then(fill, showProblem);
  };
  const reset = () => {
    form.reset();
    for (const input of form.elements) input.value = "";
    prompt.value = "";
    changed();
  };
  const close = iconButton("close", "Close the settings", () => byId("open-parameters").click());
  drawer.replaceChildren(
    el("div", { class: "row between" }, el("h2", {}, "Settings"), close),
    el("small", {}, "They hold for this chat, and for chats that you begin from now on."),
    el("p", { class: "field" }, el("label", { for: prompt.id }, "System prompt"), prompt,
      el("small", {}, "What the model is told before your first message: who it is, and how it should answer.")),
    el("div", { class: "row" }, saved, el("button", { type: "button", onclick: keep }, "Save"),
      el("button", { type: "button", onclick: forget }, "Forget")),
    form,
    el("button", { type: "button", onclick: reset }, "Back to the model's own settings"),
  );
  await api("GET", "/api/prompts").then(fill, showProblem);
}
