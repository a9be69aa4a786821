// The model manager: what Ollama has on disk and in memory, pulls, and models made from a file or another model.

import { api, request } from "./api.js";
import { ask, byId, bytes, el, iconButton, showProblem } from "./dom.js";

const EVERY_MS = 1000; // while the dialog is open

export class Models {
  /** `onChange(state)` gets what /api/models answered, each time it is asked. */
  constructor(onChange) {
    this.onChange = onChange;
    this.dialog = byId("models");
    this.loaded = el("ul", { class: "rows", id: "loaded" });
    this.pulls = el("ul", { class: "rows", id: "pulls" });
    this.installed = el("ul", { class: "rows", id: "installed" });
    this.problem = el("p", { class: "problem", role: "alert", hidden: true });
    this.name = el("input", { placeholder: "smollm2:135m", "aria-label": "Name of the model to pull", required: true, id: "pull-name" });
    const pull = el("form", { class: "row", id: "pull" }, this.name, el("button", { class: "primary" }, "Pull"));
    pull.onsubmit = (event) => {
      event.preventDefault();
      this.act("pull", { name: this.name.value.trim() });
    };
    this.dialog.replaceChildren(
      el("div", { class: "row between" }, el("h2", { id: "models-title" }, "Models"),
        iconButton("close", "Close the models", () => this.dialog.close())),
      this.problem,
      el("h3", {}, "In memory"), this.loaded,
      el("h3", {}, "On disk"), this.installed,
      el("h3", {}, "Get a model"), pull,
      el("small", {}, "By its name in Ollama's library, or host/namespace/model:tag of another registry."), this.pulls,
      this.creator());
    this.dialog.onclose = () => clearTimeout(this.timer);
  }

  open() {
    this.dialog.showModal();
    this.watch();
  }

  /** Ask again and again, never twice at a time: Ollama may be slow, and a browser has six connections for a server. */
  async watch() {
    await this.refresh();
    clearTimeout(this.timer);
    if (this.dialog.open) this.timer = setTimeout(() => this.watch(), EVERY_MS);
  }

  async refresh() {
    try {
      const state = await api("GET", "/api/models");
      this.draw(state);
      this.onChange(state);
      return state;
    } catch (error) {
      showProblem(error, "server");
      return null;
    }
  }

  /** POST /api/models/<what>; whether it worked. A problem is shown in the dialog. */
  async act(what, body) {
    try {
      await api("POST", `/api/models/${what}`, body);
      this.problem.hidden = true;
      await this.refresh();
      return true;
    } catch (error) {
      this.show(error);
      return false;
    }
  }

  show(error) {
    this.problem.replaceChildren(el("b", {}, error.what), " Fix: ", error.fix ?? "Try again.");
    this.problem.hidden = false;
  }

  draw({ models, loaded, pulls }) {
    fill(this.loaded, loaded.map((one) => {
      const share = one.size ? Math.round((100 * (one.size_vram ?? 0)) / one.size) : 0;
      const what = `${bytes(one.size)}, ${share} % of it on the GPU · context ${one.context_length ?? "?"} · ${until(one.expires_at)}`;
      return row(one.name, what, this.button("Unload", one.name, () => this.act("unload", { name: one.name })));
    }), "No model is loaded. The first question loads one.");
    fill(this.installed, models.map((one) => {
      const { parameter_size: size, quantization_level: level } = one.details ?? {};
      return row(one.name, [bytes(one.size), size, level].filter(Boolean).join(" · "),
        this.button("Show", one.name, () => this.describe(one.name)),
        this.button("Copy", one.name, () => this.copy(one.name)),
        this.button("Delete", one.name, () => this.remove(one), "danger"));
    }), "There is no model on disk yet. Pull one, or make one from a file.");
    fill(this.pulls, pulls.map((one) => {
      const bar = el("progress", { max: one.total || 1, value: one.total ? one.done : 0, "aria-label": `Download of ${one.name}` });
      const part = one.total ? `${bytes(one.done)} of ${bytes(one.total)} · ` : "";
      const again = one.state !== "running" && this.button("Resume", one.name, () => this.act("pull", { name: one.name }));
      const end = one.state === "running" ? "Cancel" : "Dismiss";
      return row(one.name, [part, one.status, bar], again, this.button(end, one.name, () => this.act("cancel-pull", { name: one.name })));
    }), null);
  }

  button(label, name, onclick, kind = "") {
    return el("button", { type: "button", class: kind, "aria-label": `${label} ${name}`, onclick }, label);
  }

  async copy(name) {
    const to = await ask("Copy a model", `A second name for ${name}. It takes no more disk.`, "Copy", { field: `${name}-copy` });
    if (to) await this.act("copy", { name, to });
  }

  async remove({ name, size }) {
    const text = `${name} (${bytes(size)}) is removed from the disk, unless another name needs its files.`;
    if (await ask("Delete this model?", text, "Delete", { danger: true })) await this.act("delete", { name });
  }

  async describe(name) {
    try {
      const found = await api("POST", "/api/models/show", { name });
      const info = found.model_info ?? {};
      const context = Object.entries(info).find(([key]) => key.endsWith(".context_length"))?.[1];
      const parts = { "What it can do": (found.capabilities ?? []).join(", "), "Longest context": context,
        Parameters: found.parameters, "System prompt": found.system, Template: found.template, License: found.license };
      const list = el("dl", {}, ...Object.entries(parts).filter(([, value]) => value)
        .flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, el("pre", { tabIndex: 0 }, String(value).slice(0, 20000)))]));
      const done = ask(name, "", "Close");
      byId("question").querySelector("h2").after(list);
      await done;
    } catch (error) {
      this.show(error);
    }
  }

  /** The form that makes a model from a GGUF file, or from another model. */
  creator() {
    const file = el("input", { type: "file", accept: ".gguf", id: "create-file" });
    const source = el("input", { id: "create-source", placeholder: "or another model" });
    const name = el("input", { id: "create-name", required: true, placeholder: "my-model:latest" });
    const system = el("textarea", { id: "create-system", rows: 2 });
    const template = el("textarea", { id: "create-template", rows: 2, placeholder: "empty: from the file" });
    const progress = el("progress", { hidden: true, "aria-label": "Upload of the file" });
    const field = (label, input, help) => el("p", { class: "field" }, el("label", { for: input.id }, label), input, help && el("small", {}, help));
    const form = el("form", { id: "create" },
      field("Name", name), field("A GGUF file", file), field("Made from", source),
      field("System prompt", system),
      field("Chat template", template, "How messages become text for the model. A wrong one makes answers nonsense."),
      progress, el("button", { class: "primary" }, "Create"));
    form.onsubmit = async (event) => {
      event.preventDefault();
      progress.hidden = false;
      try {
        const digest = file.files[0] ? (await upload(file.files[0])).digest : "";
        const body = { name: name.value.trim(), digest, source: digest ? "" : source.value.trim(), system: system.value, template: template.value };
        if (await this.act("create", body)) form.reset();
      } catch (error) {
        this.show(error);
      } finally {
        progress.hidden = true;
      }
    };
    return el("details", {}, el("summary", {}, "Make a model from a GGUF file, or from another model"), form);
  }
}

async function upload(file) {
  const headers = { "content-type": "application/octet-stream" };
  return (await request("/api/uploads", { method: "POST", body: file, headers })).json();
}

function row(name, what, ...buttons) {
  return el("li", {}, el("div", {}, el("b", {}, name), el("small", {}, what)), ...buttons);
}

/** Replace rows only if they changed, so that a focused button stays focused while the dialog is asked anew. */
function fill(list, rows, empty) {
  const now = rows.map((one) => one.textContent + [...one.querySelectorAll("progress")].map((bar) => bar.value)).join("\n") || empty;
  if (list.drawn === now) return;
  const focused = list.contains(document.activeElement) ? document.activeElement.ariaLabel : null;
  list.drawn = now;
  list.replaceChildren(...(rows.length || !empty ? rows : [el("li", { class: "empty" }, empty)]));
  if (focused) [...list.querySelectorAll("button")].find((one) => one.ariaLabel === focused)?.focus();
}

function until(time) {
  const minutes = (new Date(time) - Date.now()) / 60000;
  return minutes > 60 * 24 * 365 ? "stays loaded" : minutes < 1 ? "leaves within a minute" : `leaves in ${Math.round(minutes)} min`;
}
