"use strict";
const $ = (id) => document.getElementById(id);
let models = [];
let pictures = {}; // option -> PNG in base64
let timer = null;

const FIRST = 3; // seconds that the first drawing of a model may take
const MAIN = ["temperature", "guidance_scale", "guidance", "steps", "sampler", "solver", "truncation", "length"];
const SLIDERS = { temperature: [0.1, 2, 0.05], truncation: [0, 1, 0.05], guidance_scale: [0, 8, 0.1], eta: [0, 1, 0.05], top_p: [0.05, 1, 0.05] };
const chosen = () => models.find((m) => m.name === $("model").value);
const show = (row, on) => { $(row).hidden = !on; };
const words = (name) => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
const seconds = (s) => (s < 1 ? `${Math.round(1000 * s)} ms` : `${s.toFixed(s < 10 ? 1 : 0)} s`);

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  node.append(...children);
  return node;
}

// -- one control for each option of the model -------------------------------------------------------------------------

/** What is set by it: undefined where the model decides. */
const read = {
  word: (node) => node.value || undefined,
  text: (node) => node.value || undefined,
  boolean: (node) => node.checked,
  number: (node) => (node.value === "" || node.dataset.own ? undefined : Number(node.value)),
  integer: (node) => (node.value === "" || node.dataset.own ? undefined : Math.round(Number(node.value))),
  picture: (node) => pictures[node.dataset.option],
};

function control(name, told) {
  const id = `option-${name}`, common = { id, "data-option": name, "data-kind": told.kind };
  const own = told.value === null ? "the model's own" : String(told.value);
  if (told.kind === "word") {
    return make("select", common, new Option(`${own} (as it is)`, ""), ...told.words.filter((w) => w !== told.value).map((w) => new Option(w, w)));
  }
  if (told.kind === "boolean") {
    const box = make("input", { ...common, type: "checkbox" });
    box.checked = told.default === true;
    return box;
  }
  if (told.kind === "picture") return make("input", { ...common, type: "file", accept: "image/*" });
  if (told.kind === "text") return make("input", { ...common, type: "text", placeholder: told.value === null ? "" : own });
  if (told.kind === "number" && SLIDERS[name] && typeof told.value === "number" && told.value <= SLIDERS[name][1]) {
    const [min, max, step] = SLIDERS[name];
    const range = make("input", { ...common, type: "range", min, max, step, value: told.value, "data-own": "1" });
    const output = make("output", { for: id, id: `${id}-value` }, String(told.value));
    range.addEventListener("input", () => { delete range.dataset.own; output.textContent = range.value; });
    return make("span", { class: "pair" }, range, output);
  }
  return make("input", { ...common, type: "number", step: told.kind === "integer" ? "1" : "any", placeholder: own });
}

function options() {
  const m = chosen(), rows = { "main-options": [], "more-options": [] };
  pictures = {};
  for (const [name, told] of Object.entries(m.controls)) {
    if (name === "prompt") continue; // it has a place of its own
    const node = control(name, told), about = told.about.split(/[;.:] /)[0].replaceAll("`", "");
    const input = node.matches("[data-option]") ? node : node.querySelector("[data-option]");
    const hint = about ? make("small", { id: `about-${name}` }, about) : "";
    if (about) input.setAttribute("aria-describedby", `about-${name}`);
    const row = make("div", { class: "row" }, make("label", { for: input.id }, words(name)), node, hint);
    rows[MAIN.includes(name) ? "main-options" : "more-options"].push(row);
  }
  for (const [place, list] of Object.entries(rows)) $(place).replaceChildren(...list);
  $("more").hidden = !rows["more-options"].length;
  document.querySelectorAll("[data-kind=picture]").forEach((node) => node.addEventListener("change", () => picture(node)));
}

/** Bring a picture to the model's size, as a PNG file. */
async function picture(node) {
  const [, height, width] = chosen().shape, file = node.files[0];
  delete pictures[node.dataset.option];
  if (file) {
    try {
      const image = await createImageBitmap(file);
      const canvas = make("canvas", { width, height });
      canvas.getContext("2d").drawImage(image, 0, 0, width, height);
      pictures[node.dataset.option] = canvas.toDataURL("image/png").split(",")[1];
    } catch {
      say(`${file.name} is no picture that this browser reads.`, true);
    }
  }
  recipes();
}

function set() {
  const found = {};
  for (const node of document.querySelectorAll("[data-option]")) {
    const { option, kind } = node.dataset, value = read[kind](node);
    if (value !== undefined && value !== chosen().controls[option].default) found[option] = value;
  }
  return found;
}

// -- the request ------------------------------------------------------------------------------------------------------

function form() {
  return { image: "png", audio: "wav", text: "text", video: "gif", points: "json" }[chosen().medium];
}

function body() {
  const m = chosen(), asked = { n: Number($("n").value), format: form() }, chosenOptions = set();
  if ($("seed").value !== "") asked.seed = Number($("seed").value);
  if (m.classes && $("label").value !== "") asked.labels = Number($("label").value);
  if (m.text !== null && $("prompt").value) asked.labels = $("prompt").value;
  else if ("prompt" in m.controls && m.medium === "text" && $("prompt").value) chosenOptions.prompt = $("prompt").value;
  if (Object.keys(chosenOptions).length) asked.options = chosenOptions;
  if (m.medium === "image" || m.medium === "video") asked.scale = 2;
  return asked;
}

const ENDING = { png: "png", wav: "wav", text: "txt", gif: "gif", json: "json" };
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

function python(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  return "{" + Object.entries(value).map(([k, v]) => JSON.stringify(k) + ": " + python(v)).join(", ") + "}";
}

function recipes() {
  if (!chosen()) return;
  if (!chosen().generates) {
    $("curl").textContent = $("python").textContent = "";
    return;
  }
  const asked = body(), url = location.origin + "/v1/models/" + chosen().name + "/sample";
  const file = chosen().name + "." + ENDING[asked.format];
  const key = $("key").value ? " \\\n  -H \"Authorization: Bearer $ZOO_API_KEY\"" : "";
  $("curl").textContent = `curl -sS ${url} \\\n  -H 'Content-Type: application/json'${key} \\\n` +
    `  -d ${quoted(JSON.stringify(asked))} -o ${file}`;
  const auth = $("key").value ? ",\n    \"Authorization\": \"Bearer \" + os.environ[\"ZOO_API_KEY\"]" : "";
  $("python").textContent = `import json, os, urllib.request\n\nrequest = urllib.request.Request(\n` +
    `    ${JSON.stringify(url)},\n    json.dumps(${python(asked)}).encode(),\n` +
    `    {"Content-Type": "application/json"${auth}},\n)\n` +
    `open(${JSON.stringify(file)}, "wb").write(urllib.request.urlopen(request).read())`;
}

function fewer(m, n) {
  return m.seconds ? Math.max(1, Math.min(n, Math.floor(FIRST / m.seconds))) : n;
}

function choose() {
  const m = chosen();
  show("label-row", m.classes > 0);
  show("prompt-row", m.text !== null || ("prompt" in m.controls && m.medium === "text"));
  if (m.text !== null) $("prompt").maxLength = m.text;
  else $("prompt").removeAttribute("maxlength");
  const name = (i) => (m.class_names[i] ? `${i} ${m.class_names[i]}` : String(i));
  $("label").replaceChildren(new Option("each in turn", ""), ...Array.from({ length: m.classes }, (_, i) => new Option(name(i), i)));
  $("n").max = m.max_n;
  $("n").value = fewer(m, Math.min(m.max_n, { text: 1, audio: 4, video: 4 }[m.medium] || 16));
  $("about").textContent = `${m.class}, of the family ${m.family}` + (m.seconds ? `; about ${seconds(m.seconds)} a sample` : "");
  options();
  $("draw").disabled = $("reset").disabled = !m.generates;
  $("result").replaceChildren();
  if (!m.generates) say(`${m.name} draws no samples; POST images to v1/models/${m.name}/features.`);
  else say("Ready.");
  recipes();
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: "Bearer " + key } : {}) };
}

async function refusal(response) {
  try { return (await response.json()).error.message; } catch { return "status " + response.status; }
}

async function draw(event) {
  if (event) event.preventDefault();
  if (!chosen()) return list();
  const m = chosen(), asked = body(), start = performance.now();
  const elapsed = () => (performance.now() - start) / 1000;
  say("Drawing…");
  clearInterval(timer);
  timer = setInterval(() => { if (elapsed() > 1) $("status").textContent = `Drawing… ${elapsed().toFixed(0)} s`; }, 1000);
  $("draw").disabled = true;
  $("draw").setAttribute("aria-busy", "true");
  try {
    const response = await fetch("v1/models/" + m.name + "/sample", { method: "POST", headers: headers(), body: JSON.stringify(asked) });
    if (!response.ok) return say("Refused: " + await refusal(response), true);
    const took = elapsed(), seed = response.headers.get("x-seed");
    const element = await shown(m, asked, response, seed);
    if (m !== chosen()) return;
    $("result").replaceChildren(element);
    say(`${asked.n} of ${m.name}, seed ${seed}, in ${seconds(took)}, ${seconds(took / asked.n)} each`);
  } catch {
    say("The server does not answer.", true);
  } finally {
    clearInterval(timer);
    $("draw").disabled = !chosen().generates;
    $("draw").removeAttribute("aria-busy");
  }
}

async function shown(m, asked, response, seed) {
  if (m.medium === "image" || m.medium === "video") {
    const image = new Image();
    image.alt = `${asked.n} samples of ${m.name}, seed ${seed}`;
    image.src = URL.createObjectURL(await response.blob());
    await image.decode();
    return image;
  }
  if (m.medium === "audio") {
    return make("audio", { controls: true, "aria-label": `${asked.n} samples of ${m.name}`, src: URL.createObjectURL(await response.blob()) });
  }
  const text = make("pre", { tabindex: "0", role: "region", "aria-label": `Samples of ${m.name}` });
  text.textContent = (await response.text()).slice(0, 20000);
  return text;
}

async function list() {
  const response = await fetch("v1/models", { headers: headers() });
  show("key-row", response.status === 401 || $("key").value !== "");
  if (!response.ok) return say(response.status === 401 ? "This server wants an API key." : await refusal(response), true);
  models = (await response.json()).models;
  $("model").replaceChildren(...models.map((m) => new Option(m.name)));
  return first();
}

/** Show a model, and something that it draws at once. */
function first() {
  choose();
  return chosen().generates ? draw() : undefined;
}

async function copy(button) {
  const text = $(button.dataset.of).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const range = document.createRange();
    range.selectNodeContents($(button.dataset.of));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  say("Copied.");
}

show("key-row", false);
$("form").addEventListener("submit", draw);
$("form").addEventListener("input", recipes);
$("model").addEventListener("change", first);
$("reset").addEventListener("click", () => { options(); recipes(); });
$("dice").addEventListener("click", () => { $("seed").value = Math.floor(Math.random() * 2 ** 31); draw(); });
document.querySelectorAll(".copy").forEach((b) => b.addEventListener("click", () => copy(b)));
list().catch(() => say("The server does not answer.", true));
