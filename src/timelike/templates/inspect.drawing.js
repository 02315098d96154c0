/* Drawings of the cells: where gates, operations and wires lie. A wire is named as the quantity that runs on it
 * in the table of equations, and the numbers beside it are that quantity and its gradient. */
"use strict";

const wire = (name, path, label, more = "") => ({ name, path, label, more });
const gate = (letter, act, x, y = 360) => ({ kind: "gate", letter, act, x, y });
const op = (text, x, y) => ({ kind: "op", text, x, y });

/* Below the gates: h of the step before and x run to each gate. */
function feeds(columns, y = 462) {
  const last = Math.max(230, ...columns.map(([, x]) => x));
  const found = [wire("bus", `M16 ${y}H${last}`, null, "plain")];
  for (const [name, x] of columns) found.push(wire(name, `M${x} ${y}V382`, [x, 412]));
  found.push(wire("h'", `M16 ${y}h1`, [62, y + 30], "plain"), wire("x", `M230 ${y + 34}V${y}`, [230, y + 36, "x"]));
  return found;
}

function lstmDrawing(cellName) {
  const coupled = cellName === "lstm_coupled", projected = cellName === "lstm_projected";
  const nodes = [
    op("×", 105, 74), op("+", 300, 74), op("×", 300, 190), op("tanh", 495, 138), op("×", 495, 206),
    gate("i", "σ", 235), gate("g", "tanh", 365), gate("o", "σ", 495),
  ];
  const wires = [
    wire("c'", "M16 74H91", [54, 38]),
    wire("fc'", "M119 74H286", null),
    wire("i", "M235 340V190H286", [235, 272]),
    wire("g", "M365 340V190H314", [365, 272]),
    wire("ig", "M300 176V88", null),
    wire("c", "M314 74H604", [556, 38]),
    wire("c2", "M495 74V122", null),
    wire("tanhc", "M495 154V192", null),
    wire("o", "M495 340V220", [495, 272]),
    wire(projected ? "m" : "h", "M509 206H" + (projected ? 606 : 604), [projected ? 558 : 560, 172]),
  ];
  const columns = [["a_i", 235], ["a_g", 365], ["a_o", 495]];
  if (coupled) {
    nodes.push(op("1−", 105, 190));
    wires.push(wire("i2", "M235 225H105V204", null), wire("1-i", "M105 176V88", null));
  } else {
    nodes.push(gate("f", "σ", 105));
    wires.push(wire("f", "M105 340V88", [105, 272]));
    columns.unshift(["a_f", 105]);
  }
  if (projected) {
    nodes.push(op("V", 622, 206));
    wires.push(wire("h[]", "M638 206H690", null));
  }
  if (cellName === "lstm_peephole") {
    wires.push(
      wire("p_f", "M28 74V360H67", null, "dashed"),
      wire("p_i", "M28 318H178V360H197", null, "dashed"),
      wire("p_o", "M430 74V360H457", null, "dashed"),
    );
  }
  return { width: projected ? 706 : 620, height: 530, nodes, wires: [...feeds(columns), ...wires] };
}

function gruDrawing(cellName) {
  const before = cellName === "gru_reset_before";
  const nodes = [
    op("×", 240, 74), op("+", 485, 74), op("1−", 345, 200), op("×", 485, 200), op("×", 360, 360),
    gate("r", "σ", 105), gate("z", "σ", 240), gate("n", "tanh", 485),
  ];
  const wires = [
    wire("h'2", "M16 74H226", null),
    wire("zh'", "M254 74H471", null),
    wire("r", "M105 340V300H360V346", [105, 262]),
    wire("z", "M240 340V88", [240, 252]),
    wire("z2", "M240 200H331", null),
    wire("1-z", "M359 200H471", null),
    wire("n", "M485 340V214", [485, 272]),
    wire("zn", "M485 186V88", null),
    wire("h", "M499 74H604", [556, 38]),
    wire(before ? "h'3" : "h_n", "M360 462V374", before ? null : [360, 412]),
    wire(before ? "k" : "rh_n", "M374 360H447", before ? [420, 318] : null),
  ];
  const columns = [["a_r", 105], ["a_z", 240], [before ? "a_n" : "x_n", 485]];
  return { width: 620, height: 530, nodes, wires: [...feeds(columns), ...wires] };
}

function rnnDrawing(cellName) {
  const nodes = [gate("h", cellName === "rnn_relu" ? "max(0, ·)" : "tanh", 310, 90)];
  const wires = [wire("h", "M348 90H604", [500, 54]), wire("h'", "M16 220h1", [62, 250], "plain"), wire("x", "M230 254V220", [230, 256, "x"])];
  wires.push(wire("bus", "M16 220H310", null, "plain"), wire("a_h", "M310 220V112", [310, 160]));
  return { width: 620, height: 290, nodes, wires };
}

const DRAWINGS = { lstm: lstmDrawing, gru: gruDrawing, rnn: rnnDrawing };

/* What a wire has to do with the equation of which name is the left side. */
const TOUCHES = { i2: "i", "1-i": "i", ig: "i g", "fc'": "f c'", c2: "c", tanhc: "c", bus: "", "h'2": "h'", "h'3": "h'",
  "zh'": "z h'", z2: "z", "1-z": "z", zn: "n z", "rh_n": "r h_n", p_i: "p_i", p_f: "p_f", p_o: "p_o" };
const touched = (name) => (TOUCHES[name] ?? name).split(" ");

const gradientName = (name) => (/^[hc]'/.test(name) ? `d+${name}` : `d${name}`);
