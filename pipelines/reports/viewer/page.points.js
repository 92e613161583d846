"use strict";
// The points: unpacked, coloured and hidden.

const NO_CLASS = 255;
const GREY = [110, 118, 126]; // of a point without a class
const RIGHT = [78, 92, 108], WRONG = [255, 140, 0]; // apart in every kind of colour vision
// Cividis, which is made for colour-blind readers, at 0, 25, 50, 75 and 100 %.
const RAMP = [[0, 34, 78], [66, 78, 108], [124, 123, 120], [187, 173, 108], [254, 232, 56]];
const MODES = { scan: "Scan", label: "Ground truth", predicted: "Prediction", error: "Error",
  confidence: "Confidence" };

const byId = (id) => document.getElementById(id);
const facts = JSON.parse(byId("data-facts").textContent);
const number = (value) => value.toLocaleString("en-US");
const counted = (value) => `${number(value)} point${value === 1 ? "" : "s"}`;
const percent = (share) => (100 * share).toFixed(1);
const css = (color) => `rgb(${color.join(",")})`;

async function unpackPoints() {
  const text = atob(byId("data-points").textContent.trim());
  byId("data-points").remove();
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < packed.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer();
  const planes = {};
  let start = 0;
  for (const [name, size] of facts.planes) {
    const end = start + size * facts.shown;
    // A copy, since 16-bit values have to start at an even byte.
    planes[name] = new (size === 2 ? Uint16Array : Uint8Array)(bytes.slice(start, end));
    start = end;
  }
  return planes;
}

function ramp(share) {
  const place = share * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[low].map((value, c) => Math.round(value + (RAMP[low + 1][c] - value) * (place - low)));
}

// The plane whose classes the legend counts and switches: what one sees, else what is true.
function classPlane(planes, mode) {
  if (mode === "predicted") return "predicted";
  return ["label", "predicted"].find((name) => name in planes);
}

function palette(state) {
  const colors = Array.from({ length: 256 }, () => GREY);
  (state.safe ? facts.safe_colors : facts.colors).forEach((color, n) => { colors[n] = color; });
  return colors;
}

// Return the function from a point's number to its colour.
function colorOf(planes, state) {
  const { mode } = state;
  if (mode === "scan") return (i) => [planes.red[i], planes.green[i], planes.blue[i]];
  if (mode === "confidence") {
    const colors = Array.from({ length: 256 }, (_, value) => ramp(value / 255));
    return (i) => colors[planes.confidence[i]];
  }
  if (mode === "error") return (i) => {
    if (planes.label[i] === NO_CLASS || planes.predicted[i] === NO_CLASS) return GREY;
    return planes.label[i] === planes.predicted[i] ? RIGHT : WRONG;
  };
  const colors = palette(state);
  return (i) => colors[planes[mode][i]];
}

// The ceiling goes by ground truth where there is one, so that the same points stay in every mode.
function isVisible(planes, state) {
  const shown = planes[classPlane(planes, state.mode)];
  const shell = planes.label || planes.predicted;
  const ceiling = state.hideCeiling ? facts.classes.indexOf("ceiling") : -1;
  const top = state.height * 65535;
  return (i) => planes.z[i] <= top && !(shell && shell[i] === ceiling)
    && !(shown && state.on[shown[i]] === false);
}

function paint(planes, state, tint) {
  const color = colorOf(planes, state), visible = isVisible(planes, state);
  let count = 0;
  for (let i = 0; i < facts.shown; i++) {
    const [red, green, blue] = color(i), seen = visible(i);
    tint[4 * i] = red; tint[4 * i + 1] = green; tint[4 * i + 2] = blue;
    tint[4 * i + 3] = seen ? 255 : 0;
    count += seen;
  }
  return count;
}
