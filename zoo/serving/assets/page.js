"use strict";
const $ = (id) => document.getElementById(id);
let models = [];

const chosen = () => models.find((m) => m.name === $("model").value);
const show = (row, on) => { $(row).hidden = !on; };

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "bad" : "";
}

function form() {
  return { image: "png", audio: "wav", text: "text", video: "gif", points: "json" }[chosen().medium];
}

function body() {
  const m = chosen(), asked = { n: Number($("n").value), seed: Number($("seed").value), format: form() }, options = {};
  if (m.classes && $("label").value !== "") asked.labels = Number($("label").value);
  if ("temperature" in m.options && Number($("temperature").value) !== 1) {
    options.temperature = Number($("temperature").value);
  }
  if (m.text !== null && $("prompt").value) asked.labels = $("prompt").value;
  else if ("prompt" in m.options && $("prompt").value) options.prompt = $("prompt").value;
  if (Object.keys(options).length) asked.options = options;
  if (m.medium === "image" || m.medium === "video") asked.scale = 2;
  return asked;
}

const ENDING = { png: "png", wav: "wav", text: "txt", gif: "gif", json: "json" };
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

function python(value) {
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

function choose() {
  const m = chosen();
  show("label-row", m.classes > 0);
  show("temperature-row", "temperature" in m.options);
  show("prompt-row", m.text !== null || ("prompt" in m.options && m.medium === "text"));
  $("label").replaceChildren(new Option("each in turn", ""), ...Array.from({ length: m.classes }, (_, i) => new Option(i, i)));
  $("n").max = m.max_n;
  $("n").value = { text: 1, audio: 4, video: 4 }[m.medium] || 16;
  $("draw").disabled = !m.generates;
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
  event.preventDefault();
  if (!chosen()) return list();
  const m = chosen(), asked = body(), start = performance.now();
  say("Drawing…");
  $("draw").disabled = true;
  try {
    const response = await fetch("v1/models/" + m.name + "/sample", { method: "POST", headers: headers(), body: JSON.stringify(asked) });
    if (!response.ok) return say("Refused: " + await refusal(response), true);
    const element = await shown(m, asked, response);
    $("result").replaceChildren(element);
    say(`${asked.n} of ${m.name}, seed ${response.headers.get("x-seed")}, ${Math.round(performance.now() - start)} ms`);
  } catch {
    say("The server does not answer.", true);
  } finally {
    $("draw").disabled = false;
  }
}

async function shown(m, asked, response) {
  if (m.medium === "image" || m.medium === "video") {
    const image = new Image();
    image.alt = `${asked.n} samples of ${m.name}, seed ${asked.seed}`;
    image.src = URL.createObjectURL(await response.blob());
    await image.decode();
    return image;
  }
  if (m.medium === "audio") {
    const audio = document.createElement("audio");
    audio.controls = true;
    audio.setAttribute("aria-label", `${asked.n} samples of ${m.name}`);
    audio.src = URL.createObjectURL(await response.blob());
    return audio;
  }
  const text = document.createElement("pre");
  text.tabIndex = 0;
  text.textContent = (await response.text()).slice(0, 20000);
  return text;
}

async function list() {
  const response = await fetch("v1/models", { headers: headers() });
  show("key-row", response.status === 401 || $("key").value !== "");
  if (!response.ok) return say(response.status === 401 ? "This server wants an API key." : await refusal(response), true);
  models = (await response.json()).models;
  $("model").replaceChildren(...models.map((m) => new Option(m.name)));
  choose();
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
$("form").addEventListener("input", () => { $("temperature-value").value = $("temperature").value; recipes(); });
$("model").addEventListener("change", choose);
$("dice").addEventListener("click", () => { $("seed").value = Math.floor(Math.random() * 2 ** 31); recipes(); });
document.querySelectorAll(".copy").forEach((b) => b.addEventListener("click", () => copy(b)));
list().catch(() => say("The server does not answer.", true));
