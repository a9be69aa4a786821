// The page's half of chat_widget.py: shows the messages, and sends what is typed. Text stays text: no HTML is made of it.

const COLOURS = { user: "#0969da", assistant: "#1a7f37" };

function el(name, style, text = "") {
  const made = document.createElement(name);
  made.style.cssText = style;
  made.textContent = text;
  return made;
}

function render({ model, el: root }) {
  const list = el("div", "max-height: 20em; overflow-y: auto; margin: .4em 0");
  list.setAttribute("role", "log");
  const form = el("form", "display: flex; gap: .4em");
  const field = el("input", "flex: 1; padding: .3em");
  field.placeholder = "Ask something. Enter sends.";
  field.setAttribute("aria-label", "Your message");
  const stop = el("button", "padding: .3em .8em", "Stop");
  stop.type = "button";
  form.append(field, stop);
  root.append(list, form);

  const show = () => {
    const messages = model.get("messages");
    while (list.children.length > messages.length) list.lastChild.remove();
    messages.forEach(({ role, content }, place) => {
      const line = list.children[place] ?? list.appendChild(el("div", "white-space: pre-wrap; margin: .2em 0; padding-left: .6em"));
      line.style.borderLeft = `3px solid ${COLOURS[role] ?? "#57606a"}`;
      const text = `${role}: ${content}`;
      if (line.textContent !== text) line.textContent = text;
    });
    list.scrollTop = list.scrollHeight;
  };
  const enable = () => (stop.disabled = !model.get("running"));

  form.onsubmit = (event) => {
    event.preventDefault();
    if (!field.value.trim() || model.get("running")) return;
    model.send({ ask: field.value });
    field.value = "";
  };
  field.onkeydown = (event) => event.stopPropagation(); // JupyterLab has shortcuts of one letter
  stop.onclick = () => model.send({ stop: true });
  model.on("change:messages", show);
  model.on("change:running", enable);
  show();
  enable();
  return () => {
    model.off("change:messages", show);
    model.off("change:running", enable);
  };
}

export default { render };
