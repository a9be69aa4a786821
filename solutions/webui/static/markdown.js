// Markdown, rendered while it arrives.
//
// streaming-markdown only appends: a token becomes a few DOM nodes, and no earlier node is touched again. So the cost of
// a token does not grow with the answer. It makes elements from a fixed list and text from text, so HTML in an answer
// stays text. Addresses are checked here, and DOMPurify checks each finished block once more.

import * as smd from "./vendor/streaming-markdown.js";
import "./vendor/purify.js"; // sets globalThis.DOMPurify
import { copyText, el, icon } from "./dom.js";

const LINES_OF_A_CHUNK = 50; // a long code block is laid out in chunks, so that a new line moves only the last one
const MOST_HIGHLIGHTED = 60_000; // characters
const LANGUAGES = {
  bash: "bash", sh: "bash", shell: "bash", c: "c", cpp: "c", "c++": "c", diff: "diff", go: "go", html: "xml", js: "javascript",
  javascript: "javascript", ts: "javascript", typescript: "javascript", json: "json", py: "python", python: "python",
  rust: "rust", sql: "sql", xml: "xml", yaml: "yaml", yml: "yaml",
};
const ALLOWED = {
  IN_PLACE: true,
  ADD_ATTR: ["target"],
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "button", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "li",
    "ol", "p", "path", "pre", "s", "span", "strong", "svg", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
};

/** An address that a link may lead to; null for all others, such as javascript: and data:. */
export function safeAddress(address) {
  try {
    const url = new URL(address, "https://relative.invalid");
    const relative = url.hostname === "relative.invalid";
    return ["http:", "https:", "mailto:"].includes(url.protocol) && !relative ? url.href : null;
  } catch {
    return null;
  }
}

/**
 * A writer of Markdown into `root`: write(piece) as often as there is one, then end().
 * `onBlock(text)` is called for each finished block.
 */
export function markdownWriter(root, onBlock = () => {}) {
  const base = smd.default_renderer(root);
  const { data } = base;
  const top = () => data.nodes[data.index];

  const parser = smd.parser({
    data,
    add_token(data, type) {
      if (type === smd.IMAGE) type = smd.LINK; // an image would be fetched from where the model wants
      base.add_token(data, type);
      const made = top();
      if (type === smd.LINK || type === smd.RAW_URL) {
        made.rel = "noopener noreferrer nofollow";
        made.target = "_blank";
      } else if (type === smd.CHECKBOX) {
        made.ariaLabel = "Done";
      } else if (type === smd.CODE_FENCE) {
        made.indent = parser.indent_len;
      }
    },
    end_token(data) {
      const block = data.index === 1 ? root.lastElementChild : null;
      base.end_token(data);
      if (block) finish(block, onBlock);
    },
    add_text(data, text) {
      const place = top();
      if (place.tagName === "CODE" && place.parentElement.tagName === "PRE") addCode(place, text);
      else place.append(text);
    },
    set_attr(data, type, value) {
      const place = top();
      if (type === smd.HREF || type === smd.SRC) {
        const address = safeAddress(value);
        if (address) place.href = address;
        else place.append(` (${value})`);
      } else if (type === smd.LANG) {
        place.className = `language-${value.trim().replace(/[^\w+#-]/g, "").slice(0, 30)}`;
      } else {
        base.set_attr(data, type, value);
      }
    },
  });
  return {
    write: (text) => smd.parser_write(parser, text),
    end() {
      smd.parser_end(parser);
      while (data.index > 0) parser.renderer.end_token(data); // a code block that the model never closed
    },
  };
}

/** Render a whole text. */
export function renderMarkdown(root, text) {
  const writer = markdownWriter(root);
  writer.write(text);
  writer.end();
}

function addCode(code, text) {
  for (let rest = text; rest; ) {
    let chunk = code.lastElementChild;
    if (!chunk || chunk.lines === LINES_OF_A_CHUNK) {
      chunk = code.appendChild(el("span", { class: "chunk" }));
      chunk.lines = 0;
    }
    const line = rest.slice(0, rest.indexOf("\n") + 1 || undefined);
    chunk.append(line);
    chunk.lines += line.endsWith("\n");
    rest = rest.slice(line.length);
  }
}

/** Once for each block: check it, and dress the code and the tables in it. A list can hold some, too. */
function finish(block, onBlock) {
  block.normalize(); // thousands of small text nodes become one
  globalThis.DOMPurify.sanitize(block, ALLOWED);
  const text = block.tagName === "PRE" ? "A block of code." : block.textContent;
  const all = (tag) => (block.matches(tag) ? [block] : block.querySelectorAll(tag));
  all("pre").forEach(dressCode);
  all("table").forEach(frameTable);
  onBlock(text);
}

/** Give a block of code its colours and a copy button. */
function dressCode(block) {
  const code = block.firstElementChild;
  const text = inner(code);
  if (text !== code.textContent) {
    code.replaceChildren();
    addCode(code, text);
  }
  block.tabIndex = 0; // a keyboard can scroll it
  block.ariaLabel = "Code";
  block.role = "region";
  const button = el("button", { type: "button", class: "copy", "aria-label": "Copy this code" }, icon("copy"));
  button.onclick = async () => button.classList.toggle("done", await copyText(text));
  block.append(button);
  highlight(code, text).catch(() => (core = undefined)); // without colours, if its files can't be had just now
}

/** The code without the marks of the quote, or the indent of the list, in which it stands. The parser leaves them in. */
function inner(code) {
  const text = code.textContent;
  let depth = 0;
  for (let at = code.closest("blockquote"); at; at = at.parentElement.closest("blockquote")) depth++;
  if (depth) return text.replace(new RegExp(`^(?: {0,3}> ?){1,${depth}}`, "gm"), "").replace(/\n$/, "");
  let indent = code.indent ?? 0; // of the fence; the code itself may be indented less, but not more for that
  for (const line of text.split("\n")) if (line.trim()) indent = Math.min(indent, line.search(/\S/));
  return indent ? text.replace(new RegExp(`^ {0,${indent}}`, "gm"), "") : text;
}

/** A wide table scrolls in a frame. */
function frameTable(table) {
  const frame = el("div", { class: "table", tabIndex: 0, role: "region", "aria-label": "Table" });
  table.replaceWith(frame);
  frame.append(table);
}

let core; // highlight.js and its languages are fetched with the first block of code

async function highlight(code, text) {
  const language = LANGUAGES[code.className.replace("language-", "").toLowerCase()];
  if (!language || text.length > MOST_HIGHLIGHTED) return;
  core ??= import("./vendor/highlight/core.js").then((module) => module.default);
  const [hljs, grammar] = await Promise.all([core, import(`./vendor/highlight/${language}.js`)]);
  if (!hljs.getLanguage(language)) hljs.registerLanguage(language, grammar.default);
  await new Promise((resolve) => requestIdleCallback(resolve, { timeout: 500 }));
  const html = hljs.highlight(text, { language, ignoreIllegals: true }).value;
  const only = { RETURN_DOM_FRAGMENT: true, ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"] };
  code.replaceChildren(globalThis.DOMPurify.sanitize(html, only));
}
