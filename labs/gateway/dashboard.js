"use strict";
// The gateway's panels. Once a second this page reads /metrics and /ready, keeps five minutes, and draws them as SVG.
// Memory is bounded: 12 pages of metrics for the rates, and 300 points of at most 8 lines for each chart.

const STEP_MS = 1000, POINTS = 300, WINDOW_S = 10, MOST_LINES = 8, MOST_ROWS = 12;
const SHOWN_S = [60, 300];  // a minute at first, five in the end
const pages = [];   // the newest page of metrics last; the first is about WINDOW_S older
const times = new Float64Array(POINTS).fill(NaN);  // seconds, the newest last
let paused = false;
let span = 60;  // how many seconds the charts show: since this page was opened, within the limits of SHOWN_S

// ---- Reading the Prometheus text format -------------------------------------------------------------------------

/** A page of metrics: name (without `gateway:`) → samples. */
function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = /^(?:gateway:)?(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    if (!found.has(parts[1])) found.set(parts[1], []);
    found.get(parts[1]).push({ labels, value: Number(parts[3]) });  // "+Inf" never is a sample's value here
  }
  return found;
}

/** The sum of a metric for each value of a label. */
function by(label, name, page = pages.at(-1)) {
  const sums = new Map();
  for (const one of page.metrics.get(name) ?? [])
    sums.set(one.labels[label], (sums.get(one.labels[label]) ?? 0) + one.value);
  return sums;
}

function total(name, page = pages.at(-1)) {
  return (page.metrics.get(name) ?? []).reduce((sum, one) => sum + one.value, 0);
}

/** By how much a counter grew within the window. A series that is new began at 0. */
function grown(name) {
  return total(name) - total(name, pages[0]);
}

function seconds() {
  return pages.at(-1).at - pages[0].at;
}

function perSecond(name) {
  return seconds() ? grown(name) / seconds() : NaN;
}

function grownBy(label, name) {
  const before = by(label, name, pages[0]);
  return [...by(label, name)].map(([key, now]) => [key, now - (before.get(key) ?? 0)]);
}

/** A quantile of what a histogram counted within the window, interpolated within its bucket as Prometheus does it. */
function quantile(share, name) {
  const buckets = grownBy("le", `${name}_bucket`)
    .map(([bound, count]) => [bound === "+Inf" ? Infinity : Number(bound), count])
    .sort((a, b) => a[0] - b[0]);
  const all = buckets.at(-1)?.[1] ?? 0;
  if (all <= 0) return NaN;
  let lower = 0, below = 0;
  for (const [bound, count] of buckets) {
    if (count >= share * all && count > below)
      return bound === Infinity ? lower : lower + (bound - lower) * ((share * all - below) / (count - below));
    [lower, below] = [bound, count];
  }
  return NaN;
}

// ---- Numbers as text ---------------------------------------------------------------------------------------------

const round = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
const some = (value) => round(value, value < 10 ? 1 : 0);
const UNITS = {
  time: (s) => (s < 1 ? `${some(s * 1000)} ms` : `${round(s, s < 10 ? 2 : 1)} s`),
  rate: (n) => `${some(n)} tok/s`,
  count: (n) => some(n),
  perSecond: (n) => `${some(n)} /s`,
  share: (n) => `${round(n * 100, 0)} %`,
};
const write = (unit, value) => (Number.isFinite(value) ? UNITS[unit](value) : "–");
const compact = (value) => value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
const onAxis = (unit, value) => (unit === "time" || unit === "share" ? UNITS[unit](value) : compact(value));

// ---- The charts --------------------------------------------------------------------------------------------------

const CHARTS = [
  { id: "ttft", title: "Time to first token", unit: "time", about: "from arrival to the first text, the queue included",
    read: () => [["p95", quantile(0.95, "time_to_first_token_seconds")], ["p50", quantile(0.5, "time_to_first_token_seconds")]] },
  { id: "itl", title: "Inter-token latency", unit: "time", about: "between two blocks of a stream",
    read: () => [["p95", quantile(0.95, "inter_token_latency_seconds")], ["p50", quantile(0.5, "inter_token_latency_seconds")]] },
  { id: "tokens", title: "Output tokens", unit: "rate", about: "per second, counted by the engines when an answer ends", colours: [0, 2],
    read: () => [["all", perSecond("generation_tokens_total")],
                 ["within the SLO (goodput)", perSecond("generation_tokens_within_slo_total")]] },
  { id: "load", title: "Requests", unit: "count", about: "those that hold a seat, and the queue", limit: "seats", colours: [0, 1, 7],
    read: () => [["running", total("num_requests_running")], ["waiting", total("num_requests_waiting")],
                 ["seats", seatsOfEnginesThatAreUp()]] },
  { id: "answers", title: "Answers by status", unit: "perSecond", about: "per second; “broken”: a stream that ended with an error",
    read: () => grownBy("status", "requests_total").map(([status, count]) => [status, count / seconds()]).sort() },
  { id: "cache", title: "Prefix cache", unit: "share", about: "share of prompt tokens that an engine had in its cache", top: 1, colours: [4],
    read: () => [["hits", grown("prefix_cache_hits_total") / grown("prefix_cache_queries_total")]] },
];
function seatsOfEnginesThatAreUp() {
  const up = by("engine", "engine_up");
  return [...by("engine", "engine_seats")].reduce((sum, [name, seats]) => sum + seats * (up.get(name) ?? 0), 0);
}

const STATUS_COLOURS = [[/^2/, [2, 0]], [/^4/, [1, 5, 7]], [/./, [3, 6, 4]]];  // else: 5xx, and broken

/** The colour of a chart's next line. */
function colour(chart, name) {
  if (chart.id !== "answers") return (chart.colours ?? [1, 0])[chart.lines.size] ?? 7;
  const fit = STATUS_COLOURS.find(([pattern]) => pattern.test(name))[1];
  const taken = [...chart.lines.values()].map((line) => line.colour);
  return fit.find((one) => !taken.includes(one)) ?? fit.at(-1);
}

/** A new element; attributes by setAttribute, text as text. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function card(id, title, about, wide = false) {
  const made = make("section", { class: wide ? "card wide" : "card", id, "aria-label": title }, make("h2", {}, title), make("p", {}, about));
  document.getElementById("panels").append(made);
  return made;
}

for (const chart of CHARTS) {
  chart.lines = new Map();  // name → colour, values, and the element that shows the newest value
  chart.legend = make("ul", { class: "legend" });
  chart.svg = make("svg", { class: "chart", role: "img", "aria-label": chart.title });
  chart.at = null;  // the point under the mouse
  card(chart.id, chart.title, chart.about).append(chart.legend, chart.svg);
  chart.svg.addEventListener("pointermove", (event) => {
    const box = chart.svg.getBoundingClientRect();
    const wanted = times.at(-1) - span * (1 - (event.clientX - box.left) / plotWidth(box.width));
    chart.at = times.reduce((best, time, i) => (Math.abs(time - wanted) < Math.abs(times[best] - wanted) ? i : best), POINTS - 1);
    draw(chart);
  });
  chart.svg.addEventListener("pointerleave", () => { chart.at = null; draw(chart); });
  new ResizeObserver(() => draw(chart)).observe(chart.svg);
}

/** Add a point to every line. A name beyond MOST_LINES is left out: the page stays as small as it is. */
function extend(chart) {
  for (const line of chart.lines.values()) line.values.copyWithin(0, 1)[POINTS - 1] = NaN;
  for (const [name, value] of chart.read()) {
    if (!chart.lines.has(name)) {
      if (chart.lines.size >= MOST_LINES) continue;
      const shown = make("span", { class: "value", "data-of": `${chart.id}-${name}` });
      const line = { colour: colour(chart, name), values: new Float64Array(POINTS).fill(NaN), shown };
      chart.legend.append(make("li", { class: `k${line.colour}` }, make("span", { class: "name" }, name), shown));
      chart.lines.set(name, line);
    }
    chart.lines.get(name).values[POINTS - 1] = value;
  }
}

const BESIDE = 46, HEIGHT = 150, BELOW = 18, ABOVE = 6;  // pixels; the labels of the axes stand beside and below
const plotWidth = (width) => width - BESIDE;

/** A round number that is at least `value`. */
function above(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((one) => one * power).find((one) => one >= value * 0.999);
}

function draw(chart) {
  const width = chart.svg.clientWidth, right = plotWidth(width), bottom = HEIGHT - BELOW;
  if (!width) return;
  const largest = Math.max(0, ...[...chart.lines.values()].flatMap((line) => [...line.values].filter(Number.isFinite)));
  const top = chart.top ?? (largest > 0 ? above(largest) : 1);
  const x = (time) => right * (1 - (times.at(-1) - time) / span);
  const y = (value) => bottom - (bottom - ABOVE) * Math.min(1, value / top);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(make("line", { class: "grid", x1: 0, x2: right, y1: y(share * top), y2: y(share * top) }));
    if (share && (largest > 0 || chart.top))
      parts.push(make("text", { x: right + 6, y: y(share * top) + 4 }, onAxis(chart.unit, share * top)));
  }
  const every = span <= 90 ? 15 : span <= 180 ? 30 : 60;  // seconds between two labels
  for (let ago = 0; ago <= span; ago += every) {
    const place = right * (1 - ago / span), anchor = ago === 0 ? "end" : place < 24 ? "start" : "middle";
    parts.push(make("text", { x: place, y: HEIGHT - 3, "text-anchor": anchor }, ago === 0 ? "now" : ago % 60 ? `−${ago} s` : `−${ago / 60} min`));
  }
  for (const [name, line] of chart.lines) {
    const curves = paths(line.values, x, y);
    if (name !== chart.limit)
      for (const curve of curves)
        parts.push(make("path", { class: `under k${line.colour}`, d: `M${curve.from},${bottom}L${curve.d}L${curve.to},${bottom}Z` }));
    parts.push(make("path", { class: `curve k${line.colour}${name === chart.limit ? " limit" : ""}`, d: curves.map((one) => `M${one.d}h0`).join("") }));
    line.shown.textContent = write(chart.unit, line.values[chart.at ?? POINTS - 1]);
  }
  if (chart.at !== null && Number.isFinite(times[chart.at])) {
    const place = x(times[chart.at]).toFixed(1);
    parts.push(make("line", { class: "cursor", x1: place, x2: place, y1: ABOVE, y2: bottom }));
  }
  chart.svg.replaceChildren(...parts);
}

/** The stretches of a line between its gaps, as SVG coordinates. */
function paths(values, x, y) {
  const found = [];
  let points = [], last = NaN;
  const end = () => {
    if (points.length) found.push({ from: points[0].split(",")[0], to: points.at(-1).split(",")[0], d: points.join("L") });
    points = [];
  };
  values.forEach((value, i) => {
    if (!Number.isFinite(value) || times[i] - last > 3 * STEP_MS / 1000) end();
    if (Number.isFinite(value) && x(times[i]) >= 0) points.push(`${x(times[i]).toFixed(1)},${y(value).toFixed(1)}`);
    last = times[i];
  });
  end();
  return found;
}

// ---- The tables --------------------------------------------------------------------------------------------------

const engines = new Map();  // name → whether it was up, at each of the points
const number = (value) => ({ text: round(value ?? 0, 0), kind: "number" });

const TABLES = [
  { id: "engines", title: "Engines", about: "red: taken out after failures in a row (its circuit breaker is open)", wide: true, rows: engineRows,
    head: ["engine", "now", "before", "seats taken", "#failures", "#retried elsewhere"] },
  { id: "keys", title: "Tokens by key", about: "counted by the engines, since the gateway began", wide: true,
    head: ["key", "#prompt", "#output", "#output within the SLO", "#from a prefix cache"], rows: () => {
      const output = by("key", "generation_tokens_total"), prompt = by("key", "prompt_tokens_total");
      const good = by("key", "generation_tokens_within_slo_total");
      const hits = by("key", "prefix_cache_hits_total"), asked = by("key", "prefix_cache_queries_total");
      const share = (part, whole) => ({ text: whole ? UNITS.share((part ?? 0) / whole) : "–", kind: "number" });
      return [...output.keys()].sort((a, b) => output.get(b) - output.get(a)).map((key) => () =>
        [{ text: key }, number(prompt.get(key)), number(output.get(key)), share(good.get(key), output.get(key)), share(hits.get(key), asked.get(key))]);
    } },
  counted("statuses", "Answers", "by status, since the gateway began", "status", "requests_total"),
  counted("refused", "Refused", "by the gateway, before any engine was asked", "reason", "requests_refused_total"),
  counted("left", "Clients that left", "before their answer had ended", "moment", "clients_left_total"),
];

function counted(id, title, about, label, name) {
  return { id, title, about, head: [label, "#requests"],
           rows: () => [...by(label, name)].sort((a, b) => b[1] - a[1]).map(([key, count]) => () => [{ text: key }, number(count)]) };
}

for (const table of TABLES) {
  table.body = make("tbody");
  const head = table.head.map((text) => make("th", text[0] === "#" ? { class: "number" } : {}, text.replace("#", "")));
  const whole = make("table", {}, make("thead", {}, make("tr", {}, ...head)), table.body);
  card(table.id, table.title, table.about, table.wide).append(make("div", { class: "scroll" }, whole));
}

function engineRows() {
  const up = by("engine", "engine_up"), seats = by("engine", "engine_seats"), running = by("engine", "num_requests_running");
  const failures = by("engine", "engine_failures_total"), retried = by("engine", "requests_retried_total");
  return [...seats.keys()].sort().map((name) => () => {
    const good = up.get(name) === 1, taken = running.get(name) ?? 0, most = seats.get(name);
    return [
      { text: name },
      { text: good ? "up" : "down", before: make("span", { class: `dot ${good ? "good" : "bad"}` }) },
      { before: strip(engines.get(name) ?? []), kind: "past" },
      { text: `${taken} of ${most}`, before: bar(taken / most) },
      number(failures.get(name)), number(retried.get(name)),
    ];
  });
}

function bar(share) {
  return make("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
              make("rect", { class: "empty", width: 100, height: 10 }), make("rect", { class: "k0", width: 100 * Math.min(1, share), height: 10 }));
}

/** One coloured stretch for each time that an engine was up or down. */
function strip(states) {
  const made = make("svg", { class: "strip", viewBox: "0 0 100 14", preserveAspectRatio: "none", role: "img", "aria-label": "when it was up and down" });
  const x = (i) => 100 * (1 - (times.at(-1) - times[i]) / span);
  for (let from = 0, i = 1; i <= states.length; i++) {
    if (i < states.length && states[i] === states[from]) continue;
    const left = Math.max(0, x(from)), until = i < states.length ? x(i) : 100;
    if (Number.isFinite(states[from]) && until > left)
      made.append(make("rect", { class: states[from] ? "k2" : "k3", x: left, y: 1, height: 12, width: until - left }));
    from = i;
  }
  return made;
}

function fill(table) {
  const rows = table.rows();
  const cells = rows.slice(0, MOST_ROWS).map((row) => make("tr", {}, ...row().map((cell) =>
    make("td", cell.kind ? { class: cell.kind } : {}, ...(cell.before ? [cell.before] : []), cell.text ?? ""))));
  if (rows.length > MOST_ROWS) cells.push(make("tr", {}, make("td", { class: "soft", colspan: table.head.length }, `and ${rows.length - MOST_ROWS} more, in /metrics`)));
  if (!rows.length) cells.push(make("tr", {}, make("td", { class: "soft", colspan: table.head.length }, "none so far")));
  table.body.replaceChildren(...cells);
}

// ---- Once a second -----------------------------------------------------------------------------------------------

function show(id, text) {
  document.getElementById(id).textContent = text;
}

function state(text, kind) {
  show("state", text);
  document.getElementById("state-dot").className = `dot ${kind}`;
}

function problem(text) {
  let box = document.getElementById("problem");
  if (!text) return box?.remove();
  if (!box) document.getElementById("panels").prepend((box = make("p", { id: "problem", role: "alert" })));
  box.textContent = text;
}

function take(text) {
  const page = { at: performance.now() / 1000, metrics: parse(text) };
  // A gateway that was started again counts from 0: nothing before it can be compared.
  if (pages.length && ["requests_total", "e2e_request_latency_seconds_count"].some((name) => total(name, page) < total(name))) pages.length = 0;
  pages.push(page);
  while (pages.length > 2 && (page.at - pages[0].at > WINDOW_S + 0.5 * STEP_MS / 1000 || pages.length > WINDOW_S + 2)) pages.shift();
  times.copyWithin(0, 1)[POINTS - 1] = page.at;
  span = Math.min(SHOWN_S[1], Math.max(SHOWN_S[0], page.at - times.find(Number.isFinite)));
  CHARTS.forEach(extend);
  const up = by("engine", "engine_up");
  for (const name of [...up.keys(), ...engines.keys()]) {
    if (!engines.has(name) && engines.size < MOST_ROWS) engines.set(name, new Float64Array(POINTS).fill(NaN));
  }
  for (const [name, states] of engines) states.copyWithin(0, 1)[POINTS - 1] = up.get(name) ?? NaN;
  CHARTS.forEach(draw);
  TABLES.forEach(fill);
  const models = [...new Set([...by("model_name", "requests_total").keys()])];
  show("models", models.slice(0, 4).join(", ") + (models.length > 4 ? ` and ${models.length - 4} more` : ""));
  const resident = total("process_resident_memory_bytes");  // several workers don't report these two
  show("process", resident ? `CPU ${write("share", perSecond("process_cpu_seconds_total"))}, ${round(resident / 1e6, 0)} MB` : "");
  show("clock", new Date().toLocaleTimeString());
}

async function tick() {
  if (paused || document.hidden) return;
  try {
    const limit = { signal: AbortSignal.timeout(5000), cache: "no-store" };
    const [metrics, ready] = await Promise.all([fetch("/metrics", limit), fetch("/ready", limit)]);
    if (!metrics.ok) throw new Error(`/metrics answered ${metrics.status}`);
    const text = await metrics.text();
    if (paused) return;  // since this reading began
    take(text);
    state(ready.ok ? "ready" : "no engine is available", ready.ok ? "good" : "bad");
    problem("");
  } catch (error) {
    state("no answer", "bad");
    problem(`The gateway does not answer (${error.message}). This page tries again every second.`);
  }
}

document.getElementById("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.textContent = paused ? "Go on" : "Pause";
  event.target.setAttribute("aria-pressed", paused);
});

/** The next reading comes a second after the last one began, and never before the last one has ended. */
async function forever() {
  for (;;) {
    const began = performance.now();
    await tick();
    await new Promise((done) => setTimeout(done, Math.max(100, STEP_MS - (performance.now() - began))));
  }
}
forever();
