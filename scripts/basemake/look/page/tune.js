// The page of `make tune`: a recipe's steps as sliders, and the pictures in its colours.
import { Painter } from "./paint.js";

const BANDS = ["red", "green", "blue"];
const INKS = ["#8a2c26", "#20683a", "#203c86"];   // where all overlap they add up to grey
const GROUND = [0x3b, 0x3d, 0x40].map(level => level / 255);
const THUMB = 168;        // pixels of the longer side of a small picture
const LATER = 120;        // ms after the last change at which figures and small pictures follow
const MOST_ZOOM = 32;
const get = selector => document.querySelector(selector);

const canvas = get("#picture"), swipe = get("#swipe"), stage = get("#stage");
const view = { zoom: 1, left: 0, top: 0, share: 0.5 };   // in pixels of the screen; share of swipe
let state, painter, pictures = [], current = 0;
let steps = [], before = [], looks = {};                 // recipes after and before, and their looks
let history = [], kept = "[]", saved = "[]";             // recipes as JSON: undone, now, saved
let picking = null;                                      // what a click on the picture is for

// -- Asking the server ----------------------------------------------------------------------------

class Told extends Error {}  // with a sentence for the user

async function ask(what, body) {
  const options = body && { method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" } };
  const answer = await fetch(what, options).catch(() => {
    throw new Told("make tune has ended: start it again.");
  });
  if (!answer.ok) throw new Told(await answer.text());
  return answer.headers.get("Content-Type").includes("json") ? answer.json() : answer.arrayBuffer();
}

function say(text, bad = false, cause = "") {
  get("#said").textContent = text;
  get("#said").dataset.cause = cause;
  get("#said").classList.toggle("bad", bad);
}

// Run what may fail because of what the user did, or because the server has ended, and say why.
const trying = (work, cause) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    if (!(error instanceof Told)) console.error(error);
    say(error.message, true, cause);
  }
};

// -- Following the recipe -------------------------------------------------------------------------

const lookOf = (steps, old) =>
  painter.look(steps, groups => ask("tables", { steps, groups }), old);

let asking = false, again = false, timer = 0;

// The newest recipe is asked for whenever an answer came: never more than one is on its way.
const follow = trying(async () => {
  again = true;
  if (asking) return;
  asking = true;
  try {
    while (again) {
      again = false;
      looks.after = await lookOf(structuredClone(steps), looks.after);
      if (get("#said").dataset.cause === "recipe") say("");  // it is allowed again
      paint("after");
    }
  } finally {
    asking = false;
    if (again) follow();  // what was refused is the recipe no more
  }
}, "recipe");

const followBefore = trying(async () => {
  looks.before = await lookOf(before, looks.before);
  paint("before");
});

function paint(which) {
  const picture = pictures[current];
  if (!looks.after || !looks.before || !picture?.texture) return;
  painter.paint(painter[which] ??= painter.target(), picture, looks[which]);
  if (!painter.before || !painter.after) return paint(which === "after" ? "before" : "after");
  draw();
  clearTimeout(timer);
  timer = setTimeout(() => { drawFigures(); drawThumbs(); }, LATER);
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const ratio = devicePixelRatio;
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    if (!painter?.after || !painter.before) return;
    painter.show(painter.before, painter.after, { ...view, split: view.share * width }, GROUND);
    swipe.style.left = `${100 * view.share}%`;
    swipe.setAttribute("aria-valuenow", Math.round(100 * view.share));
    const metres = pictures[current].pixel / view.zoom;
    get("#zoom").textContent = `${(100 * view.zoom).toFixed(0)} %`;
    get("#zoom").title = `${metres.toPrecision(2)} m of the ground to a pixel of the screen`;
  });
}

// -- Figures and small pictures -------------------------------------------------------------------

function share(part, all) {
  const percent = 100 * part / Math.max(1, all);
  return percent > 0 && percent < 0.05 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
}

function drawFigures() {
  const levels = painter.levels(painter.after);
  const counts = BANDS.map(() => new Uint32Array(256));
  let all = 0, shadows = 0, highlights = 0;
  for (let i = 0; i < levels.length; i += 4) {
    if (!levels[i + 3]) continue;
    const r = levels[i], g = levels[i + 1], b = levels[i + 2];
    all++;
    counts[0][r]++; counts[1][g]++; counts[2][b]++;
    if (!r || !g || !b) shadows++;
    if (r === 255 || g === 255 || b === 255) highlights++;
  }
  const [dark, light] = document.querySelectorAll("figcaption b");
  dark.textContent = share(shadows, all);
  light.textContent = share(highlights, all);
  const plot = get("#figures canvas"), pen = plot.getContext("2d"), { width, height } = plot;
  const most = Math.sqrt(Math.max(1, ...counts.map(band => Math.max(...band.subarray(1, 255)))));
  pen.clearRect(0, 0, width, height);
  pen.globalCompositeOperation = "lighter";
  counts.forEach((band, number) => {
    pen.beginPath();
    pen.moveTo(0, height);
    band.forEach((count, level) =>
      pen.lineTo(level / 255 * width, height * (1 - Math.min(1, Math.sqrt(count) / most) * 0.98)));
    pen.lineTo(width, height);
    pen.fillStyle = INKS[number];
    pen.fill();
  });
}

function drawThumbs() {
  for (const picture of pictures.filter(picture => picture.texture)) {
    const scale = THUMB / Math.max(picture.width, picture.height);
    const [width, height] = [picture.width, picture.height].map(
      side => Math.max(1, Math.min(side, Math.round(side * scale))));
    const levels = painter.reduced(picture, looks.after, width, height);
    Object.assign(picture.thumb, { width, height });
    picture.thumb.getContext("2d").putImageData(new ImageData(levels, width, height), 0, 0);
  }
}

// -- The view -------------------------------------------------------------------------------------

function fit() {
  const { width, height } = pictures[current], ratio = devicePixelRatio;
  const across = canvas.clientWidth * ratio, down = canvas.clientHeight * ratio;
  const zoom = Math.min(across / width, down / height) * 0.96;
  place(zoom > 2 ? Math.floor(zoom) : zoom);  // whole pixels, where they can be seen
}

// Show the middle of the picture at a zoom.
function place(zoom) {
  const { width, height } = pictures[current], ratio = devicePixelRatio;
  view.zoom = zoom;
  view.left = Math.round((canvas.clientWidth * ratio - width * zoom) / 2);
  view.top = Math.round((canvas.clientHeight * ratio - height * zoom) / 2);
  draw();
}

// Zoom by a factor about a point of the screen.
function zoomBy(factor, x, y) {
  const zoom = Math.min(MOST_ZOOM, Math.max(0.05, view.zoom * factor));
  view.left = x - (x - view.left) * zoom / view.zoom;
  view.top = y - (y - view.top) * zoom / view.zoom;
  view.zoom = zoom;
  draw();
}

const onScreen = event => {
  const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio;
  return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
};
const inPicture = event => {
  const [x, y] = onScreen(event);
  return [Math.floor((x - view.left) / view.zoom), Math.floor((y - view.top) / view.zoom)];
};

function select(number) {
  current = number;
  document.querySelectorAll("#strip li button").forEach((button, at) =>
    button.setAttribute("aria-current", at === number));
  if (!pictures[number].texture) return;
  paint("before");
  paint("after");
  fit();
}

const fingers = new Map();
canvas.addEventListener("pointerdown", event => {
  if (picking) return pick(event);
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, onScreen(event));
});
canvas.addEventListener("pointermove", event => {
  const was = fingers.get(event.pointerId);
  if (!was) return;
  const now = onScreen(event), other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const length = point => Math.hypot(point[0] - other[0], point[1] - other[1]);
    zoomBy(length(now) / Math.max(1, length(was)), ...other);
  } else {
    view.left += now[0] - was[0];
    view.top += now[1] - was[1];
    draw();
  }
  fingers.set(event.pointerId, now);
});
for (const end of ["pointerup", "pointercancel"])
  canvas.addEventListener(end, event => fingers.delete(event.pointerId));
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...onScreen(event));
}, { passive: false });
canvas.addEventListener("dblclick", event => {
  if (pictures[current].map) addPlace({ picture: current, at: inPicture(event) });
});

swipe.addEventListener("pointerdown", event => swipe.setPointerCapture(event.pointerId));
swipe.addEventListener("pointermove", event => {
  if (swipe.hasPointerCapture(event.pointerId)) swipeTo(onScreen(event)[0] / canvas.width);
});
swipe.addEventListener("keydown", event => {
  const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
  if (step) { swipeTo(view.share + step); event.preventDefault(); }
});
function swipeTo(share) {
  view.share = Math.min(1, Math.max(0, share));
  draw();
}

addEventListener("keydown", event => {
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") { undo(); return event.preventDefault(); }
  if (event.key === "Escape") return stopPicking();
  if (/^(INPUT|SELECT)$/.test(event.target.tagName) || event.ctrlKey || event.metaKey) return;
  if (key === "f") fit();
  if (key === "1") place(1);
  if (key === "b" && !event.repeat) { shared = view.share; swipeTo(1); }
});
let shared = 0.5;  // where the swipe was before B was held
addEventListener("keyup", event => { if (event.key.toLowerCase() === "b") swipeTo(shared); });
get("#fit").onclick = fit;
get("#actual").onclick = () => place(1);
new ResizeObserver(draw).observe(stage);

// -- Pictures -------------------------------------------------------------------------------------

function addPicture(described) {
  const item = document.createElement("li"), button = document.createElement("button");
  const thumb = document.createElement("canvas"), title = document.createElement("span");
  const picture = { ...described, thumb }, number = pictures.push(picture) - 1;
  const [lon, lat] = described.place.map(degrees => degrees.toFixed(3));
  button.type = "button";
  button.title = `${described.title}: ${lon}, ${lat}; ${described.pixel.toFixed(0)} m a pixel`;
  button.onclick = () => select(number);
  title.textContent = described.title === "place" ? `${lon}, ${lat}` : described.title;
  thumb.width = THUMB; thumb.height = THUMB * 0.75;
  button.append(thumb, title);
  item.append(button);
  get("#strip ol").append(item);
  return number;
}

async function load(number) {
  const picture = pictures[number];
  const numbers = new Uint16Array(await ask(`pictures/${number}`));
  Object.assign(picture, painter.picture(picture.width, picture.height, numbers));
  if (number === current) select(number);
}

const addPlace = trying(async asked => {
  const number = addPicture(await ask("place", asked));
  if (get("#said").classList.contains("bad")) say("");  // what was wrong with another place
  current = number;
  await load(number);
});
get("#strip form").onsubmit = event => {
  event.preventDefault();
  const place = new FormData(event.target).get("place").split(/[,\s]+/).filter(Boolean).map(Number);
  if (place.length !== 2 || !place.every(Number.isFinite))
    return say("A place is longitude and latitude in degrees, such as 8.2, 46.5.", true);
  addPlace({ place });
  event.target.reset();
};

// -- The steps ------------------------------------------------------------------------------------

const words = name => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ")
  .replace("Lch", "LCH").replace("Srgb", "sRGB");
const tidy = value => Number(value.toPrecision(4));

// Keep the recipe as it was before, for undoing, and show what changed.
function changed() {
  const now = JSON.stringify(steps);
  if (now !== kept) history.push(kept);
  kept = now;
  get("#undo").disabled = !history.length;
  get("#after").textContent = `after: ${get("#recipes").value}${now === saved ? "" : ", changed"}`;
}

function undo() {
  if (!history.length) return;
  kept = history.pop();
  steps = JSON.parse(kept);
  showSteps();
  changed();
  follow();
}
get("#undo").onclick = undo;

function edit(work) {
  work();
  showSteps();
  changed();
  follow();
}

function numberRow(step, name, bounds) {
  const row = document.createElement("label"), slider = document.createElement("input");
  const field = document.createElement("input"), [low, start, high] = bounds.slider;
  row.className = "number";
  slider.type = "range";
  Object.assign(slider, { min: low, max: high, step: (high - low) / 1000, value: step[name] });
  field.type = "number";
  Object.assign(field, { step: "any", value: step[name] });
  slider.setAttribute("aria-label", `${words(step.step)}: ${name}`);
  field.setAttribute("aria-label", `${words(step.step)}: ${name}, as a number`);
  slider.oninput = () => {
    step[name] = field.value = tidy(Number(slider.value));
    follow();
  };
  slider.ondblclick = () => edit(() => { step[name] = start; });
  field.oninput = () => {
    if (field.value === "") return;
    step[name] = Number(field.value);
    slider.value = field.value;
    follow();
  };
  slider.onchange = field.onchange = changed;
  row.append(name, slider, field);
  return row;
}

function bandButtons(step) {
  const group = document.createElement("span");
  group.className = "bands";
  for (const band of BANDS) {
    const on = (step.bands ?? BANDS).includes(band), button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: band[0].toUpperCase(), title: band });
    button.dataset.band = band;
    button.setAttribute("aria-pressed", on);
    button.onclick = () => edit(() => {
      const bands = BANDS.filter(other => (step.bands ?? BANDS).includes(other) !== (other === band));
      if (bands.length === BANDS.length) delete step.bands;
      else if (bands.length) step.bands = bands;
    });
    group.append(button);
  }
  return group;
}

// What a step can take from the picture: a button's words, what it does, and its numbers by what
// the server measured of what enters the step.
const of = (step, values) => BANDS.map((band, at) => [band, values[at]])
  .filter(([band]) => (step.bands ?? BANDS).includes(band)).map(([, value]) => value);
const TAKEN = {
  levels: ["From this picture", "black and white at 0.5 % and 99.5 % of the pixels", (step, found) => {
    step.black = tidy(Math.min(...of(step, found.low)));
    step.white = tidy(Math.max(...of(step, found.high)));
  }],
  haze: ["From this picture", "what the darkest 0.5 % of the pixels have", (step, found) => {
    step.amount = tidy(Math.min(...of(step, found.low)));
  }],
  white_balance: ["Pick a grey", "click what should be grey", (step, found) => {
    const grey = found.mean.reduce((sum, value) => sum + value) / 3;
    if (!found.mean.every(value => value > 0)) throw new Told("That place is black: pick another.");
    BANDS.forEach((band, at) => { step[band] = tidy(grey / found.mean[at]); });
  }],
};

function takeButton(step, at) {
  const [text, title, take] = TAKEN[step.step], button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: text, title });
  const measure = trying(async (point = null) => {
    const asked = { steps: steps.slice(0, at), picture: current, at: point };
    const found = await ask("measure", asked);
    edit(() => take(step, found));
  });
  button.onclick = () => {
    if (step.step !== "white_balance") return measure();
    picking = measure;
    canvas.classList.add("picking");
    get("#hint").textContent = "Click what should be grey: a roof, a road, a cloud (Esc: stop)";
    get("#hint").hidden = false;
  };
  return button;
}

function pick(event) {
  const measure = picking;
  stopPicking();
  measure(inPicture(event));
}

function stopPicking() {
  picking = null;
  canvas.classList.remove("picking");
  get("#hint").hidden = true;
}

function showSteps() {
  get("#steps").replaceChildren(...steps.map((step, at) => {
    const item = get("#step").content.cloneNode(true).firstElementChild, known = state.steps[step.step];
    item.querySelector("h2").textContent = words(step.step);
    item.querySelector("p").textContent = known.description;
    for (const [name, bounds] of Object.entries(known.parameters))
      item.querySelector(".numbers").append(numberRow(step, name, bounds));
    if (known.bands) item.querySelector(".tools").append(bandButtons(step));
    if (TAKEN[step.step]) item.querySelector(".tools").append(takeButton(step, at));
    for (const button of item.querySelectorAll(".move button")) {
      const doing = button.dataset.do, to = at + { up: -1, down: 1, remove: 0 }[doing];
      button.setAttribute("aria-label", `${button.title}: ${words(step.step)}`);
      button.disabled = doing === "remove" ? steps.length === 1 : to < 0 || to >= steps.length;
      button.onclick = () => edit(() => {
        const [taken] = steps.splice(at, 1);
        if (doing !== "remove") steps.splice(to, 0, taken);
      });
    }
    return item;
  }));
}

get("#add").onchange = event => edit(() => {
  const name = event.target.value, step = { step: name };
  for (const [key, bounds] of Object.entries(state.steps[name].parameters)) step[key] = bounds.slider[1];
  steps.push(step);
  event.target.value = "";
});

// -- Recipes --------------------------------------------------------------------------------------

function showRecipes(chosen) {
  for (const list of [get("#recipes"), get("#before select")]) {
    const value = list.value;
    list.replaceChildren(...state.recipes.map(recipe => new Option(recipe.name)));
    list.value = list.id === "recipes" || !value ? chosen : value;
  }
}

function start(name) {
  const recipe = state.recipes.find(recipe => recipe.name === name);
  steps = structuredClone(recipe.steps);
  saved = JSON.stringify(steps);
  get("#about").textContent = recipe.description;
  get("#save").elements.description.value = recipe.description;
  showSteps();
  changed();
  return follow();
}
get("#recipes").onchange = event => start(event.target.value);
get("#before select").onchange = event => {
  before = state.recipes.find(recipe => recipe.name === event.target.value).steps;
  followBefore();
};

get("#save").onsubmit = trying(async event => {
  event.preventDefault();
  const { name, description } = Object.fromEntries(new FormData(event.target));
  const { said, recipes } = await ask("save", { name, description, steps });
  state.recipes = recipes;
  showRecipes(name);
  saved = JSON.stringify(steps);
  get("#about").textContent = description;
  changed();
  say(said);
});
addEventListener("beforeunload", event => {
  if (JSON.stringify(steps) !== saved) event.preventDefault();
});

// -- Beginning ------------------------------------------------------------------------------------

trying(async () => {
  state = await ask("state");
  document.title = `Tune ${state.title}`;
  get("h1").textContent = state.title;
  get("footer").textContent = `${state.credit}. Double-click the map to add a place; double-click a`
    + " slider to put it back; hold B to see what was before.";
  painter = new Painter(canvas, state);
  for (const name of Object.keys(state.steps))
    get("#add").append(new Option(`${words(name)}: ${state.steps[name].description}`, name));
  showRecipes(state.used);
  before = state.recipes.find(recipe => recipe.name === state.used).steps;
  state.pictures.forEach(addPicture);
  kept = JSON.stringify(before);
  await Promise.all([start(state.used), followBefore()]);
  await load(0);
  get("#hint").hidden = true;
  for (let number = 1; number < pictures.length; number++) await load(number);
  drawThumbs();
  document.body.dataset.ready = "";
})();
