/* The cells: one table of equations, from which come the lines with their numbers and the wires of the drawing.
 *
 * Names in the equations, of one unit at one step:
 *   i f g o r z n h c   gates and states;  c' h'  states of the step before;  d...  gradients
 *   a_i                 what a gate's sigmoid or tanh is taken of
 *   Wx_i Uh_i b_i       its three parts (sums over inputs and states); bx_ bh_ the two biases of a GRU
 *   dy                  gradient that reaches h from outside of the layer;  d+h d+c  from the step after
 */
"use strict";

const gateSums = (letters) => letters.map((g) => `a_${g} = Wx_${g} + Uh_${g} + b_${g}`);

const LSTM_BACK = (dh) => [
  `do = ${dh} * tanh(c)`,
  `dc = d+c + ${dh} * o * (1 - tanh(c)^2)`,
  "di = dc * g",
  "df = dc * c'",
  "dg = dc * i",
  "da_i = di * i * (1 - i)",
  "da_f = df * f * (1 - f)",
  "da_g = dg * (1 - g^2)",
  "da_o = do * o * (1 - o)",
  "d+c' = dc * f",
];
const LSTM_GATES = ["i = σ(a_i)", "f = σ(a_f)", "g = tanh(a_g)", "o = σ(a_o)", "c = f * c' + i * g"];

const CELLS = {
  rnn_tanh: {
    name: "Simple recurrent network, tanh",
    drawing: "rnn",
    forward: ["a_h = Wx_h + Uh_h + b_h", "h = tanh(a_h)"],
    backward: ["dh = dy + d+h", "da_h = dh * (1 - h^2)", "d+h' = UTda"],
  },
  rnn_relu: {
    name: "Simple recurrent network, rectifier",
    drawing: "rnn",
    forward: ["a_h = Wx_h + Uh_h + b_h", "h = relu(a_h)"],
    backward: ["dh = dy + d+h", "da_h = dh * positive(h)", "d+h' = UTda"],
  },
  lstm: {
    name: "LSTM",
    drawing: "lstm",
    forward: [...gateSums(["i", "f", "g", "o"]), ...LSTM_GATES, "h = o * tanh(c)"],
    backward: ["dh = dy + d+h", ...LSTM_BACK("dh"), "d+h' = UTda"],
  },
  lstm_projected: {
    name: "LSTM with projection",
    drawing: "lstm",
    forward: [...gateSums(["i", "f", "g", "o"]), ...LSTM_GATES, "m = o * tanh(c)", "h[] = Vm"],
    backward: ["dh[] = dy[] + d+h[]", "dm = VTdh", ...LSTM_BACK("dm"), "d+h'[] = UTda"],
  },
  lstm_peephole: {
    name: "LSTM with peepholes",
    drawing: "lstm",
    forward: [
      ...gateSums(["i", "f", "g", "o"]),
      "i = σ(a_i + p_i * c')",
      "f = σ(a_f + p_f * c')",
      "g = tanh(a_g)",
      "c = f * c' + i * g",
      "o = σ(a_o + p_o * c)",
      "h = o * tanh(c)",
    ],
    backward: [
      "dh = dy + d+h",
      "do = dh * tanh(c)",
      "da_o = do * o * (1 - o)",
      "dc = d+c + dh * o * (1 - tanh(c)^2) + da_o * p_o",
      "di = dc * g",
      "df = dc * c'",
      "dg = dc * i",
      "da_i = di * i * (1 - i)",
      "da_f = df * f * (1 - f)",
      "da_g = dg * (1 - g^2)",
      "d+c' = dc * f + da_i * p_i + da_f * p_f",
      "d+h' = UTda",
    ],
  },
  lstm_coupled: {
    name: "LSTM with coupled gates",
    drawing: "lstm",
    forward: [
      ...gateSums(["i", "g", "o"]),
      "i = σ(a_i)",
      "g = tanh(a_g)",
      "o = σ(a_o)",
      "c = (1 - i) * c' + i * g",
      "h = o * tanh(c)",
    ],
    backward: [
      "dh = dy + d+h",
      "do = dh * tanh(c)",
      "dc = d+c + dh * o * (1 - tanh(c)^2)",
      "di = dc * (g - c')",
      "dg = dc * i",
      "da_i = di * i * (1 - i)",
      "da_g = dg * (1 - g^2)",
      "da_o = do * o * (1 - o)",
      "d+c' = dc * (1 - i)",
      "d+h' = UTda",
    ],
  },
  gru: {
    name: "GRU, reset after",
    drawing: "gru",
    forward: [
      ...gateSums(["r", "z"]),
      "x_n = Wx_n + bx_n",
      "h_n = Uh_n + bh_n",
      "r = σ(a_r)",
      "z = σ(a_z)",
      "n = tanh(x_n + r * h_n)",
      "h = (1 - z) * n + z * h'",
    ],
    backward: [
      "dh = dy + d+h",
      "dz = dh * (h' - n)",
      "dn = dh * (1 - z)",
      "da_n = dn * (1 - n^2)",
      "dr = da_n * h_n",
      "dh_n = da_n * r",
      "da_r = dr * r * (1 - r)",
      "da_z = dz * z * (1 - z)",
      "d+h' = dh * z + UTda",
    ],
  },
  gru_reset_before: {
    name: "GRU, reset before",
    drawing: "gru",
    forward: [
      ...gateSums(["r", "z"]),
      "r = σ(a_r)",
      "z = σ(a_z)",
      "k = r * h'",
      "a_n = Wx_n + Uk_n + b_n",
      "n = tanh(a_n)",
      "h = (1 - z) * n + z * h'",
    ],
    backward: [
      "dh = dy + d+h",
      "dz = dh * (h' - n)",
      "dn = dh * (1 - z)",
      "da_n = dn * (1 - n^2)",
      "dk = UTda_n",
      "dr = dk * h'",
      "da_r = dr * r * (1 - r)",
      "da_z = dz * z * (1 - z)",
      "d+h' = dh * z + dk * r + UTda",
    ],
  },
};

/* Reading an equation: sums of products of numbers, names, functions and squares. */

const TOKEN = /d\+[hc]'?(?:\[\])?|[A-Za-z_σ]+'?(?:\[\])?|\d+|[()+\-*^]/g;
const FUNCTIONS = {
  σ: (a) => (a >= 0 ? 1 / (1 + Math.exp(-a)) : Math.exp(a) / (1 + Math.exp(a))),
  tanh: Math.tanh,
  relu: (a) => Math.max(0, a),
  positive: (h) => (h > 0 ? 1 : 0),
};

function equation(text) {
  const [id, right] = text.split(" = ");
  const tokens = right.match(TOKEN);
  let at = 0;
  const chain = (operators, part) => () => {
    const terms = [{ operator: "", term: part() }];
    while (operators.includes(tokens[at])) terms.push({ operator: tokens[at++], term: part() });
    return terms.length === 1 ? terms[0].term : { kind: "chain", terms };
  };
  const atom = () => {
    const token = tokens[at++];
    if (token === "(") {
      const inner = sum();
      at++; // the closing one
      return { kind: "group", inner };
    }
    if (token in FUNCTIONS) return { kind: "call", name: token, inner: atom().inner };
    return /^\d/.test(token) ? { kind: "number", value: Number(token) } : { kind: "name", name: token };
  };
  const power = () => {
    const base = atom();
    if (tokens[at] !== "^") return base;
    at += 2; // only squares are written
    return { kind: "square", base };
  };
  const sum = chain(["+", "-"], chain(["*"], power));
  return { id, vector: id.endsWith("[]"), tree: sum(), text };
}

for (const cell of Object.values(CELLS)) {
  for (const side of ["forward", "backward"]) cell[side] = cell[side].map(equation);
  cell.known = Object.fromEntries([...cell.forward, ...cell.backward].map((e) => [e.id, e]));
}

function evaluate(tree, value) {
  const operate = { "+": (a, b) => a + b, "-": (a, b) => a - b, "*": (a, b) => a * b };
  switch (tree.kind) {
    case "number": return tree.value;
    case "name": return value(tree.name);
    case "group": return evaluate(tree.inner, value);
    case "call": return FUNCTIONS[tree.name](evaluate(tree.inner, value));
    case "square": return evaluate(tree.base, value) ** 2;
    default:
      return tree.terms
        .map(({ operator, term }) => [operator, evaluate(term, value)])
        .reduce((left, [operator, right]) => [operator, operate[operator](left[1], right)])[1];
  }
}

/* How names are written. `before` is the index of the step before: t−1, or t+1 where the layer walks back. */

function symbol(name, before) {
  const letter = (l, sub = "", sup = "") =>
    `<i>${l}</i>${sup ? `<sup>${sup}</sup>` : ""}${sub ? `<sub>${sub}</sub>` : ""}`;
  const plain = name.replace("[]", "");
  const found = {
    "c'": letter("c", before), "h'": letter("h", before),
    "d+c": `d<sup>+</sup>${letter("c")}`, "d+h": `d<sup>+</sup>${letter("h")}`,
    "d+c'": `d<sup>+</sup>${letter("c", before)}`, "d+h'": `d<sup>+</sup>${letter("h", before)}`,
    UTda: `${letter("U", "", "⊤")}d<i>a</i>`, UTda_n: `${letter("U", "n", "⊤")}d${letter("a", "n")}`,
    VTdh: `${letter("V", "", "⊤")}d<i>h</i>`, Vm: "<i>V</i> <i>m</i>", WTda: `${letter("W", "", "⊤")}d<i>a</i>`,
  }[plain];
  if (found) return found;
  if (plain.startsWith("d")) return `d${symbol(plain.slice(1), before)}`;
  const [head, gate] = plain.split("_");
  if (!gate) return letter(head);
  return {
    Wx: `${letter("W", gate)}<i>x</i>`, Uh: `${letter("U", gate)}${letter("h", before)}`,
    Uk: `${letter("U", gate)}<i>k</i>`, bx: letter("b", gate, "x"), bh: letter("b", gate, "h"),
  }[head] || letter(head, gate);
}

function written(tree, leaf) {
  const operators = { "": "", "+": " + ", "-": " − ", "*": " · " };
  switch (tree.kind) {
    case "number": return String(tree.value);
    case "name": return leaf(tree.name);
    case "group": return `(${written(tree.inner, leaf)})`;
    case "square": return `${guarded(written(tree.base, leaf))}<sup>2</sup>`;
    case "call": {
      const inner = written(tree.inner, leaf);
      if (tree.name === "relu") return `max(0, ${inner})`;
      return tree.name === "positive" ? `[${inner} > 0]` : `${tree.name}(${inner})`;
    }
    default:
      return tree.terms
        .map(({ operator, term }, k) => operators[operator] + (k > 0 ? guarded(written(term, leaf)) : written(term, leaf)))
        .join("");
  }
}

/* A negative number behind an operator, or under a square, stands in brackets. */
const guarded = (text) => text.replace(/^−[\d.]+(e[−+]?\d+)?/, "($&)");
