/* The page: what is chosen, what is shown of it, and how one moves. */
"use strict";

const find = (id) => document.getElementById(id);
const chosen = { b: 0, l: 0, k: 0, p: 0, line: -1, timer: null };

const layer = () => DATA.layers[chosen.l];

/* The stages of the computation: forward as the layer walks, the loss, back, and what an example adds. */
function stages() {
  const T = lengthOf(chosen.b), walk = [...Array(T).keys()];
  const found = walk.map((w) => ({ side: "forward", w }));
  found.push({ side: "loss", w: T - 1 });
  found.push(...walk.reverse().map((w) => ({ side: "backward", w })));
  if (DATA.update) for (const side of ["sums", "update", "again"]) found.push({ side, w: 0 });
  return found;
}
const stage = () => stages()[chosen.p];
const isBack = () => !["forward", "loss"].includes(stage().side);
const step = () => (lengthOf(chosen.b) ? new Step(layer(), chosen.b, stage().w) : null);
const equations = () => {
  const { side } = stage();
  return lengthOf(chosen.b) && (side === "forward" || side === "backward") ? layer().kind[side] : [];
};

function choose(change) {
  const before = stage();
  const mapped = ["b", "l", "log"].some((name) => name in change);
  Object.assign(chosen, change);
  if ("b" in change && !("p" in change)) {
    const same = stages().findIndex(({ side, w }) => side === before.side && w === before.w);
    chosen.p = Math.max(0, same);
  }
  chosen.k = Math.min(Math.max(chosen.k, 0), layer().H - 1);
  chosen.p = Math.min(Math.max(chosen.p, 0), stages().length - 1);
  if (!("line" in change)) chosen.line = -1;
  show(mapped);
}

/* The player */

function showControls() {
  const list = stages(), here = list[chosen.p], T = lengthOf(chosen.b), range = find("stage");
  Object.assign(range, { max: list.length - 1, value: chosen.p });
  const names = { forward: "forward", backward: "backward", loss: "loss", sums: "gradients of the weights", update: "update", again: "new loss" };
  const s = step(), at = s && ["forward", "backward"].includes(here.side) ? `, step ${s.t + 1} of ${T}` : "";
  range.setAttribute("aria-valuetext", names[here.side] + at);
  Object.assign(find("unit"), { max: layer().H, value: chosen.k + 1 });
  nameTrack(list);
  find("unit-less").disabled = chosen.k === 0;
  find("unit-more").disabled = chosen.k === layer().H - 1;
  find("to-start").disabled = find("back").disabled = chosen.p === 0;
  find("to-end").disabled = find("on").disabled = chosen.p === list.length - 1;
  find("sequence").value = chosen.b;
  find("layer").value = chosen.l;
  find("cell-name").textContent = `${layer().kind.name}: ${layer().D} input${layer().D > 1 ? "s" : ""}, ${layer().H} unit${layer().H > 1 ? "s" : ""}${layer().projected ? `, ${layer().R} outputs` : ""}`;
  document.body.classList.toggle("backward", isBack());
  document.body.classList.toggle("playing", chosen.timer !== null);
  find("play").setAttribute("aria-label", chosen.timer === null ? "Play" : "Pause");
  // While it plays, a screen reader would never come to an end.
  find("summary").setAttribute("aria-live", chosen.timer === null ? "polite" : "off");
}

/* The names below the slider stand in the middle of their stages. */
function nameTrack(list) {
  for (const name of document.querySelectorAll(".halves span")) {
    const own = list.flatMap(({ side }, p) => (side === name.dataset.side ? [p] : []));
    name.hidden = !own.length;
    name.style.setProperty("--at", `${(100 * (own[0] + own[own.length - 1])) / 2 / Math.max(1, list.length - 1)}%`);
  }
}

function showSummary() {
  const { side } = stage(), s = step(), b = (text) => `<b>${text}</b>`;
  const say = {
    loss: `${b("Loss.")} ${sequenceLoss()} Now its gradient goes back through the steps.`,
    sums: `${b("Gradients of the weights.")} Each is the sum of what both steps add.`,
    update: `${b("Update.")} Each weight goes a little way down its gradient.`,
    again: `${b("New loss.")} The same sequence with the new weights; the drawing stays with the old ones.`,
  };
  if (!s) say.loss = `${b("No steps.")} The states stay as they were.`;
  if (side in say) find("summary").innerHTML = say[side];
  else {
    const names = (side === "forward" ? ["h", "c"] : ["dh", "dc"]).filter((name) => name in layer().arrays && !(layer().projected && name.endsWith("h")));
    const parts = names.map((name) => `${name} ${s.written(name, chosen.k)}`);
    find("summary").innerHTML = `${b(`${side === "forward" ? "Forward" : "Backward"}, step ${s.t + 1} of ${s.T}.`)} Unit ${chosen.k + 1}: ${parts.join(", ")}`;
  }
}

function sequenceLoss() {
  const { loss } = DATA.sequences[chosen.b];
  if (loss !== undefined) return `It is ${number(loss)}.`;
  return DATA.sequences.length === 1 ? `It is ${number(DATA.loss)}.` : `Over all sequences it is ${number(DATA.loss)}.`;
}

/* The drawing */

function litNames() {
  const line = equations()[chosen.line], names = new Set();
  if (!line) return names;
  names.add(line.id);
  evaluate(line.tree, (name) => { names.add(name); return 1; });
  return names;
}

function showDrawing() {
  const s = step(), lit = litNames(), { width, height, nodes, wires } = DRAWINGS[layer().kind.drawing](layer().cell);
  const isLit = (name) => touched(name).some((one) => lit.has(one) || lit.has(gradientName(one)));
  const drawn = wires.map(({ name, path, more }) =>
    `<path class="wire ${more}${isLit(name) ? " lit" : ""}" data-wire="${safe(name)}" d="${path}"${more || /V\d+$/.test(path) && name === null ? "" : ` marker-${isBack() ? "start" : "end"}="url(#arrow)"`}/>`);
  const numbers = s ? wires.filter((w) => w.label).map((w) => wireNumber(s, w, isLit(w.name))) : [];
  const title = `${layer().kind.name}, unit ${chosen.k + 1}: its numbers are those of the equations beside it`;
  find("drawing").innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${safe(title)}"><defs><marker id="arrow" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z"/></marker></defs>${drawn.join("")}${nodes.map(node).join("")}${numbers.join("")}</svg>`;
}

function node({ kind, letter, act, text, x, y }) {
  if (kind === "gate") {
    return `<g class="gate"><rect x="${x - 38}" y="${y - 20}" width="76" height="40" rx="8"/><text x="${x}" y="${y}">${letter === "h" ? "" : `<tspan font-style="italic" font-weight="600">${letter}</tspan>  `}${act}</text></g>`;
  }
  const wide = text.length > 2;
  const shape = wide ? `<rect x="${x - 23}" y="${y - 15}" width="46" height="30" rx="15"/>` : `<circle cx="${x}" cy="${y}" r="14"/>`;
  return `<g class="op">${shape}<text x="${x}" y="${y}">${text}</text></g>`;
}

function wireNumber(s, { name, label }, lit) {
  const [x, y, what] = label, back = isBack();
  if (what === "x") {
    return `<g class="number"><text x="${x}" y="${y + 12}"><tspan class="what">x</tspan> ${layer().D === 1 ? number(s.at("x", 0, 1), 5) : `${layer().D} inputs`}</text></g>`;
  }
  const vector = layer().projected && name === "h'";
  const value = vector ? `${layer().R} states` : s.written(name, chosen.k, 5);
  const lines = [`<tspan class="what">${svgName(name)}</tspan> <tspan data-number="${safe(name)}">${value}</tspan>`];
  const d = gradientName(name), has = !vector && (d in layer().kind.known || `${d}` in layer().arrays || /^dx_/.test(d));
  if (back && has) {
    const own = s.written(d.replace(/^dx_/, "da_"), chosen.k, 5); // the half beside x has the gradient of the whole
    lines.push(`<tspan class="d"><tspan class="what d">d</tspan> <tspan data-number="${safe(d)}">${own}</tspan></tspan>`);
  }
  const plain = lines.map((line) => line.replace(/<[^>]+>/g, "").length), w = 8.5 * Math.max(...plain) + 6, h = 19 * lines.length + 2;
  const texts = lines.map((line, j) => `<text x="${x}" y="${y + (j - (lines.length - 1) / 2) * 19}">${line}</text>`);
  return `<g class="number${lit ? " lit" : ""}"><rect x="${x - w / 2}" y="${y - h / 2}" width="${w}" height="${h}" rx="5"/>${texts.join("")}</g>`;
}

function svgName(name) { // a drawing has no sub-elements
  const [head, gate] = name.replace("'", "").split("_"), index = name.endsWith("'") ? (layer().reverse ? "t+1" : "t−1") : gate;
  return index ? `${head}<tspan class="index" dy="4">${index}</tspan><tspan dy="-4">\u200b</tspan>` : head;
}

/* The equations */

function showLines() {
  const { side } = stage(), s = step();
  const titles = { forward: "Forward", backward: "Backward", loss: "Loss", sums: "Gradients of the weights", update: "Update", again: "New loss" };
  find("lines-title").textContent = titles[side] + (s && equations().length ? `, step ${s.t + 1}, unit ${chosen.k + 1}` : "");
  const list = equations();
  find("line-buttons").hidden = !list.length;
  find("line-count").textContent = chosen.line < 0 ? "all lines" : `line ${chosen.line + 1} of ${list.length}`;
  if (!list.length) {
    find("lines").innerHTML = { sums: updateTable, update: updateTable, again: newLoss, loss: lossLines }[side]();
    return;
  }
  find("lines").innerHTML = `<ol class="lines" role="list">${list.map((line, j) => lineHtml(s, line, j)).join("")}</ol>`;
}

function lineHtml(s, { id, vector, tree }, j) {
  const k = chosen.k, own = layer().kind.symbols || {}, sign = (name) => own[name] || symbol(name, s.earlier);
  const formula = `${sign(id)} = ${written(tree, sign)}`;
  const current = j === chosen.line ? ' aria-current="step"' : "";
  if (vector) {
    const all = [...Array(layer().R).keys()].map((r) => s.written(id, r));
    const shown = all.slice(0, 6).join(", ") + (all.length > 6 ? `, … (${all.length} numbers)` : "");
    return `<li data-line="${j}"${current}><span class="formula">${formula}</span><span class="value vector" data-id="${safe(id)}">(${shown})</span></li>`;
  }
  const value = s.written(id, k);
  const alone = tree.kind === "name"; // then a sum needs no brackets
  const filled = written(tree, (name) => (alone ? filledSum(s, name, k) : filledName(s, name, k)));
  const same = filled === trimmed(value);
  return `<li data-line="${j}"${current}><span class="formula">${formula}</span><span class="value" data-id="${safe(id)}">${value}</span>${same ? "" : `<span class="filled">= ${filled}</span>`}</li>`;
}

/* A sum of a few terms is written out, one of many by its value. */
const MOST_TERMS = 4;
const isWritten = (terms) => terms && terms.length <= MOST_TERMS;

function filledSum(s, name, k) {
  const terms = s.sums(name, k);
  if (!isWritten(terms)) return trimmed(s.written(name, k));
  return terms.map(([a, b], j) => `${j ? guarded(short(a)) : short(a)} · ${guarded(short(b))}`).join(" + ");
}

function filledName(s, name, k) {
  const terms = s.sums(name, k), text = filledSum(s, name, k);
  return isWritten(terms) && terms.length > 1 ? `(${text})` : text;
}

function lossLines() {
  const text = `<p class="say">${DATA.loss_text ? `The loss: ${safe(DATA.loss_text)}.` : ""} ${sequenceLoss()}</p>`;
  return DATA.update ? text + termLines(DATA.update.terms, DATA.update.before_short, "loss") : text;
}
const newLoss = () => termLines(DATA.update.new_terms, DATA.update.after_short, "new-loss") +
  `<p class="say">Before the update it was ${DATA.update.before_short}.</p>`;

function termLines(terms, total, id) {
  const lines = terms.map(({ h, target, value }, j) =>
    `<li><span class="formula"><i>L</i><sub>${j + 1}</sub> = ½ (<i>h</i><sub>${j + 1}</sub> − ${target})<sup>2</sup></span><span class="value" data-id="${id}-${j + 1}">${value}</span><span class="filled">= ½ (${h} − ${target})²</span></li>`);
  lines.push(`<li><span class="formula"><i>L</i> = <i>L</i><sub>1</sub> + <i>L</i><sub>2</sub></span><span class="value" data-id="${id}">${total}</span></li>`);
  return `<ol class="lines" role="list">${lines.join("")}</ol>`;
}

function updateTable() {
  const sums = stage().side === "sums";
  const columns = sums ? [1, 2, 3] : [0, 3, 4], heads = ["before", "step 1 adds", "step 2 adds", "gradient", "after"];
  const lead = sums ? "gradient = what step 1 adds + what step 2 adds" : `after = before − ${DATA.update.rate} · gradient`;
  const body = DATA.update.rows.map(({ id, symbol: letter, index, numbers }) =>
    `<tr data-weight="${id}"><th scope="row"><i>${letter}</i><sub>${index}</sub></th>${columns.map((c) => `<td>${numbers[c]}</td>`).join("")}</tr>`);
  return `<p class="say">${lead}</p><div class="scroll"><table><thead><tr><th scope="col">weight</th>${columns.map((c) => `<th scope="col">${heads[c]}</th>`).join("")}</tr></thead><tbody>${body.join("")}</tbody></table></div>`;
}

/* Moving */

function move(by) {
  choose({ p: chosen.p + by });
}

function moveLine(by) {
  const next = chosen.line + by, count = equations().length;
  if (next >= 0 && next < count) return choose({ line: next });
  if (next < 0 && chosen.line <= 0 && chosen.p > 0) {
    choose({ p: chosen.p - 1 });
    return choose({ line: equations().length - 1 });
  }
  if (next >= count && chosen.p < stages().length - 1) return choose({ p: chosen.p + 1, line: 0 });
  return null;
}

function goTo(row, unit) { // from a picture: keep the side, change step and unit
  const w = layer().reverse ? lengthOf(chosen.b) - 1 - row : row, side = isBack() ? "backward" : "forward";
  const p = stages().findIndex((one) => one.side === side && one.w === w);
  choose({ p, ...(unit === null ? {} : { k: unit }) });
}

function turn() { // the same step on the other way
  const { w } = stage(), side = isBack() ? "forward" : "backward";
  if (lengthOf(chosen.b)) choose({ p: stages().findIndex((one) => one.side === side && one.w === w) });
}

function halt() {
  clearInterval(chosen.timer);
  choose({ timer: null });
}

function play() {
  if (chosen.timer !== null) return halt();
  const start = chosen.p >= stages().length - 1 ? 0 : chosen.p;
  const pause = Math.min(1000, Math.max(120, 60000 / stages().length)); // a long sequence in about a minute
  const timer = setInterval(() => (chosen.p < stages().length - 1 ? move(1) : halt()), pause);
  return choose({ p: start, timer });
}

const KEYS = {
  ArrowRight: () => move(1), ArrowLeft: () => move(-1),
  ArrowUp: () => choose({ k: chosen.k - 1 }), ArrowDown: () => choose({ k: chosen.k + 1 }),
  Home: () => choose({ p: 0 }), End: () => choose({ p: stages().length - 1 }),
  " ": play, ",": () => moveLine(-1), ".": () => moveLine(1), f: turn,
};

function pressed(event) {
  const { key, target } = event, own = KEYS[key];
  if (!own || event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("select, input[type=number]")) return; // these have keys of their own
  if (target.matches(".scroll") && target.scrollWidth > target.clientWidth && key.startsWith("Arrow")) return;
  if (key === " " && target.matches("button, summary, input[type=checkbox]")) return;
  event.preventDefault();
  own();
}

function listen() {
  document.addEventListener("keydown", pressed);
  const clicks = { "to-start": KEYS.Home, back: KEYS.ArrowLeft, play, on: KEYS.ArrowRight, "to-end": KEYS.End,
    "unit-less": KEYS.ArrowUp, "unit-more": KEYS.ArrowDown, "line-back": KEYS[","], "line-on": KEYS["."] };
  for (const [id, act] of Object.entries(clicks)) find(id).addEventListener("click", act);
  find("stage").addEventListener("input", (event) => choose({ p: Number(event.target.value) }));
  find("sequence").addEventListener("change", (event) => choose({ b: Number(event.target.value) }));
  find("layer").addEventListener("change", (event) => choose({ l: Number(event.target.value) }));
  find("unit").addEventListener("change", (event) => choose({ k: Math.round(Number(event.target.value) || 1) - 1 }));
  find("decades").addEventListener("change", () => choose({ log: find("decades").checked }));
  find("lines").addEventListener("click", (event) => {
    const line = event.target.closest("[data-line]");
    if (line) choose({ line: Number(line.dataset.line) === chosen.line ? -1 : Number(line.dataset.line) });
  });
  find("numbers").addEventListener("toggle", showTable);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(true));
}

function show(mapped) {
  showControls();
  showSummary();
  showDrawing();
  showLines();
  if (mapped) drawMaps();
  showHere();
  showFlow();
  showEvent();
  showInputs();
  showAdded();
  showTable();
}

find("sequence").innerHTML = DATA.sequences.map((one, b) => `<option value="${b}">${safe(one.name)}</option>`).join("");
find("layer").innerHTML = DATA.layers.map((one, l) => `<option value="${l}">${safe(one.title)}</option>`).join("");
listen();
show(true);
