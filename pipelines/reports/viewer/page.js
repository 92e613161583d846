"use strict";
// The panel, the mouse and the keys; then the start.
// Its state can be given in the address: #color=error&hide=ceiling&palette=safe&off=wall,door
// &shade=off&height=0.5&size=2&view=top&pick=0.5,0.5

function availableModes(planes) {
  return Object.keys(MODES).filter((mode) => mode === "scan" || mode in planes ||
    (mode === "error" && planes.label && planes.predicted));
}

function startState(modes) {
  const asked = new URLSearchParams(location.hash.slice(1));
  const share = (name, low, high, otherwise) => {
    const value = parseFloat(asked.get(name));
    return value >= low && value <= high ? value : otherwise;
  };
  const best = modes.includes("predicted") ? "predicted" : modes.at(-1);
  const off = new Set((asked.get("off") || "").split(","));
  return {
    mode: modes.find((mode) => mode === asked.get("color")
      || MODES[mode].toLowerCase() === asked.get("color")) || best,
    hideCeiling: asked.get("hide") ? asked.get("hide") === "ceiling" : true,
    safe: asked.get("palette") === "safe" && facts.safe_colors !== null,
    shade: asked.get("shade") !== "off",
    on: facts.classes.map((name) => !off.has(name)),
    height: share("height", 0, 1, 1),
    size: share("size", 0.25, 4, 1),
    top: asked.get("view") === "top",
    pick: asked.get("pick") && asked.get("pick").split(",").map(Number),
  };
}

// --- the panel ----------------------------------------------------------------------------------

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function definitions(list, values) {
  for (const [name, value] of Object.entries(values))
    list.append(element("dt", name), element("dd", value));
  return list;
}

function swatch(color) {
  const made = element("span", "", { class: "swatch" });
  made.style.backgroundColor = css(color);
  return made;
}

function showSummary() {
  const part = facts.shown < facts.finite
    ? `${number(facts.shown)} of ${counted(facts.finite)} shown, drawn at random; counts`
      + " and scores are of all of them."
    : `${counted(facts.shown)}.`;
  const lost = facts.total - facts.finite;
  const left = lost ? ` ${counted(lost)} without finite coordinates left out.` : "";
  const scored = facts.miou === undefined ? ""
    : ` mIoU ${percent(facts.miou)} %, overall accuracy ${percent(facts.oa)} %.`;
  byId("summary").textContent = `${part}${left}${scored} On a slow machine fewer points are drawn`
    + " while the view moves.";
  definitions(byId("facts"), facts.facts);
}

function buildModes(view, modes) {
  for (const mode of modes) {
    const label = element("label"), input = element("input", "",
      { type: "radio", name: "mode", value: mode });
    input.checked = mode === view.state.mode;
    input.addEventListener("change", () => change(view, { mode }));
    label.append(input, ` ${MODES[mode]}`);
    byId("colors").append(label);
  }
}

function buildLegend(view) {
  const plane = classPlane(view.planes, view.state.mode);
  byId("classes").hidden = !plane;
  if (!plane) return;
  facts.classes.forEach((name, n) => {
    const input = element("input", "", { type: "checkbox", id: `class-${n}` });
    input.addEventListener("change", () => {
      view.state.on[n] = input.checked;
      change(view, {});
    });
    const label = element("label"), cell = element("td"), row = element("tr");
    label.append(input, swatch(GREY), name);
    cell.append(label);
    row.append(cell, element("td", "", { class: "count" }), element("td", "", { class: "iou" }));
    byId("legend").append(row);
  });
  if (!facts.iou) document.querySelectorAll(".iou").forEach((cell) => cell.remove());
}

function showLegend(view) {
  const plane = classPlane(view.planes, view.state.mode);
  if (!plane) return;
  const word = MODES[plane].toLowerCase(), colors = palette(view.state);
  const rest = facts.unlabelled[plane];
  byId("switching").textContent = `Counted and switched by ${word}`
    + `${rest ? `; ${counted(rest)} without one` : ""}.`;
  const counts = facts.counts[plane];
  [...byId("legend").rows].forEach((row, n) => {
    row.classList.toggle("absent", counts[n] === 0);
    row.querySelector("input").checked = view.state.on[n];
    row.querySelector(".swatch").style.backgroundColor = css(colors[n]);
    row.querySelector(".count").textContent = number(counts[n]);
    if (!facts.iou) return;
    row.querySelector(".iou").textContent = facts.iou[n] === null ? "–" : percent(facts.iou[n]);
  });
}

function showKey(view) {
  const key = byId("key"), { mode } = view.state;
  key.hidden = mode !== "error" && mode !== "confidence";
  if (mode === "error") {
    key.setAttribute("aria-label", "Grey points are right, orange points are wrong");
    const right = element("p"), wrong = element("p");
    right.append(swatch(RIGHT), "right");
    wrong.append(swatch(WRONG), "wrong");
    key.replaceChildren(right, wrong);
  }
  if (mode === "confidence") {
    key.setAttribute("aria-label", "From dark blue, 0 %, to yellow, 100 % confidence");
    const bar = element("div", "", { class: "bar" }), ends = element("div", "", { class: "ends" });
    bar.style.background = `linear-gradient(to right, ${RAMP.map(css).join(",")})`;
    ends.append(element("span", "0 %"), element("span", "100 %"));
    key.replaceChildren(bar, ends);
  }
}

function showControls(view) {
  const { state } = view;
  byId("hide").checked = state.hideCeiling;
  byId("safe").checked = state.safe;
  byId("shade").checked = state.shade;
  byId("height").value = state.height;
  byId("size").value = state.size;
  byId("height_value").textContent = `${(state.height * view.extent[2]).toFixed(2)} m`;
  byId("size_value").textContent = `× ${state.size}`;
  document.querySelectorAll("input[name=mode]").forEach((input) => {
    input.checked = input.value === state.mode;
  });
  showLegend(view);
  showKey(view);
}

function change(view, news) {
  Object.assign(view.state, news);
  showControls(view);
  repaint(view);
}

function switchClasses(view, on) {
  view.state.on.fill(on);
  change(view, {});
}

function listenToControls(view) {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("hide", "change", (event) => change(view, { hideCeiling: event.target.checked }));
  on("safe", "change", (event) => change(view, { safe: event.target.checked }));
  on("shade", "change", (event) => change(view, { shade: event.target.checked }));
  on("height", "input", (event) => change(view, { height: Number(event.target.value) }));
  on("size", "input", (event) => change(view, { size: Number(event.target.value) }));
  on("all", "click", () => switchClasses(view, true));
  on("none", "click", () => switchClasses(view, false));
  on("reset", "click", () => placeCamera(view, false));
  on("top", "click", () => placeCamera(view, true));
  byId("palette").hidden = facts.safe_colors === null;
  byId("ceiling").hidden = !facts.classes.includes("ceiling")
    || !(view.planes.label || view.planes.predicted);
}

// --- mouse and keys on the picture --------------------------------------------------------------

function listenToPointer(view) {
  const canvas = byId("canvas");
  let down = null, rest = 0;
  canvas.addEventListener("pointerdown", (event) => { down = [event.clientX, event.clientY]; });
  canvas.addEventListener("pointerup", (event) => {
    if (!down || event.button !== 0) return;
    if (Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 3) return;
    const box = canvas.getBoundingClientRect();
    pick(view, event.clientX - box.left, event.clientY - box.top);
  });
  view.controls.addEventListener("change", () => {
    view.moving = true;
    clearTimeout(rest);
    rest = setTimeout(() => { view.moving = false; draw(view); }, 200);
    draw(view);
  });
}

function orbit(view, turn, tilt, zoom) {
  const { camera, controls } = view;
  const away = camera.position.clone().sub(controls.target);
  // three.js measures the angle from the y axis, the scan from the z axis.
  const place = new THREE.Spherical().setFromCartesianCoords(away.x, away.z, -away.y);
  place.theta += turn;
  place.phi = Math.min(Math.PI - 0.001, Math.max(0.001, place.phi + tilt));
  place.radius *= zoom;
  away.setFromSpherical(place);
  camera.position.set(away.x, -away.z, away.y).add(controls.target);
  controls.update();
}

function pan(view, right, up) {
  const { camera, controls } = view;
  const length = 0.05 * camera.position.distanceTo(controls.target);
  const way = new THREE.Vector3(right * length, up * length, 0).applyQuaternion(camera.quaternion);
  camera.position.add(way);
  controls.target.add(way);
  controls.update();
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

function listenToKeys(view) {
  byId("canvas").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const arrow = ARROWS[event.key], box = byId("scene");
    if (arrow && event.shiftKey) pan(view, ...arrow);
    else if (arrow) orbit(view, 0.08 * arrow[0], -0.08 * arrow[1], 1);
    else if (event.key === "+" || event.key === "=") orbit(view, 0, 0, 0.9);
    else if (event.key === "-" || event.key === "_") orbit(view, 0, 0, 1 / 0.9);
    else if (event.key === "Home") placeCamera(view, false);
    else if (event.key.toLowerCase() === "p") pick(view, box.clientWidth / 2, box.clientHeight / 2);
    else return;
    event.preventDefault();
  });
}

// --- start --------------------------------------------------------------------------------------

function fail(message) {
  byId("message").textContent = message;
  byId("message").hidden = false;
  document.documentElement.dataset.state = "failed";
}

function hasWebGL() {
  return Boolean(window.WebGL2RenderingContext
    && document.createElement("canvas").getContext("webgl2"));
}

async function start() {
  showSummary();
  if (!hasWebGL()) {
    fail("This browser cannot draw in 3-D: WebGL 2 is missing or switched off. Open the page in "
      + "another browser, or switch on hardware acceleration in this one's settings.");
    return;
  }
  if (!window.DecompressionStream) {
    fail("This browser cannot unpack the points. Open the page in a newer one: Chrome or Edge 80, "
      + "Firefox 113, Safari 16.4, or later.");
    return;
  }
  const planes = await unpackPoints();
  const modes = availableModes(planes), state = startState(modes);
  const view = buildScene(planes, state);
  buildModes(view, modes);
  buildLegend(view);
  listenToControls(view);
  listenToKeys(view);
  fit(view);
  placeCamera(view, state.top);
  listenToPointer(view);
  change(view, {});
  new ResizeObserver(() => fit(view)).observe(byId("scene"));
  if (state.pick) {
    const { clientWidth: width, clientHeight: height } = byId("scene");
    pick(view, state.pick[0] * width, state.pick[1] * height);
  }
  byId("message").hidden = true;
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.state = "ready";
  }));
}

start().catch((error) => {
  fail(`The points cannot be shown: ${error.message}`);
  throw error;
});
