"use strict";
// The scene: the cloud, the camera, what is drawn of it, and picking.

const GROUND = [16 / 255, 20 / 255, 24 / 255];
const SHADE = 60; // strength of the lighting
const SMALLEST_DRAW = 50000; // points of a frame while the camera moves on a slow machine

const VERTEX = `
  attribute vec4 tint;
  uniform float diameter, pixels;
  varying vec3 shade;
  void main() {
    shade = tint.rgb;
    vec4 seen = modelViewMatrix * vec4(position, 1.0);
    gl_Position = projectionMatrix * seen;
    gl_PointSize = clamp(diameter * pixels / -seen.z, 1.5, 48.0);
    if (tint.a == 0.0) gl_Position = vec4(0.0, 0.0, 2.0, 1.0); // hidden: behind the far plane
  }`;
const FRAGMENT = `
  varying vec3 shade;
  void main() {
    if (length(gl_PointCoord - 0.5) > 0.5) discard;
    gl_FragColor = vec4(shade, 1.0);
  }`;

// Eye-dome lighting (Boucheny 2009): a pixel is as dark as its neighbours are nearer to the eye.
const COVER = `
  varying vec2 place;
  void main() {
    place = uv;
    gl_Position = vec4(position.xy, 0.0, 1.0);
  }`;
const LIGHT = `
  uniform sampler2D seen, depths;
  uniform vec2 pixel;
  uniform float near, far, strength;
  uniform vec3 ground;
  varying vec2 place;
  float distanceAt(vec2 at) {
    float depth = texture2D(depths, at).r;
    return near * far / (far - depth * (far - near));
  }
  void main() {
    if (texture2D(depths, place).r == 1.0) {
      gl_FragColor = vec4(ground, 1.0);
      return;
    }
    float here = log2(distanceAt(place)), dark = 0.0;
    for (int n = 0; n < 8; n++) {
      float angle = 0.785398 * float(n);
      dark += max(0.0, here - log2(distanceAt(place + pixel * vec2(cos(angle), sin(angle)))));
    }
    gl_FragColor = vec4(texture2D(seen, place).rgb * exp(-strength * dark / 8.0), 1.0);
  }`;

// An order in which every beginning is spread over the whole scan: the coarse levels of detail.
function spreadOrder(count) {
  const order = new Uint32Array(count);
  let stride = Math.max(1, Math.round(count * 0.618034));
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  while (divisor(count, stride) !== 1) stride++;
  for (let i = 0, at = 0; i < count; i++, at = (at + stride) % count) order[i] = at;
  return order;
}

function buildCloud(planes) {
  const count = facts.shown;
  const position = new Uint16Array(3 * count), tint = new Uint8Array(4 * count);
  ["x", "y", "z"].forEach((axis, c) => {
    for (let i = 0; i < count; i++) position[3 * i + c] = planes[axis][i];
  });
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.BufferAttribute(position, 3));
  geometry.setAttribute("tint", new THREE.BufferAttribute(tint, 4, true));
  geometry.setIndex(new THREE.BufferAttribute(spreadOrder(count), 1));
  const extent = facts.step.map((step) => step * 65535);
  // A room is mostly walls, floor and ceiling: so many square metres for so many points.
  const [x, y, z] = extent, area = 2 * (x * y + x * z + y * z);
  const material = new THREE.ShaderMaterial({ vertexShader: VERTEX, fragmentShader: FRAGMENT,
    uniforms: { diameter: { value: 1 }, pixels: { value: 1 } } });
  const cloud = new THREE.Points(geometry, material);
  cloud.scale.fromArray(facts.step);
  cloud.frustumCulled = false;
  return { cloud, position, tint, extent, diameter: 1.5 * Math.sqrt(area / count) };
}

function buildLight() {
  const target = new THREE.WebGLRenderTarget(1, 1);
  target.depthTexture = new THREE.DepthTexture(1, 1);
  const material = new THREE.ShaderMaterial({ vertexShader: COVER, fragmentShader: LIGHT,
    depthTest: false, depthWrite: false, uniforms: {
      seen: { value: target.texture }, depths: { value: target.depthTexture },
      pixel: { value: new THREE.Vector2() }, near: { value: 1 }, far: { value: 1 },
      strength: { value: 0 }, ground: { value: new THREE.Vector3(...GROUND) } } });
  const screen = new THREE.Mesh(new THREE.PlaneGeometry(2, 2), material);
  screen.frustumCulled = false;
  return { target, screen, uniforms: material.uniforms };
}

function buildScene(planes, state) {
  const renderer = new THREE.WebGLRenderer({ canvas: byId("canvas"), antialias: false });
  const built = buildCloud(planes);
  const scene = new THREE.Scene();
  scene.add(built.cloud);
  const size = Math.hypot(...built.extent) || 1;
  const camera = new THREE.PerspectiveCamera(45, 1, size / 500, size * 20);
  camera.up.set(0, 0, 1);
  const controls = new THREE.OrbitControls(camera, renderer.domElement);
  controls.minDistance = size / 200;
  controls.maxDistance = size * 8;
  controls.zoomToCursor = true;
  return { ...built, renderer, scene, light: buildLight(), camera, controls, size, state, planes, picked: -1,
    budget: facts.shown, moving: false, last: 0, due: false };
}

function placeCamera(view, top) {
  const [x, y, z] = view.extent.map((length) => length / 2);
  const away = (1.25 * view.size) / Math.min(1, view.camera.aspect);
  const [turn, tilt] = top ? [0, Math.PI / 2 - 0.001] : [Math.PI / 6, Math.PI / 4.5];
  view.controls.target.set(x, y, z);
  view.camera.position.set(x + away * Math.cos(tilt) * Math.sin(turn),
    y - away * Math.cos(tilt) * Math.cos(turn), z + away * Math.sin(tilt));
  view.controls.update();
}

function fit(view) {
  const { clientWidth: width, clientHeight: height } = byId("scene");
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  view.renderer.setPixelRatio(ratio);
  view.renderer.setSize(width, height, false);
  view.light.target.setSize(Math.round(width * ratio), Math.round(height * ratio));
  view.light.uniforms.pixel.value.set(1 / width, 1 / height);
  view.camera.aspect = width / Math.max(height, 1);
  view.camera.updateProjectionMatrix();
  const half = Math.tan((view.camera.fov / 2) * Math.PI / 180);
  view.cloud.material.uniforms.pixels.value = (height * ratio) / (2 * half);
  draw(view);
}

function draw(view) {
  if (view.due) return;
  view.due = true;
  requestAnimationFrame((now) => {
    view.due = false;
    if (view.moving) adaptBudget(view, now - view.last);
    view.last = now;
    const count = view.moving ? view.budget : facts.shown;
    view.cloud.geometry.setDrawRange(0, count);
    const spread = Math.sqrt(facts.shown / count); // fewer points are drawn larger
    view.cloud.material.uniforms.diameter.value = view.diameter * view.state.size * spread;
    render(view);
    placeRing(view);
  });
}

function render(view) {
  const { renderer, light, camera } = view;
  light.uniforms.near.value = camera.near;
  light.uniforms.far.value = camera.far;
  light.uniforms.strength.value = view.state.shade ? SHADE : 0;
  renderer.setRenderTarget(light.target);
  renderer.render(view.scene, camera);
  renderer.setRenderTarget(null);
  renderer.render(light.screen, camera);
}

// Keep frames under a thirtieth of a second while the camera moves, by drawing fewer points.
function adaptBudget(view, milliseconds) {
  if (milliseconds > 500) return; // the first frame after a rest
  if (milliseconds > 33) view.budget = Math.max(SMALLEST_DRAW, Math.round(view.budget * 0.7));
  if (milliseconds < 20) view.budget = Math.round(view.budget * 1.1);
  view.budget = Math.min(view.budget, facts.shown);
}

function repaint(view) {
  const count = paint(view.planes, view.state, view.tint);
  view.cloud.geometry.attributes.tint.needsUpdate = true;
  byId("canvas").setAttribute("aria-label",
    `The points in 3-D, coloured by ${MODES[view.state.mode].toLowerCase()}; ${number(count)} seen`);
  draw(view);
}

// --- picking ------------------------------------------------------------------------------------

// Return pixel coordinates and depth of a function of point numbers, for the present camera.
function projector(view) {
  view.camera.updateMatrixWorld();
  view.cloud.updateMatrixWorld();
  const { clientWidth: width, clientHeight: height } = byId("scene");
  const matrix = view.camera.projectionMatrix.clone()
    .multiply(view.camera.matrixWorldInverse).multiply(view.cloud.matrixWorld).elements;
  const p = view.position;
  return (i, into) => {
    const x = p[3 * i], y = p[3 * i + 1], z = p[3 * i + 2];
    const w = matrix[3] * x + matrix[7] * y + matrix[11] * z + matrix[15];
    into[0] = (1 + (matrix[0] * x + matrix[4] * y + matrix[8] * z + matrix[12]) / w) * width / 2;
    into[1] = (1 - (matrix[1] * x + matrix[5] * y + matrix[9] * z + matrix[13]) / w) * height / 2;
    into[2] = w;
  };
}

// The nearest to the eye within 4 pixels; else the nearest on the screen within 16.
function pointAt(view, x, y) {
  const project = projector(view), at = [0, 0, 0];
  let front = -1, depth = Infinity, close = -1, distance = 16;
  for (let i = 0; i < facts.shown; i++) {
    if (view.tint[4 * i + 3] === 0) continue;
    project(i, at);
    if (at[2] <= 0) continue;
    const off = Math.hypot(at[0] - x, at[1] - y);
    if (off < 4 && at[2] < depth) { front = i; depth = at[2]; }
    if (off < distance) { close = i; distance = off; }
  }
  return front >= 0 ? front : close;
}

function pick(view, x, y) {
  view.picked = pointAt(view, x, y);
  showPicked(view);
  draw(view);
}

function pointFacts(planes, i) {
  const className = (value) => (value === NO_CLASS ? "none" : facts.classes[value]);
  const metres = ["x", "y", "z"].map((axis, c) =>
    (facts.origin[c] + facts.step[c] * planes[axis][i]).toFixed(3));
  const found = { "x, y, z": `${metres.join(", ")} m`,
    "red, green, blue": [planes.red[i], planes.green[i], planes.blue[i]].join(", ") };
  if (planes.label) found["ground truth"] = className(planes.label[i]);
  if (planes.predicted) found.prediction = className(planes.predicted[i]);
  if (planes.confidence) found.confidence = `${Math.round(planes.confidence[i] / 2.55)} %`;
  return found;
}

function showPicked(view) {
  const place = byId("picked");
  if (view.picked < 0) {
    place.replaceChildren(element("p", "No point there."));
    return;
  }
  place.replaceChildren(definitions(element("dl"), pointFacts(view.planes, view.picked)));
}

function placeRing(view) {
  const ring = byId("ring");
  ring.hidden = view.picked < 0 || view.tint[4 * view.picked + 3] === 0;
  if (ring.hidden) return;
  const at = [0, 0, 0];
  projector(view)(view.picked, at);
  ring.hidden = at[2] <= 0;
  ring.style.left = `${at[0]}px`;
  ring.style.top = `${at[1]}px`;
}

