"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  data.tables.sort((a, b) => b.rows.length - a.rows.length || a.key.localeCompare(b.key));
  const rows = data.tables.flatMap((table) => table.rows.map((row) => Object.assign(row, { table })));
  const byId = new Map(rows.map((row) => [row.id, row]));
  const families = [...new Set(rows.map((row) => row.family))].sort();
  const narrow = matchMedia("(max-width: 760px)");
  const PARTS = { speed: "hardware", samples: "samples", likelihood: "likelihood", features: "features", energies: "energies", prediction: "prediction", captions: "captions" };
  const state = { table: data.tables[0] && data.tables[0].key, hidden: new Set(), query: "", sort: null, up: null, all: false, tags: new Set() };

  // -- small tools ---------------------------------------------------------------------------------------------------

  function el(tag, attributes = {}, ...children) {
    const node = tag.startsWith("svg:")
      ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
      : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
      else if (key === "style") Object.assign(node.style, value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  }

  const fill = (node, ...children) => node.replaceChildren(...children.flat().filter((child) => child));
  const colour = (family) => `var(--f${families.indexOf(family) % 8})`;
  const words = (text) => text.replaceAll("_", " ");
  const column = (key) => data.columns[key];
  const current = () => data.tables.find((table) => table.key === state.table) || data.tables[0];
  const dataset = (name) => ({ mnist: "MNIST", binary_mnist: "Binary MNIST", cifar10: "CIFAR-10" })[name] || words(name[0].toUpperCase() + name.slice(1));
  const trackName = (track) => ({ home: "home track", open: "open track" })[track] || track;

  function plain(value) {
    if (value === null || value === undefined) return "not known";
    if (value === true) return "yes";
    if (value === false) return "no";
    if (typeof value === "number") {
      return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(5)));
    }
    if (Array.isArray(value)) return value.map(plain).join(", ");
    if (typeof value === "object") return Object.entries(value).map(([k, v]) => `${words(k)} ${plain(v)}`).join(", ") || "none";
    return String(value);
  }

  const sheetStyle = el("style");
  document.head.append(sheetStyle);
  rows.forEach((row, i) => {
    if (!row.sheet) return;
    row.sheet.name = `sheet${i}`;
    sheetStyle.append(`.sheet${i}{background-image:url("${row.sheet.source}")}`);
  });

  /** One image of a sheet, `size` pixels wide; nothing where the layout of the sheet is not known. */
  function tile(row, index, size) {
    const sheet = row.sheet;
    if (!sheet || !sheet.columns) return null;
    const scale = size / (sheet.tile * sheet.scale);
    const x = (1 + (index % sheet.columns) * (sheet.tile + 1)) * sheet.scale * scale;
    const y = (1 + Math.floor(index / sheet.columns) * (sheet.tall + 1)) * sheet.scale * scale;
    return el("i", {
      class: `tile ${sheet.name}`,
      style: {
        width: `${size}px`, height: `${(size * sheet.tall) / sheet.tile}px`, backgroundPosition: `${-x}px ${-y}px`,
        backgroundSize: `${sheet.width * scale}px ${sheet.height * scale}px`,
      },
    });
  }

  const count = (row) => (row.sheet && row.sheet.columns ? row.sheet.columns * row.sheet.rows : 0);
  const dot = (family) => el("span", { class: "dot", style: { background: colour(family) }, "aria-hidden": "true" });

  // -- the table -----------------------------------------------------------------------------------------------------

  function compares(row, key) {
    const part = column(key).part;
    return !(part && row.differs[part]) && row.values[key] !== null && row.values[key] !== undefined;
  }

  function sorted(table, list, key, up) {
    const direction = up ? 1 : -1;
    return [...list].sort((a, b) => {
      const [first, second] = [compares(a, key), compares(b, key)];
      if (first !== second) return first ? -1 : 1;
      const [x, y] = [a.values[key], b.values[key]];
      const [missing, absent] = [x === null || x === undefined, y === null || y === undefined];
      if (missing !== absent) return missing ? 1 : -1;
      const order = typeof x === "string" ? x.localeCompare(y) : x - y;
      return (order || 0) * direction || a.name.localeCompare(b.name);
    });
  }

  /** What a row is marked by, and can be looked for: fronts, warnings, and how its samples were drawn. */
  function tagsOf(row) {
    const { protocol } = row.result;
    return [
      ...row.pareto.map((axis) => `◆ ${axis}`), ...(protocol.conditional ? ["conditional"] : []),
      ...(/guided/.test(Object.values(row.texts).join(" ")) ? ["guided"] : []),
      ...(row.sound ? ["audio"] : []), ...(row.lines ? ["text"] : []), ...(row.result.data.shape.length === 4 ? ["video"] : []),
      ...(row.quick ? ["quick"] : []), ...row.flags,
    ];
  }

  function visible(table) {
    const query = state.query.trim().toLowerCase();
    return table.rows.filter(
      (row) =>
        !state.hidden.has(row.family) && [...state.tags].every((tag) => tagsOf(row).includes(tag)) &&
        (!query || `${row.name} ${row.family} ${row.summary} ${row.paper.title || ""}`.toLowerCase().includes(query)),
    );
  }

  const shownColumns = (table) => table.columns.filter((key) => key !== "name" && (state.all || column(key).narrow || key === state.sort));

  function bestOf(table, key) {
    const values = table.rows.filter((row) => compares(row, key)).map((row) => row.values[key]);
    return column(key).part && values.length > 1 ? (column(key).best === "low" ? Math.min(...values) : Math.max(...values)) : null;
  }

  /** How good a value is among those that compare, between 0.06 and 1, on a log scale where all are positive. */
  function goodness(table, row, key) {
    const values = table.rows.filter((r) => compares(r, key)).map((r) => r.values[key]);
    if (!compares(row, key) || values.length < 2 || !column(key).part) return null;
    const scale = values.every((v) => v > 0) && Math.max(...values) / Math.min(...values) > 8 ? Math.log : (v) => v;
    const [low, high] = [scale(Math.min(...values)), scale(Math.max(...values))];
    if (low === high) return 1;
    const share = (scale(row.values[key]) - low) / (high - low);
    return Math.max(0.06, column(key).best === "low" ? 1 - share : share);
  }

  function drawTable() {
    const table = current();
    if (!table) return fill($("status"), "There are no results yet; make one with zoo evaluate NAME.");
    if (state.sort === null || !table.columns.includes(state.sort)) {
      state.sort = table.sort;
      state.up = column(table.sort).best === "low";
    }
    const list = sorted(table, visible(table), state.sort, state.up);
    const keys = shownColumns(table);
    const marks = new Map();
    for (const row of table.rows) for (const text of Object.values(row.differs)) if (!marks.has(text)) marks.set(text, marks.size + 1);
    const head = el("thead", { role: "rowgroup" }, el("tr", { role: "row" },
      el("th", { scope: "col", role: "columnheader", class: "rank" }, el("span", { class: "hidden" }, "Rank")),
      header("name", true), keys.map((key) => header(key, !column(key).number))));
    let rank = 0;
    const better = (state.up ? "low" : "high") === column(state.sort).best;
    const body = list.map((row) => line(table, row, keys, better && compares(row, state.sort) ? ++rank : null, marks));
    const caption = el("caption", { class: "hidden" }, `${dataset(table.dataset)}, ${data.tracks[table.track]}. Sorted by ${column(state.sort).heading}.`);
    fill($("table"), caption, head, el("tbody", { role: "rowgroup" }, body, floorLine(table, keys)));
    const protocol = table.samples ? `${table.samples.toLocaleString("en")} samples through ${table.extractor}` : table.columns.includes("probe_accuracy") ? "no samples" : "likelihoods only";
    $("board-title").textContent = `${dataset(table.dataset)} · ${trackName(table.track)}`;
    $("status").textContent =
      `${list.length} of ${table.rows.length} models, sorted by ${column(state.sort).heading}, ` +
      `${better ? "best" : "worst"} first; ${protocol}, ${table.split} split.`;
    const notes = [...marks].filter(([text]) => list.some((row) => Object.values(row.differs).includes(text)));
    fill($("notes"),
      notes.map(([text, mark]) => el("p", {}, el("sup", {}, String(mark)), ` Another protocol, not ranked with the rest: ${text}.`)),
      list.some((row) => row.pareto.length) &&
        el("p", {}, `◆ On a Pareto front: no model that compares has both a better ${column(table.quality).heading} and more samples a second (speed), or less training compute (compute).`),
      list.some((row) => row.flags.length) && el("p", {}, "Memorised: more samples than expected lie as near to a training image as unseen images hardly ever do."));
    fill($("sorter"), ["name", ...table.columns.filter((key) => key !== "name")].map((key) =>
      el("option", { value: key, selected: key === state.sort }, column(key).heading)));
  }

  function header(key, text) {
    const on = state.sort === key;
    return el("th", { scope: "col", role: "columnheader", class: text ? "text" : null, "aria-sort": on ? (state.up ? "ascending" : "descending") : null },
      el("button", { type: "button", title: column(key).note, "data-key": key, on: { click: () => sortBy(key) } },
        column(key).heading, el("span", { class: "arrow", "aria-hidden": "true" }, on ? (state.up ? "↑" : "↓") : "")));
  }

  function sortBy(key) {
    if (state.sort === key) state.up = !state.up;
    else [state.sort, state.up] = [key, column(key).best === "low"];
    drawTable();
    remember();
    const button = document.querySelector(`#table button[data-key="${key}"]`);
    if (button && !narrow.matches) button.focus();
  }

  function line(table, row, keys, rank, marks) {
    const strip = el("span", { class: "strip", "aria-hidden": "true" }, [0, 1].map((i) => tile(row, i, 30)));
    const warned = new Set(["quick", ...row.flags]);
    const tags = tagsOf(row).map((tag) => el("span", { class: warned.has(tag) ? "tag warn" : "tag" }, tag));
    const card = row.card && el("a", { class: "cardlink", href: `#model=${row.id}&tab=card`, "aria-label": `Card of ${row.name}`, on: { click: (event) => { event.preventDefault(); open(row, "card"); } } }, "card");
    const who = el("div", { class: "who" }, strip, el("div", {},
      el("button", { type: "button", class: "name", on: { click: () => open(row, "samples") } }, row.name),
      el("div", { class: "family" }, el("span", { class: "family" }, dot(row.family), row.family), tags, card)));
    return el("tr", { role: "row", "data-id": row.id },
      el("td", { class: "rank", role: "cell" }, rank === null ? "–" : String(rank)),
      el("th", { scope: "row", role: "rowheader" }, who), keys.map((key) => cell(table, row, key, marks)));
  }

  function cell(table, row, key, marks) {
    const text = row.texts[key];
    const label = { "data-label": column(key).heading, role: "cell" };
    if (text === null || text === undefined) return el("td", { ...label, class: "blank" }, el("span", { class: "none" }, "–"));
    const differs = column(key).part && row.differs[column(key).part];
    const best = bestOf(table, key);
    const good = goodness(table, row, key);
    const [, number, how] = /^(.*?)(?: \((.*)\))?$/.exec(text);
    const said = key === "likelihood" ? [row.unit, [row.kind, how].filter(Boolean).join(", ")] : [how];
    const smalls = said.filter(Boolean).map((small) => small.replaceAll("+", "+\u200b")); // where it may break
    return el("td", { ...label, class: best !== null && row.values[key] === best && !differs ? "best" : null },
      el("button", { type: "button", class: "num", title: "How was this measured?", on: { click: () => open(row, "protocol", key) } },
        el("b", {}, number), differs ? el("sup", {}, String(marks.get(differs))) : null, smalls.map((small) => el("small", {}, ` ${small}`)),
        el("span", { class: "hidden" }, ` ${column(key).heading} of ${row.name}: protocol`)),
      good === null ? null : el("span", { class: "meter", "aria-hidden": "true" }, el("i", { style: { width: `${100 * good}%` } })));
  }

  function floorLine(table, keys) {
    if (!Object.keys(table.floor).length) return null;
    return el("tr", { class: "floor", role: "row" }, el("td", { class: "rank", role: "cell" }),
      el("th", { scope: "row", role: "rowheader" }, "Real training images, the floor"),
      keys.map((key) => el("td", { role: "cell", "data-label": column(key).heading, class: table.floor[key] ? null : "blank" }, table.floor[key] || "")));
  }

  // -- controls ------------------------------------------------------------------------------------------------------

  function drawControls() {
    fill($("sets"), data.tables.map((table) =>
      el("label", { class: "chip" },
        el("input", { type: "radio", name: "set", value: table.key, checked: table.key === state.table, on: { change: () => { state.table = table.key; state.sort = null; state.tags.clear(); drawAll(); remember(); } } }),
        el("span", {}, dataset(table.dataset), el("small", {}, trackName(table.track))))));
    fill($("families"), families.map((family) =>
      el("label", { class: "chip" },
        el("input", { type: "checkbox", checked: !state.hidden.has(family), value: family, on: { change: (event) => { state.hidden[event.target.checked ? "delete" : "add"](family); drawTable(); remember(); } } }),
        el("span", {}, dot(family), family))));
    $("query").value = state.query;
    $("all").checked = state.all;
  }

  function drawTags() {
    const table = current();
    const found = table ? [...new Set(table.rows.flatMap(tagsOf))].sort() : [];
    state.tags = new Set([...state.tags].filter((tag) => found.includes(tag)));
    $("tag-set").hidden = !found.length;
    fill($("tags"), found.map((tag) => el("label", { class: "chip" },
      el("input", { type: "checkbox", value: tag, checked: state.tags.has(tag), on: { change: (event) => { state.tags[event.target.checked ? "add" : "delete"](tag); drawTable(); remember(); } } }),
      el("span", {}, tag))));
  }

  function listen() {
    $("query").addEventListener("input", (event) => { state.query = event.target.value; drawTable(); remember(); });
    $("all").addEventListener("change", (event) => { state.all = event.target.checked; drawTable(); remember(); });
    $("csv").addEventListener("click", () => save("csv", asCsv()));
    $("json").addEventListener("click", () => save("json", asJson()));
    $("link").addEventListener("click", async () => {
      remember();
      try { await navigator.clipboard.writeText(location.href); $("taken").textContent = "Link copied."; }
      catch { $("taken").textContent = "The address of this page is the link."; }
    });
    $("sorter").addEventListener("change", (event) => {
      [state.sort, state.up] = [event.target.value, column(event.target.value).best === "low"];
      drawTable();
      remember();
    });
    $("theme").addEventListener("click", () => {
      const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark";
      document.documentElement.dataset.theme = dark ? "light" : "dark";
    });
  }

  // -- links and files -----------------------------------------------------------------------------------------------

  /** Put what is seen into the address, so that it can be kept and sent: only what is not as at the start. */
  function remember(dialog = null) {
    const said = new URLSearchParams();
    const table = current();
    const put = (key, value, usual) => { if (value && value !== usual) said.set(key, value); };
    put("set", state.table, data.tables[0] && data.tables[0].key);
    if (table) put("sort", state.sort, table.sort);
    if (table && state.sort && state.up !== (column(state.sort).best === "low")) said.set("up", state.up ? "1" : "0");
    put("without", families.filter((family) => state.hidden.has(family)).join(","));
    put("tags", [...state.tags].join(","));
    put("find", state.query.trim());
    if (state.all) said.set("all", "1");
    put("left", $("left").value, state.usual && state.usual[0]);
    put("right", $("right").value, state.usual && state.usual[1]);
    for (const [key, value] of Object.entries(dialog || {})) put(key, value);
    history.replaceState(null, "", `#${said}`);
  }

  /** Take from the address what `remember` put there; what is not known is passed over. Returns what it says. */
  function recall() {
    const said = new URLSearchParams(location.hash.slice(1));
    const table = data.tables.find((t) => t.key === said.get("set"));
    if (table) state.table = table.key;
    const sort = said.get("sort");
    if (current() && current().columns.includes(sort)) [state.sort, state.up] = [sort, column(sort).best === "low"];
    else if (current()) [state.sort, state.up] = [current().sort, column(current().sort).best === "low"];
    if (said.has("up")) state.up = said.get("up") === "1";
    state.hidden = new Set((said.get("without") || "").split(",").filter((family) => families.includes(family)));
    state.tags = new Set((said.get("tags") || "").split(",").filter(Boolean));
    state.query = said.get("find") || "";
    state.all = said.get("all") === "1";
    return said;
  }

  function seen() {
    const table = current();
    return table ? sorted(table, visible(table), state.sort, state.up) : [];
  }

  function asCsv() {
    const table = current();
    const keys = table.columns.filter((key) => key !== "name");
    const quoted = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no formula in a spreadsheet
      return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    const head = ["dataset", "track", "split", "rank", "name", "family", "tags", ...keys, "unit", "kind", "weights_sha256", "command"];
    const body = seen().map((row) => [table.dataset, table.track, table.split, row.rank, row.name, row.family, tagsOf(row).join(" "),
      ...keys.map((key) => row.values[key]), row.unit, row.kind, row.result.identity.weights_sha256, row.result.command]);
    return [head, ...body].map((line) => line.map(quoted).join(",")).join("\n") + "\n";
  }

  function asJson() {
    const { dataset: name, track, split, sort, quality, samples, extractor, floor } = current();
    const list = seen().map((row) => ({ name: row.name, family: row.family, rank: row.rank, tags: tagsOf(row), differs: row.differs, values: row.values, paper: row.paper, result: row.result }));
    return JSON.stringify({ dataset: name, track, split, sort, quality, samples, extractor, floor, rows: list }, null, 1);
  }

  function save(ending, text) {
    if (!current()) return;
    const address = URL.createObjectURL(new Blob([text], { type: { csv: "text/csv", json: "application/json" }[ending] }));
    const link = el("a", { href: address, download: `${current().key.replace("/", "-")}.${ending}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    $("taken").textContent = `${seen().length} rows as ${ending.toUpperCase()}.`;
  }

  function drawMosaic() {
    const able = rows.filter((row) => count(row) && !row.quick);
    const wanted = 36;
    fill($("mosaic"), able.length ? Array.from({ length: wanted }, (_, i) => {
      const row = able[(i * 7) % able.length];
      return tile(row, (i * 11 + 3) % count(row), 46);
    }) : []);
  }

  // -- plots ---------------------------------------------------------------------------------------------------------

  const SHAPES = [
    (r) => `M0,${-r}A${r},${r} 0 1 1 0,${r}A${r},${r} 0 1 1 0,${-r}Z`,
    (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
    (r) => `M0,${-1.3 * r}L${1.2 * r},${r}H${-1.2 * r}Z`,
    (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0Z`,
    (r) => `M${-r},${-0.4 * r}H${-0.4 * r}V${-r}H${0.4 * r}V${-0.4 * r}H${r}V${0.4 * r}H${0.4 * r}V${r}H${-0.4 * r}V${0.4 * r}H${-r}Z`,
  ];
  const shape = (family, r) => SHAPES[families.indexOf(family) % SHAPES.length](r);

  function axis(values, logarithmic, from, to) {
    const scale = logarithmic ? Math.log10 : (v) => v;
    let [low, high] = [Math.min(...values.map(scale)), Math.max(...values.map(scale))];
    const margin = (high - low) * 0.12 || Math.abs(high) * 0.2 || 0.5;
    low -= margin;
    high += margin;
    if (!logarithmic && Math.min(...values) >= 0) low = Math.max(0, low);
    const at = (v) => from + ((scale(v) - low) / (high - low)) * (to - from);
    return { at, ticks: logarithmic ? powers(low, high) : round(low, high) };
  }

  function powers(low, high) {
    const steps = high - low < 1.4 ? [1, 2, 5] : high - low < 3 ? [1, 3] : [1];
    const found = [];
    for (let p = Math.floor(low); p <= Math.ceil(high); p++) for (const s of steps) found.push(s * 10 ** p);
    return found.filter((v) => Math.log10(v) >= low && Math.log10(v) <= high);
  }

  function round(low, high) {
    const raw = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
    const found = [];
    for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push(Number(v.toPrecision(6)));
    return found;
  }

  const tick = (v) => (v >= 1000 ? `${plain(v / 1000)}k` : plain(v));

  function plot(table, key, axisName, title, subtitle) {
    const quality = table.quality;
    const points = table.rows.filter((row) => compares(row, quality) && compares(row, key));
    if (!points.length) return null;
    const [width, height, left, right, top, bottom] = [560, 380, 56, 20, 14, 46];
    const ratio = (k) => { const v = points.map((row) => row.values[k]); return Math.min(...v) > 0 && Math.max(...v) / Math.min(...v) > 5; };
    const x = axis(points.map((row) => row.values[key]), ratio(key), left, width - right);
    const y = axis(points.map((row) => row.values[quality]), ratio(quality), height - bottom, top);
    const svg = el("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${title}: ${points.length} models` });
    for (const v of x.ticks) svg.append(
      el("svg:line", { class: "grid", x1: x.at(v), x2: x.at(v), y1: top, y2: height - bottom }),
      el("svg:text", { x: x.at(v), y: height - bottom + 18, "text-anchor": "middle", "aria-hidden": "true" }, tick(v)));
    for (const v of y.ticks) svg.append(
      el("svg:line", { class: "grid", x1: left, x2: width - right, y1: y.at(v), y2: y.at(v) }),
      el("svg:text", { x: left - 8, y: y.at(v) + 4, "text-anchor": "end", "aria-hidden": "true" }, tick(v)));
    svg.append(
      el("svg:line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
      el("svg:line", { class: "axis", x1: left, x2: left, y1: top, y2: height - bottom }),
      el("svg:text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, `${column(key).heading}, ${column(key).best === "high" ? "more" : "less"} is better`),
      el("svg:text", { x: 12, y: top + 2, transform: `rotate(-90 12 ${(top + height - bottom) / 2})`, "text-anchor": "middle", dy: (height - bottom - top) / 2 - 2 }, `${column(quality).heading}, ${column(quality).best === "low" ? "lower" : "higher"} is better`));
    const taken = points.map((row) => area(x.at(row.values[key]) - 8, y.at(row.values[quality]) - 8, 16, 16));
    const front = sorted(table, points.filter((row) => row.pareto.includes(axisName)), key, true);
    const corners = [];
    front.forEach((row, i) => {
      const at = [x.at(row.values[key]), y.at(row.values[quality])];
      if (i > 0) corners.push(column(key).best === "high" ? [corners.at(-1)[0], at[1]] : [at[0], corners.at(-1)[1]]);
      corners.push(at);
    });
    if (front.length > 1) svg.append(el("svg:polyline", { class: "front", points: corners.map((at) => at.join(",")).join(" ") }));
    corners.slice(1).forEach(([bx, by], i) => {
      const [ax, ay] = corners[i];
      taken.push(area(Math.min(ax, bx) - 2, Math.min(ay, by) - 2, Math.abs(ax - bx) + 4, Math.abs(ay - by) + 4));
    });
    for (const row of points) {
      const [px, py, on] = [x.at(row.values[key]), y.at(row.values[quality]), row.pareto.includes(axisName)];
      const label = `${row.name}: ${column(quality).heading} ${row.texts[quality]}, ${column(key).heading} ${row.texts[key]}${on ? ", on the Pareto front" : ""}`;
      const place = spot(px, py, row.name.length * 6.7, taken, [left, top, width, height - bottom]);
      svg.append(el("svg:a", { href: `#model=${row.id}`, "aria-label": label, on: { click: (event) => { event.preventDefault(); open(row, "protocol", quality); } } },
        el("svg:title", {}, label),
        el("svg:circle", { class: "ring", cx: px, cy: py, r: 13 }),
        el("svg:path", { d: shape(row.family, 6.2), transform: `translate(${px} ${py})`, style: { fill: colour(row.family) } }),
        el("svg:text", { class: `label${on ? "" : " dim"}`, x: place.x, y: place.y, "text-anchor": place.anchor, "font-weight": on ? 650 : 400 }, row.name)));
    }
    return el("figure", { class: "plot" }, el("figcaption", {}, title, el("small", {}, subtitle)), svg);
  }

  const area = (x, y, w, h) => ({ x, y, w, h });
  const meets = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

  /** Where a label goes: the first of eight places around the point that meets nothing. */
  function spot(px, py, width, taken, [left, top, right, bottom]) {
    const places = [
      ["start", 12, 4], ["end", -12, 4], ["middle", 0, -14], ["middle", 0, 22], ["start", 10, -10], ["end", -10, -10], ["start", 10, 18], ["end", -10, 18],
    ].map(([anchor, dx, dy]) => {
      const x = px + dx;
      const from = anchor === "start" ? x : anchor === "end" ? x - width : x - width / 2;
      return { anchor, x, y: py + dy, box: area(from, py + dy - 11, width, 14) };
    });
    const fits = (p) => p.box.x >= left && p.box.x + p.box.w <= right && p.box.y >= top - 4 && p.box.y + p.box.h <= bottom;
    const found = places.find((p) => fits(p) && !taken.some((b) => meets(b, p.box))) || places.find(fits) || places[0];
    taken.push(found.box);
    return found;
  }

  function drawPlots() {
    const table = current();
    if (!table) return;
    const quality = column(table.quality).heading;
    const both = [
      plot(table, "samples_per_second", "speed", `${quality} against sampling speed`, "Up to the measuring machine; rows of another machine are left out."),
      plot(table, "training_tflop", "compute", `${quality} against training compute`, "Independent of the machine."),
    ].filter(Boolean);
    fill($("plots"), both.length ? both : [el("p", { class: "lead" }, "Nothing to plot here yet.")]);
    fill($("legend"), [...new Set(table.rows.map((row) => row.family))].sort().map((family) =>
      el("span", {}, el("svg:svg", { viewBox: "-8 -8 16 16" }, el("svg:path", { d: shape(family, 5.5), style: { fill: colour(family) } })), family)));
  }

  // -- side by side --------------------------------------------------------------------------------------------------

  function drawChoices(wanted = {}) {
    const able = rows.filter((row) => row.sheet || Object.keys(row.values).length);
    for (const [id, i] of [["left", 0], ["right", 1]]) {
      const table = current();
      const list = table ? sorted(table, table.rows, table.sort, column(table.sort).best === "low") : [];
      const usual = (list[i] || list[0] || able[0] || {}).id;
      state.usual = [...(i ? state.usual : []), usual];
      const chosen = byId.has(wanted[id]) ? wanted[id] : usual;
      fill($(id), data.tables.map((t) =>
        el("optgroup", { label: `${dataset(t.dataset)}, ${trackName(t.track)}` },
          t.rows.map((row) => el("option", { value: row.id, selected: row.id === chosen }, row.name + (row.quick ? " (quick)" : ""))))));
    }
    drawPair();
  }

  function drawPair(index = 0) {
    const pair = [byId.get($("left").value), byId.get($("right").value)];
    if (pair.some((row) => !row)) return fill($("pair"));
    const together = Math.min(...pair.map(count));
    const spots = pair.map(() => el("span", { class: "spot", hidden: true, "aria-hidden": "true" }));
    const zooms = pair.map((row) => el("span", { role: "img" }));
    const range = el("input", { type: "range", min: 1, max: together || 1, value: index + 1, "aria-describedby": "compare-lead", on: { input: (event) => show(Number(event.target.value) - 1) } });
    const output = el("output", {}, "1");
    function show(i) {
      range.value = i + 1;
      output.textContent = String(i + 1);
      pair.forEach((row, side) => {
        const { columns, rows: lines } = row.sheet;
        Object.assign(spots[side].style, { left: `${(100 * (i % columns)) / columns}%`, top: `${(100 * Math.floor(i / columns)) / lines}%`, width: `${100 / columns}%`, height: `${100 / lines}%` });
        spots[side].hidden = false;
        zooms[side].setAttribute("aria-label", `Sample ${i + 1} of ${row.name}`);
        fill(zooms[side], tile(row, i, 96));
      });
    }
    const point = (row) => (event) => {
      const frame = event.currentTarget.getBoundingClientRect();
      const i = Math.floor(((event.clientX - frame.left) / frame.width) * row.sheet.columns);
      const j = Math.floor(((event.clientY - frame.top) / frame.height) * row.sheet.rows);
      const k = j * row.sheet.columns + i;
      if (i >= 0 && i < row.sheet.columns && k >= 0 && k < together) show(k);
    };
    const sides = pair.map((row, side) => el("figure", { class: "side" },
      el("figcaption", {}, dot(row.family), row.name),
      row.sheet
        ? el("div", { class: "sheet", on: together ? { pointermove: point(row), click: point(row) } : {} }, el("img", { src: row.sheet.source, alt: `Sheet of ${count(row) || ""} samples of ${row.name}`, width: row.sheet.width, height: row.sheet.height }), spots[side])
        : row.sound || row.lines ? null : el("p", { class: "none" }, "No sheet of samples lies beside this result."),
      heard(row), read(row)));
    const zoom = together
      ? el("div", { class: "zoom" }, zooms[0], zooms[1], el("label", {}, el("span", {}, "Sample ", output, ` of ${together}`), range))
      : null;
    fill($("pair"), remark(pair), el("div", { class: "pair" }, sides), zoom, versus(pair));
    if (together) show(Math.min(index, together - 1));
  }

  const heard = (row) => row.sound && el("audio", { class: "sound", controls: true, src: row.sound, "aria-label": `Samples of ${row.name}, one after the other` });
  const read = (row) => row.lines && el("pre", { class: "lines", tabindex: "0", role: "region", "aria-label": `Samples of ${row.name}` }, row.lines);

  function remark([a, b]) {
    if (a.table.dataset !== b.table.dataset) return el("p", { class: "remark" }, "These two were measured on different data; their numbers do not compare.");
    const texts = [a, b].flatMap((row) => Object.values(row.differs).map((text) => `${row.name}: ${text}`));
    if (a.table.track !== b.table.track) texts.push("the two had different training budgets (tracks)");
    return texts.length ? el("p", { class: "remark" }, `Not measured alike: ${texts.join("; ")}.`) : null;
  }

  function versus(pair) {
    const keys = Object.keys(data.columns).filter((key) => column(key).number && pair.some((row) => row.texts[key]));
    const same = pair[0].table.dataset === pair[1].table.dataset;
    const body = keys.map((key) => {
      const able = same && pair.every((row) => compares(row, key)) && pair[0].values[key] !== pair[1].values[key];
      const first = able && (pair[0].values[key] < pair[1].values[key]) === (column(key).best === "low");
      return el("tr", {}, el("th", { scope: "row" }, column(key).heading),
        pair.map((row, side) => {
          const won = able && (side === 0) === first;
          return el("td", { class: won ? "better" : null }, row.texts[key] || "–", won ? el("span", { class: "hidden" }, " (better)") : null);
        }));
    });
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers side by side" },
      el("table", { class: "versus" }, el("caption", { class: "hidden" }, `${pair[0].name} and ${pair[1].name}, number by number`),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, el("span", { class: "hidden" }, "Metric")), pair.map((row) => el("th", { scope: "col" }, row.name)))),
        el("tbody", {}, body)));
  }

  // -- one model -----------------------------------------------------------------------------------------------------

  let opener = null;

  function open(row, tab, key = null) {
    opener = document.activeElement;
    const dialog = $("model");
    const tabs = [["samples", "Samples"], ["protocol", "Numbers and protocol"], ["card", "Card"]].filter(([name]) => name !== "card" || row.card);
    const panel = el("div", { class: "panel", id: "panel", role: "tabpanel", tabindex: "0" });
    const buttons = tabs.map(([name, title]) => el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", on: { click: () => choose(name) } }, title));
    function choose(name, metric = null) {
      buttons.forEach((button, i) => {
        const on = tabs[i][0] === name;
        button.setAttribute("aria-selected", on);
        button.tabIndex = on ? 0 : -1;
      });
      panel.setAttribute("aria-labelledby", `tab-${name}`);
      fill(panel, { samples: samplesPanel, protocol: protocolPanel, card: cardPanel }[name](row, metric));
      panel.scrollTop = 0;
      remember({ model: row.id, tab: name === "samples" ? "" : name });
    }
    const list = el("div", { class: "tabs", role: "tablist", "aria-label": "About this model", on: { keydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length;
      choose(tabs[next][0]);
      buttons[next].focus();
    } } }, buttons);
    const paper = row.paper.title ? el("p", {}, paperLink(row.paper)) : null;
    fill(dialog,
      el("div", { class: "head" }, el("div", {}, el("h2", { id: "model-title" }, row.name), el("p", {}, row.summary || row.family), paper),
        el("button", { type: "button", class: "quiet", "aria-label": "Close", on: { click: () => dialog.close() } }, el("span", { "aria-hidden": "true" }, "✕"))),
      list, panel);
    choose(tab, key);
    if (!dialog.open) dialog.showModal();
    buttons.find((button) => button.getAttribute("aria-selected") === "true").focus();
  }

  function paperLink(paper) {
    const text = `${paper.title}${paper.year ? ` (${paper.year})` : ""}`;
    const address = paper.arxiv ? `https://arxiv.org/abs/${encodeURIComponent(paper.arxiv)}` : /^https?:\/\//.test(paper.url || "") ? paper.url : null;
    return address ? el("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, text) : text;
  }

  function samplesPanel(row) {
    return [
      row.sheet
        ? el("img", { class: "big", src: row.sheet.source, alt: `Sheet of ${count(row) || ""} samples of ${row.name}, drawn from one seed, none picked` })
        : row.sound || row.lines ? null : el("p", { class: "none" }, "No sheet of samples lies beside this result."),
      heard(row), read(row),
      el("p", {}, row.sheet && row.sheet.frames ? "Each row is a video, frame by frame. Drawn in one go, none picked. " : "Drawn in one go, none picked. "),
      el("button", { type: "button", class: "quiet", on: { click: () => { $("model").close(); $("left").value = row.id; drawPair(); remember(); $("compare").scrollIntoView(); $("right").focus(); } } }, "Compare with another model"),
    ];
  }

  function cardPanel(row) {
    const template = el("template");
    template.innerHTML = row.card; // made by the zoo's own renderer, which escapes all text
    for (const image of template.content.querySelectorAll('img[src="#sheet"]')) image.src = row.sheet.source;
    return [...template.content.childNodes];
  }

  const SAMPLING = ["samples", "seeds", "batch_size", "reference", "training_reference", "sampler", "quantised", "extractor", "extractor_sha256", "estimators", "conditional", "ema", "quick"];
  const LIKELIHOOD = ["likelihood", "k", "likelihood_examples", "likelihood_counting", "likelihood_batch_size", "seeds", "conditional", "ema", "quick"];

  function facts(pairs) {
    return el("dl", {}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) =>
      [el("dt", {}, words(name)), el("dd", {}, /sha256|digest/.test(name) ? el("code", {}, String(value)) : plain(value))]));
  }

  function protocolPanel(row, key) {
    const { protocol, metrics, floor, cost, identity, versions, command } = row.result;
    const of = { ...row.result.data, shape: (row.result.data.shape || []).join(" × ") };
    const part = key ? column(key).part : null;
    const metric = key === "likelihood" ? metrics[Object.keys(metrics).find((name) => name.startsWith("bits_per_")) || "nats"] : metrics[key];
    const top = [];
    if (key) {
      const error = metric && metric.standard_error ? `± ${plain(metric.standard_error)} standard error` : metric && metric.spread ? `spread ${plain(metric.spread)} over subsets` : "";
      const base = floor[key] ? `floor ${plain(floor[key].value)}` : "";
      top.push(
        el("h3", {}, key === "likelihood" ? `${column(key).heading}, ${row.unit}` : column(key).heading),
        el("p", { class: "figure" }, el("b", {}, row.texts[key] || "–"), el("span", {}, [error, base].filter(Boolean).join(" · "))),
        el("p", {}, column(key).note),
        metric && metric.per_seed ? el("p", {}, `By seed: ${metric.per_seed.map(plain).join(", ")}`) : null,
        part && row.differs[part] ? el("p", { class: "remark" }, `Another ${PARTS[part]} protocol than the table's, so not ranked: ${row.differs[part]}.`) : null,
        el("h3", {}, "Protocol of this number"));
      const own = part === "samples" ? SAMPLING : part === "likelihood" ? LIKELIHOOD : [];
      const pairs = part === "speed" ? [["hardware", cost.hardware], ["batch_size", protocol.batch_size], ["sampler", protocol.sampler]]
        : ["features", "energies", "prediction", "captions"].includes(part) ? Object.entries(protocol.estimators[part] || {})
        : part ? own.map((name) => [name, protocol[name]])
        : key === "training_tflop" ? Object.entries({ counted: "forward, backward and penalties of all stages and players", ...cost.training })
        : [["counted", "trainable parameters, and calls of the network for one batch of samples"]];
      top.push(facts([...pairs, ...(part && part !== "speed" ? [["data", `${of.name}, ${of.split} split, ${plain(of.examples)} examples`], ["data digest", of.digest]] : [])]));
    }
    const all = Object.entries(metrics).filter(([name]) => !name.startsWith("digit_share"));
    return [
      ...top,
      el("h3", {}, "Make it again"),
      command ? commandLine(command) : el("p", {}, "The command was not recorded."),
      el("h3", {}, "All numbers"),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "All numbers" }, el("table", {},
        el("thead", {}, el("tr", {}, ["metric", "value", "error", "floor"].map((h, i) => el("th", { scope: "col", class: i ? "right" : null }, h)))),
        el("tbody", {}, all.map(([name, m]) => el("tr", {}, el("th", { scope: "row" }, words(name)), el("td", { class: "right" }, plain(m.value)),
          el("td", { class: "right" }, m.standard_error ? `± ${plain(Number(m.standard_error.toPrecision(2)))}` : m.spread ? `(${plain(Number(m.spread.toPrecision(2)))})` : "–"),
          el("td", { class: "right" }, floor[name] ? plain(floor[name].value) : "–")))))),
      el("h3", {}, "Weights, cost and versions"),
      facts([["weights sha256", identity.weights_sha256], ...Object.entries(cost).filter(([name]) => name !== "training"), ...Object.entries(cost.training || {}).map(([name, value]) => [`training ${name}`, value]), ["versions", versions]]),
    ];
  }

  function commandLine(command) {
    const done = el("span", { role: "status" });
    return el("div", {}, el("pre", { tabindex: "0" }, el("code", {}, command)),
      el("button", { type: "button", class: "quiet copy", on: { click: async () => {
        try { await navigator.clipboard.writeText(command); done.textContent = " copied"; } catch { done.textContent = " select it and copy by hand"; }
      } } }, "Copy"), done);
  }

  // -- reading -------------------------------------------------------------------------------------------------------

  function drawReading() {
    const used = Object.keys(data.columns).filter((key) => column(key).number && data.tables.some((table) => table.columns.includes(key)));
    fill($("reading"),
      el("p", {}, "Rows are ranked only against rows of the same protocol: the same data and split, extractor, numbers of samples and references. A row that differs is marked and shown below the rest. Likelihoods of conditional models, log p(x | y), are never ranked with unconditional ones."),
      el("h3", {}, "Columns"), el("dl", {}, used.flatMap((key) => [el("dt", {}, column(key).heading), el("dd", {}, column(key).note)])),
      el("h3", {}, "Tracks"), el("ul", {}, Object.entries(data.tracks).map(([, text]) => el("li", {}, `${text[0].toUpperCase()}${text.slice(1)}.`))),
      data.leftOut.length > 0 && [el("h3", {}, "Left out"), el("ul", {}, data.leftOut.map((text) => el("li", {}, text)))]);
  }

  // -- start ---------------------------------------------------------------------------------------------------------

  function drawAll(wanted = {}) {
    drawTags();
    drawTable();
    drawPlots();
    drawChoices(wanted);
  }

  function start() {
    const said = recall();
    drawControls();
    drawAll({ left: said.get("left"), right: said.get("right") });
    const asked = byId.get(said.get("model"));
    const tab = ["samples", "protocol", "card"].find((name) => name === said.get("tab") && (name !== "card" || (asked && asked.card)));
    if (asked) open(asked, tab || "samples");
  }

  $("left").addEventListener("change", () => { drawPair(); remember(); });
  $("right").addEventListener("change", () => { drawPair(); remember(); });
  $("swap").addEventListener("click", () => {
    [$("left").value, $("right").value] = [$("right").value, $("left").value];
    drawPair();
    remember();
  });
  const dialog = $("model");
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    remember();
    if (opener && opener.isConnected) opener.focus();
  });
  rows.forEach((row) => { row.flags = row.result.flags || []; });
  listen();
  drawMosaic();
  drawReading();
  start();
  addEventListener("hashchange", start); // a link to another view of this page
})();
