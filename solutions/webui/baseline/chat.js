// Sends the whole conversation to Ollama, and appends the answer as it comes.
const model = document.getElementById("model");
const form = document.getElementById("form");
const prompt = document.getElementById("prompt");
const messages = [];

function show(role, text) {
  const line = document.createElement("p");
  line.className = role;
  line.textContent = text;
  document.getElementById("messages").append(line);
  return line;
}

async function answer() {
  const line = show("assistant", "");
  const body = JSON.stringify({ model: model.value, messages });
  const response = await fetch("/api/chat", { method: "POST", body });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const one of lines) {
      const event = JSON.parse(one);
      if (event.error) throw new Error(event.error);
      line.textContent += event.message.content;
    }
  }
  messages.push({ role: "assistant", content: line.textContent });
}

form.onsubmit = async (event) => {
  event.preventDefault();
  const text = prompt.value;
  prompt.value = "";
  show("user", text);
  messages.push({ role: "user", content: text });
  document.getElementById("send").disabled = true;
  try {
    await answer();
  } catch (error) {
    show("error", `No answer: ${error.message}`);
  }
  document.getElementById("send").disabled = false;
};

for (const name of await (await fetch("/api/models")).json()) model.append(new Option(name));
