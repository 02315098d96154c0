/* The numbers: arrays of the trace, and what follows from them at one step by one line of the equations. */
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const DIGITS = DATA.digits || 5;

function decoded(text, type) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return type === "f8" ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer);
}

for (const layer of DATA.layers) {
  for (const name of Object.keys(layer.arrays)) layer.arrays[name] = decoded(layer.arrays[name], layer.type);
  layer.kind = CELLS[layer.cell];
  layer.projected = "projection" in layer.arrays;
}
const RAW = DATA.raw && decoded(DATA.raw, "f8");

const lengthOf = (b) => DATA.offsets[b + 1] - DATA.offsets[b];

/* One step of one layer: w counts the steps as the layer walks, t in time. */
class Step {
  constructor(layer, b, w) {
    const T = lengthOf(b);
    Object.assign(this, { layer, b, w, T, t: layer.reverse ? T - 1 - w : w });
    this.row = DATA.offsets[b] + this.t;
    this.memory = new Map();
  }

  get after() {
    if (this.w + 1 >= this.T) return null;
    this.next ??= new Step(this.layer, this.b, this.w + 1);
    return this.next;
  }

  get earlier() { // index of the step before, as it is written
    return this.layer.reverse ? "t+1" : "t−1";
  }

  at(name, k, size) {
    return this.layer.arrays[name][this.row * size + k];
  }

  state(name, k) { // before the step
    const { layer, w, b } = this, size = name === "h" ? layer.R : layer.H;
    if (w === 0) return layer.arrays[`${name}0`][b * size + k];
    return layer.arrays[name][(this.row + (layer.reverse ? 1 : -1)) * size + k];
  }

  value(name, k) {
    const key = `${name} ${k}`;
    if (!this.memory.has(key)) this.memory.set(key, this.found(name.replace("[]", ""), k));
    return this.memory.get(key);
  }

  found(name, k) {
    const { layer } = this, { arrays, H, R } = layer;
    if (name === "h" || name === "dh" || name === "Vm") return this.at(name === "Vm" ? "h" : name, k, R);
    if (name === "c" || name === "dc") return this.at(name, k, H);
    if (name === "h'" || name === "c'") return this.state(name[0], k);
    if (`gate_${name}` in arrays) return this.at(`gate_${name}`, k, H);
    if (name in arrays && name.startsWith("da_")) return this.at(name, k, H);
    const sum = this.sums(name, k);
    if (sum) return sum.reduce((total, [left, right]) => total + left * right, 0);
    const rule = this.rules()[name];
    if (rule) return rule(k);
    return evaluate((layer.kind.known[name] || layer.kind.known[`${name}[]`]).tree, (part) => this.value(part, k));
  }

  /* Terms of the sums over inputs, states or units: pairs of factors; null where a name is no sum. */
  sums(name, k) {
    const { layer } = this, { arrays, gates, D, H, R } = layer;
    const [head, letter] = name.split("_"), g = gates.indexOf(letter);
    const range = (n) => [...Array(n).keys()];
    const U = (gate, unit, column) => arrays.U[(gate * H + unit) * R + column];
    switch (head) {
      case "Wx": return range(D).map((d) => [arrays.W[(g * H + k) * D + d], this.at("x", d, D)]);
      case "Uh": return range(R).map((j) => [U(g, k, j), this.state("h", j)]);
      case "Uk": return range(R).map((j) => [U(g, k, j), this.value("k", j)]);
      case "VTdh": return range(R).map((j) => [arrays.projection[j * H + k], this.at("dh", j, R)]);
      case "WTda": return gates.flatMap((l, m) => range(H).map((j) => [arrays.W[(m * H + j) * D + k], this.at(`da_${l}`, j, H)]));
      case "UTda": {
        if (letter) return range(H).map((j) => [U(g, j, k), this.at(`da_${letter}`, j, H)]);
        const through = layer.cell === "gru_reset_before" ? gates.slice(0, 2) : gates;
        return through.flatMap((l, m) => range(H).map((j) => [U(m, j, k), this.atState(l, j)]));
      }
      default: return null;
    }
  }

  atState(letter, k) { // gradient beside U h': of a GRU's candidate, reset after, times r
    const da = this.at(`da_${letter}`, k, this.layer.H);
    return this.layer.cell === "gru" && letter === "n" ? da * this.value("r", k) : da;
  }

  rules() {
    const { arrays, gates, H } = this.layer;
    const bias = (array, gate, k) => (array ? array[gates.indexOf(gate) * H + k] : 0);
    const found = {
      "d+h": (k) => (this.after ? this.after.value("d+h'", k) : 0),
      "d+c": (k) => (this.after ? this.after.value("d+c'", k) : this.rest("dc", k)),
      dy: (k) => this.rest("dh", k),
    };
    for (const gate of gates) {
      found[`b_${gate}`] = (k) => bias(arrays.b_ih, gate, k) + bias(arrays.b_hh, gate, k);
      found[`bx_${gate}`] = (k) => bias(arrays.b_ih, gate, k);
      found[`bh_${gate}`] = (k) => bias(arrays.b_hh, gate, k);
    }
    ["i", "f", "o"].forEach((gate, m) => {
      found[`p_${gate}`] = (k) => arrays.peephole[m * H + k];
    });
    return found;
  }

  /* What is left of a gradient when its known terms are taken away, and how many of its digits are known: the
   * gradient was rounded by at most (8 + √n) eps of the largest term of its sum of n. Below that it is 0. */
  remainder(name, k) {
    const total = this.value(name, k), terms = this.knownTerms(name, k);
    const left = terms.reduce((rest, term) => rest - term, total);
    const all = [total, ...terms, ...this.summands(name, k)], eps = this.layer.type === "f8" ? 2 ** -52 : 2 ** -23;
    const rounding = (8 + Math.sqrt(all.length)) * eps * Math.max(...all.map(Math.abs));
    if (Math.abs(left) <= rounding) return { left: 0, digits: DIGITS };
    return { left, digits: Math.max(1, Math.min(DIGITS, Math.floor(Math.log10(Math.abs(left) / rounding)))) };
  }

  knownTerms(name, k) {
    if (name === "dh") return this.after ? [this.value("d+h", k)] : [];
    return this.layer.kind.known.dc.tree.terms.slice(1).map(({ term }) => evaluate(term, (part) => this.value(part, k)));
  }

  summands(name, k) {
    return name === "dh" && this.after ? this.after.sums("UTda", k).map(([left, right]) => left * right) : [];
  }

  rest(name, k) {
    return this.remainder(name, k).left;
  }

  /* A quantity as it is written. */
  written(name, k, digits = DIGITS) {
    const plain = name.replace("[]", "");
    const whole = plain === "dy" ? "dh" : plain === "d+c" && !this.after ? "dc" : null;
    return number(this.value(name, k), whole ? Math.min(digits, this.remainder(whole, k).digits) : digits);
  }
}

/* Numbers as they are written. */

function number(value, digits = DIGITS) {
  if (value === 0) return "0";
  const scientific = value.toExponential(digits - 1), exponent = Number(scientific.split("e")[1]);
  const text = exponent < -4 || exponent >= 6 ? scientific : value.toFixed(Math.max(0, digits - 1 - exponent));
  return text.replaceAll("-", "−").replace("e+", "e");
}

/* Given numbers are written as given: 0.45 and not 0.45000. */
const trimmed = (text) => (text.includes("e") || !text.includes(".") ? text : text.replace(/\.?0+$/, ""));
const short = (value) => trimmed(number(value));

const safe = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
const norm = (array, from, size) => Math.hypot(...array.subarray(from, from + size));
