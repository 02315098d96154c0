/* Pictures and tables of all steps: heat maps, the reach of the gradient, inputs, scores. */
"use strict";

function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}
const mixed = (from, to, share) => from.map((value, j) => value + (to[j] - value) * share);

/* What there are maps of: name of the array, how it is written, how many rows, colours. */
function mapList() {
  const { gates, projected, H, R, arrays } = layer(), shown = gates.filter((g) => g !== "h");
  const sigmoid = (g) => !["g", "n", "h"].includes(g);
  const one = (array, name, size, share = false) => ({ array, name, size, share });
  const forward = shown.map((g) => one(`gate_${g}`, g, H, sigmoid(g)));
  const backward = gates.map((g) => one(`da_${g}`, `da_${g}`, H));
  if ("c" in arrays) forward.push(one("c", "c", H)), backward.push(one("dc", "dc", H));
  forward.push(one("h", "h", R)), backward.push(one("dh", "dh", R));
  return { forward, backward, projected };
}

function drawMaps() {
  const { forward, backward } = mapList();
  const part = (title, list) => `<div class="row"><h3>${title}</h3>${list.map(figure).join("")}</div>`;
  find("maps").innerHTML = part("Values", forward) + part("Gradients", backward);
  for (const one of [...forward, ...backward]) paint(one);
}

function figure({ array, name, size, share }) {
  const { b } = chosen, T = lengthOf(b), from = DATA.offsets[b] * size;
  const most = layer().arrays[array].subarray(from, from + T * size).reduce((m, v) => Math.max(m, Math.abs(v)), 0);
  const what = array.startsWith("d") ? "Gradient" : "Value";
  return `<figure class="map card" data-map="${array}"><figcaption><b>${symbol(name, "")}</b><span></span></figcaption>
    <div class="field"><canvas width="${Math.max(T, 1)}" height="${size}" role="img" aria-label="${what}s of ${safe(name)}: ${size} rows, ${T} steps; the largest is ${number(most, 3)}"></canvas><div class="stripe"></div><div class="here"></div></div>
    <div class="scale"><span>${share ? "0" : most ? `−${number(most, 3)}` : "0"}</span><i class="${share ? "share" : "signed"}"></i><span>${share ? "1" : number(most, 3)}</span></div></figure>`;
}

function paint({ array, size, share }) {
  const { b } = chosen, T = lengthOf(b), values = layer().arrays[array], from = DATA.offsets[b];
  const box = document.querySelector(`[data-map="${array}"]`), canvas = box.querySelector("canvas");
  box.querySelector(".field").addEventListener("click", (event) => clicked(event, T, size));
  if (!T) return;
  const context = canvas.getContext("2d"), picture = context.createImageData(T, size);
  const [zero, hot, cold, gateColour] = ["soft", "hot", "cold", "gate"].map(colour);
  const own = values.subarray(from * size, (from + T) * size), most = own.reduce((m, v) => Math.max(m, Math.abs(v)), 0) || 1;
  const decades = chosen.log && array.startsWith("d");
  const strength = (share) => (decades ? Math.max(0, 1 + Math.log10(share) / 5) : share);
  for (let t = 0; t < T; t++) {
    for (let k = 0; k < size; k++) {
      const v = own[t * size + k];
      const rgb = share ? mixed(zero, gateColour, v) : mixed(zero, v < 0 ? cold : hot, strength(Math.abs(v) / most));
      picture.data.set([...rgb, 255], 4 * (k * T + t));
    }
  }
  context.putImageData(picture, 0, 0);
}

function clicked(event, T, size) {
  const box = event.currentTarget.getBoundingClientRect(), inside = (share, n) => Math.min(n - 1, Math.max(0, Math.floor(share * n)));
  if (!T) return;
  const unit = size === layer().H ? inside((event.clientY - box.top) / box.height, size) : null;
  goTo(inside((event.clientX - box.left) / box.width, T), unit);
}

/* Where we are, in all maps. */
function showHere() {
  const s = step(), { forward, backward } = mapList();
  for (const { array, size } of [...forward, ...backward]) {
    const box = document.querySelector(`[data-map="${array}"]`), here = box.querySelector(".here"), stripe = box.querySelector(".stripe");
    here.hidden = stripe.hidden = !s;
    if (!s) continue;
    const k = Math.min(chosen.k, size - 1), left = `${(100 * s.t) / s.T}%`, width = `${100 / s.T}%`;
    Object.assign(stripe.style, { left, width });
    Object.assign(here.style, { left, width, top: `${(100 * k) / size}%`, height: `${100 / size}%` });
    here.hidden = size !== layer().H;
    box.querySelector("figcaption span").textContent = size === layer().H ? number(s.at(array, k, size)) : "";
  }
}

/* Norms of the gradients of the states, by step. */
function showFlow() {
  const { b } = chosen, T = lengthOf(b), s = step(), { arrays, H, R } = layer();
  if (!s) return void (find("flow").innerHTML = "<p>No steps.</p>");
  const curves = [["dh", R], ["dc", H]].filter(([name]) => name in arrays).map(([name, size]) => ({
    name, norms: [...Array(T).keys()].map((t) => norm(arrays[name], (DATA.offsets[b] + t) * size, size)),
  }));
  const logs = curves.flatMap(({ norms }) => norms).filter((n) => n > 0).map(Math.log10);
  if (!logs.length) return void (find("flow").innerHTML = "<p>No gradient reaches this layer.</p>");
  const high = Math.ceil(Math.max(...logs)), low = Math.min(high - 1, Math.max(high - 12, Math.floor(Math.min(...logs))));
  const x = (t) => 54 + (T > 1 ? (t * 520) / (T - 1) : 260), y = (n) => 14 + (150 * (high - Math.max(low, Math.log10(n)))) / (high - low);
  const every = Math.max(1, Math.ceil((high - low) / 4)), ticks = [];
  for (let e = high; e >= low; e -= every) ticks.push(`<path class="axis" d="M54 ${y(10 ** e)}H574"/><text x="48" y="${y(10 ** e) + 4}" text-anchor="end">10<tspan class="index" dy="-5">${String(e).replace("-", "−")}</tspan></text>`);
  const lines = curves.map(({ name, norms }) => {
    const points = norms.map((n, t) => (n > 0 ? `${x(t).toFixed(1)} ${y(n).toFixed(1)}` : null));
    const path = points.map((p, t) => (p ? `${t && points[t - 1] ? "L" : "M"}${p}` : "")).join("");
    const now = norms[s.t] > 0 ? `<circle class="${name}" cx="${x(s.t)}" cy="${y(norms[s.t])}" r="4.5"/>` : "";
    return `<path class="curve ${name}" d="${path}"/>${now}`;
  });
  const text = curves.map(({ name, norms }) => `<span class="${name}">‖${symbol(name, "")}‖ = <b>${number(norms[s.t])}</b></span>`).join(", ");
  find("flow").innerHTML = `<svg viewBox="0 0 590 196" role="img" aria-label="Norms of the gradients of the states by step, on a logarithmic scale">${ticks.join("")}<path class="now" d="M${x(s.t)} 10V168"/>${lines.join("")}<text x="54" y="188" text-anchor="middle">1</text><text x="574" y="188" text-anchor="middle">${T > 1 ? T : ""}</text><text x="314" y="188" text-anchor="middle">step</text></svg><p>At step ${s.t + 1}: ${text}, over all units${layer().reverse ? "; this direction walks from the last step to the first" : ""}.</p>`;
  find("flow").firstChild.addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * 590;
    goTo(Math.min(T - 1, Math.max(0, Math.round(((at - 54) / 520) * (T - 1)))), null);
  });
}

function showEvent() {
  const one = DATA.sequences[chosen.b], T = lengthOf(chosen.b);
  const facts = [`<b>${safe(one.name)}</b>, ${T} step${T === 1 ? "" : "s"}`];
  if (one.truth !== undefined) facts.push(`in truth <b>${safe(one.truth)}</b>`);
  if (one.loss !== undefined) facts.push(`loss <b data-id="sequence-loss">${number(one.loss)}</b>`);
  else facts.push(`loss of all sequences <b>${number(DATA.loss)}</b>`);
  const bars = (one.scores || []).map((score, j) => `<dt>${safe(DATA.classes[j])}</dt><dd class="meter"><i style="width:${100 * score}%"></i></dd><dd class="value" data-score="${j}">${number(score)}</dd>`);
  find("event").innerHTML = `<p class="facts">${facts.join("; ")}.</p>${bars.length ? `<dl class="scores">${bars.join("")}</dl>` : ""}`;
}

/* Tables */

const tableHtml = (heads, rows) => `<table><thead><tr>${heads.map((head) => `<th scope="col">${head}</th>`).join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
const rowHtml = (head, cells, now = false) => `<tr${now ? ' class="now"' : ""}><th scope="row">${head}</th>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;

function showInputs() {
  const s = step();
  if (!s) return void (find("inputs").innerHTML = "<p class='facts'>No steps.</p>");
  const { D, inputs, first } = layer(), raw = first && RAW;
  const heads = ["input", ...(raw ? ["as read"] : []), raw ? "transformed" : "value", "gradient"];
  const rows = inputs.map((name, d) => rowHtml(safe(name), [
    ...(raw ? [number(RAW[s.row * D + d])] : []), number(s.at("x", d, D)),
    `<span class="gradient" data-id="dx${d + 1}">${number(s.value("WTda", d))}</span>`]));
  find("inputs").innerHTML = tableHtml(heads, rows);
}

/* Outer products of gate gradients with inputs and states: number by number for a few, else their norms. */
function showAdded() {
  const s = step();
  if (!s) return void (find("added").innerHTML = "<p class='facts'>Nothing: there are no steps.</p>");
  const { D, R, gates, cell } = layer(), few = D + R <= 6, range = (n) => [...Array(n).keys()], k = chosen.k;
  const x = range(D).map((d) => s.at("x", d, D));
  const before = (g) => range(R).map((j) => s.state("h", j) * (cell === "gru_reset_before" && g === "n" ? s.value("r", j) : 1));
  const sub = (letter, j) => `<i>${letter}</i><sub>${j}</sub>`;
  const heads = few
    ? ["gate", ...range(D).map((d) => `d${sub("W", d + 1)}`), ...range(R).map((j) => `d${sub("U", j + 1)}`), "d<i>b</i>"]
    : ["gate", "‖d<i>W</i>‖", "‖d<i>U</i>‖", "d<i>b</i>"];
  const rows = gates.map((g) => {
    const da = s.at(`da_${g}`, k, layer().H), dh = s.atState(g, k), h = before(g);
    const all = few ? [...x.map((v) => da * v), ...h.map((v) => dh * v), da] : [Math.abs(da) * Math.hypot(...x), Math.abs(dh) * Math.hypot(...h), da];
    return rowHtml(`<i>${g}</i>`, all.map((value) => number(value)));
  });
  find("added").innerHTML = `<p class="facts">Rows of unit ${k + 1}: d<i>W</i> += d<i>a</i> <i>x</i><sup>⊤</sup>, d<i>U</i> += d<i>a</i> <i>h</i><sub>${s.earlier}</sub><sup>⊤</sup>, d<i>b</i> += d<i>a</i>.</p>` + tableHtml(heads, rows);
}

function showTable() {
  const s = step();
  if (!find("numbers").open || !s) return;
  const { forward, backward } = mapList(), list = [...forward, ...backward].filter(({ size }) => size === layer().H);
  const rows = [...Array(s.T).keys()].map((t) => {
    const row = DATA.offsets[chosen.b] + t;
    return rowHtml(t + 1, list.map(({ array, size }) => number(layer().arrays[array][row * size + chosen.k])), t === s.t);
  });
  find("table").innerHTML = tableHtml(["step", ...list.map(({ name }) => symbol(name, ""))], rows);
}
