// The page of a map: imagery from a PMTiles archive beside it, and what is to be told of it.
"use strict";
(() => {
const get = selector => document.querySelector(selector);
const data = JSON.parse(get("#data").textContent), links = JSON.parse(get("#links").textContent);
const HEADER = 127;                // bytes of a PMTiles header
const QUIET_MS = 1000;
const NARROW = 700;                // px: below it the card begins closed, and popups are sheets
let map;

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

const percent = share =>
  share === 0 ? "none" : share < 0.001 ? "< 0.1 %" : share > 0.999 && share < 1 ? "> 99.9 %"
    : `${Math.round(1000 * share) / 10} %`;
const day = moment => moment.slice(0, 10);

// -- Messages -------------------------------------------------------------------------------------

class Told extends Error {}        // with a sentence for the reader

function tell(text) {
  if ([...get("#notes").children].some(note => note.firstChild.textContent === text)) return;
  const note = element("p", {}, element("span", { textContent: text }),
    element("button", { type: "button", ariaLabel: "Close", textContent: "×", onclick: () => note.remove() }));
  get("#notes").append(note);
}

// -- Archives -------------------------------------------------------------------------------------

function nameOfFile(address) {
  const name = address.split("/").pop();
  try {
    return decodeURIComponent(name) || address;
  } catch {                        // no code of a character after a percent sign
    return name;
  }
}

async function bytes(address, start, length, missing = "") {
  const name = nameOfFile(address);
  const range = { Range: `bytes=${start}-${start + length - 1}` };
  const answer = await fetch(address, { headers: range }).catch(() => {
    throw new Told(`${name} cannot be fetched: the server does not answer. Is it running?`);
  });
  if (answer.status === 206) return answer.arrayBuffer();
  answer.body?.cancel();
  if (answer.status === 404)
    throw new Told(`${name} is not there: ${address} is not found (404).${missing}`);
  if (answer.ok) throw new Told(`${name} cannot be read in parts: this server sends files whole.\n`
    + "Show the map with make serve, or put it on a host that answers range requests.");
  throw new Told(`${name} cannot be fetched: the server answers ${answer.status} for ${address}.`);
}

// What the archive at an address tells of itself: see the specification of PMTiles, version 3.
// `missing` is what to do where there is none.
async function read(address, missing) {
  const head = new DataView(await bytes(address, 0, HEADER, missing));
  const magic = new TextDecoder().decode(head.buffer.slice(0, 7));
  if (head.byteLength < HEADER || magic !== "PMTiles" || head.getUint8(7) !== 3)
    throw new Told(`${address} is not a PMTiles archive of version 3.`);
  const long = at => Number(head.getBigUint64(at, true));
  const degrees = at => head.getInt32(at, true) / 1e7;
  let body = new Blob([await bytes(address, long(24), long(32))]).stream();
  if (head.getUint8(97) === 2) body = body.pipeThrough(new DecompressionStream("gzip"));
  const metadata = await new Response(body).json();
  return {
    metadata,
    source: {
      type: "raster",
      tiles: [`pmtiles://${address}/{z}/{x}/{y}`],
      tileSize: metadata.tile_size ?? 256,
      minzoom: head.getUint8(100),
      maxzoom: head.getUint8(101),
      bounds: [102, 106, 110, 114].map(degrees),
    },
  };
}

// -- What is drawn --------------------------------------------------------------------------------

const [red, green, blue] = data.ground.match(/[0-9a-f]{2}/gi).map(level => parseInt(level, 16));
const ink = 0.3 * red + 0.6 * green + 0.1 * blue > 140 ? "0, 0, 0" : "255, 255, 255";

// A square of 32 pixels that repeats, shown at half its size.
function pattern(draw) {
  const canvas = element("canvas", { width: 32, height: 32 }), context = canvas.getContext("2d");
  draw(context);
  return canvas;
}

const PATTERNS = {
  none: pattern(context => {       // lines
    context.strokeStyle = `rgba(${ink}, 0.17)`;
    context.lineWidth = 2;
    for (const x of [-32, 0, 32]) {
      context.moveTo(x - 4, 36);
      context.lineTo(x + 36, -4);
    }
    context.stroke();
  }),
  holes: pattern(context => {      // dots on another ground
    context.fillStyle = "#b8a78c";
    context.fillRect(0, 0, 32, 32);
    context.fillStyle = "#7d6a4b";
    for (const [x, y] of [[8, 8], [24, 24]]) {
      context.beginPath();
      context.arc(x, y, 3, 0, 7);
      context.fill();
    }
  }),
};

const geojson = geometry => ({ type: "geojson", data: geometry });
const fading = most => ["interpolate", ["linear"], ["zoom"], 5, most, 8, 0];   // it is coarse
const line = (id, source, colour, width, opacity) => ({ id, source, type: "line",
  paint: { "line-color": colour, "line-width": width, "line-opacity": opacity } });

// The ground of a map, below its imagery.
const GROUND = [
  { id: "ground", type: "background", paint: { "background-color": data.ground } },
  { id: "land", source: "land", type: "fill", paint: { "fill-color": `rgb(${ink})`, "fill-opacity": fading(0.1), "fill-antialias": false } },
];
const WORLD = [
  line("borders", "borders", `rgb(${ink})`, 0.8, fading(0.35)),
  line("coast", "coast", `rgb(${ink})`, 1, fading(0.6)),
];
const NONE = { id: "none", source: "outside", type: "fill", paint: { "fill-pattern": "none", "fill-antialias": false } };
const HOLES = { id: "holes", source: "coverage", type: "fill", paint: { "fill-pattern": "holes", "fill-opacity": 0 } };
const IMAGERY = { id: "imagery", source: "imagery", type: "raster" };
const FOOTPRINTS = [
  line("region", "region", "#ffffff", 1.5, 0.8),
  { id: "footprints", source: "tiles", type: "fill", paint: { "fill-opacity": 0 } },
  line("tiles", "tiles", "#ffffff", 1, 0.7),
  { ...line("picked", "tiles", "#ffd24a", 3, 1), filter: ["in", ["get", "id"], ["literal", []]] },
];

const SOURCES = Object.fromEntries(["land", "coast", "borders", "outside", "coverage", "region", "tiles"]
  .map(name => [name, geojson(data[name])]));

function stack() {
  const outside = data.opaque      // imagery that covers its surroundings is covered itself
    ? [IMAGERY, { ...NONE, id: "mask", paint: { "fill-color": data.ground } }, NONE, ...WORLD]
    : [NONE, ...WORLD, ...(data.holesShow ? [HOLES] : []), IMAGERY];
  const shade = data.hillshade ? [{ id: "hillshade", source: "hillshade", type: "hillshade",
    paint: { "hillshade-exaggeration": 0.35 } }] : [];
  const labels = data.labels ? [{ id: "labels", source: "labels", type: "raster" }] : [];
  return [...GROUND, ...outside, ...shade, ...FOOTPRINTS, ...labels];
}

function draw(about) {
  for (const [name, canvas] of Object.entries(PATTERNS))
    map.addImage(name, canvas.getContext("2d").getImageData(0, 0, 32, 32), { pixelRatio: 2 });
  for (const [name, source] of Object.entries(SOURCES)) map.addSource(name, source);
  if (about) map.addSource("imagery", about.source);
  if (data.hillshade) map.addSource("hillshade", { type: "raster-dem", encoding: "terrarium",
    tiles: [data.hillshade], tileSize: 256, maxzoom: 15 });
  if (data.labels) map.addSource("labels", { type: "raster", tiles: [data.labels], tileSize: 256 });
  for (const layer of stack()) if (layer.id !== "ground" && (about || layer !== IMAGERY)) map.addLayer(layer);
}

// -- The card -------------------------------------------------------------------------------------

function fillCard() {
  get("#card h1").textContent = data.title;
  get("#card summary span").textContent = data.quarter;
  get("#card").open = innerWidth >= NARROW;
  const [first, last] = data.updated ?? [];
  const facts = [
    ["Source", data.source],
    ["Recipe", data.recipe],
    ["Covered", `${percent(data.covered)} of the region`],
    ["No data", data.holes === null ? "not known" : `${percent(data.holes)} of its pixels`],
    ["Filled", data.filled && percent(data.filled)],
    ["Clouds", data.hidden && percent(data.hidden)],
    ["Updated", first && (day(first) === day(last) ? day(first) : `${day(first)} to ${day(last)}`)],
    ["Zooms", data.zooms.join(" to ")],
  ];
  for (const [name, value] of facts)
    if (value) get("#card dl").append(element("dt", { textContent: name }), element("dd", { textContent: value }));
  if (links.index) get("#card footer").append(element("a", { href: links.index, textContent: "All maps" }));
  get("#card footer").append("Click a tile, or press Enter in the map, for what it shows.");
}

function legend() {
  const rows = [
    ["Region", true, ["region"]],
    ["Tiles", false, ["tiles"]],
    ["No imagery here", true, ["none"], "none"],
    ["Hole in a tile", true, ["holes"], "holes"],
    ["Coasts and borders", true, ["land", "coast", "borders"]],
    ["Hillshade", true, ["hillshade"]],
    ["Labels", true, ["labels"]],
  ];
  for (const [name, shown, layers, swatch] of rows) {
    if (!map.getLayer(layers[0])) continue;
    const show = visible => {
      for (const id of layers) map.setLayoutProperty(id, "visibility", visible ? "visible" : "none");
    };
    const box = element("input", { type: "checkbox", id: `show-${layers[0]}`, checked: shown });
    box.addEventListener("change", () => show(box.checked));
    const row = element("label", {}, box, name);
    if (swatch) {
      const sample = element("span", { className: "swatch" });
      sample.style.background = `url(${PATTERNS[swatch].toDataURL()}) 0 0 / 16px var(--ground)`;
      sample.style.marginLeft = "auto";
      row.append(sample);
    }
    get("#card fieldset").append(row);
    if (!shown) show(false);
  }
}

// -- Tiles ----------------------------------------------------------------------------------------

const tiles = new Map(data.tiles.features.map(({ properties }) => [properties.id, properties]));
let place;                         // where the popup points

function about(tile) {
  const items = tile.items.filter(item => item.share !== 0).map(item => {
    const stated = [item.share > 0 && tile.items.length > 1 && percent(item.share),
      item.updated && `updated ${day(item.updated)}`].filter(Boolean);
    const name = links.items
      ? element("a", { href: links.items + encodeURIComponent(item.id), target: "_blank", rel: "noreferrer", textContent: item.id })
      : item.id;
    return element("li", {}, name, element("small", { textContent: stated.join(", ") }));
  });
  const facts = [data.quarter, tile.holes != null && `no data ${percent(tile.holes)}`,
    tile.filled > 0 && `filled ${percent(tile.filled)}`, tile.hidden > 0.0005 && `clouds ${percent(tile.hidden)}`];
  const made = element("section", {}, element("h2", { textContent: tile.id }), element("ul", {}, ...items),
    element("p", { textContent: facts.filter(Boolean).join(" · ") }));
  if (links.tiles) made.append(element("p", {}, element("a", { href: `${links.tiles}${tile.id}.tif`, textContent: "GeoTIFF of this tile" })));
  return made;
}

function follow() {
  const { x, y } = map.project(place), popup = get("#popup");
  popup.style.setProperty("--x", x);
  popup.style.setProperty("--y", y);
  popup.classList.toggle("above", y > innerHeight / 2);
}

function pick(lngLat, byKeyboard = false) {
  const found = map.queryRenderedFeatures(map.project(lngLat), { layers: ["footprints"] });
  const ids = [...new Set(found.map(feature => feature.properties.id))];
  map.setFilter("picked", ["in", ["get", "id"], ["literal", ids]]);
  const popup = get("#popup");
  popup.hidden = !ids.length;
  if (popup.hidden) return;
  popup.replaceChildren(
    element("button", { type: "button", ariaLabel: "Close", textContent: "×", onclick: close }),
    ...ids.map(id => about(tiles.get(id))));
  popup.scrollTop = 0;
  place = lngLat;
  follow();
  if (byKeyboard) popup.focus();
}

function close() {
  const focused = get("#popup").contains(document.activeElement);
  get("#popup").hidden = true;
  map.setFilter("picked", ["in", ["get", "id"], ["literal", []]]);
  if (focused) map.getCanvas().focus();
}

// Until imagery has come, all of a map would look like a hole. It has come when no more web tiles
// come: where the archive lacks one, MapLibre waits for it for ever.
function showHoles() {
  let timer;
  map.on("sourcedata", function come({ sourceId, tile }) {
    if (sourceId !== "imagery" || tile?.state !== "loaded") return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      map.off("sourcedata", come);
      map.setPaintProperty("holes", "fill-opacity", 1);
    }, QUIET_MS);
  });
}

function listen() {
  map.on("click", event => pick(event.lngLat));
  map.on("move", () => get("#popup").hidden || follow());
  map.getCanvas().addEventListener("keydown", event => {
    if (event.key === "Enter") pick(map.getCenter(), true);
  });
  addEventListener("keydown", event => event.key === "Escape" && !get("#popup").hidden && close());
}

// -- Two maps -------------------------------------------------------------------------------------

const nameOf = ({ metadata }) => [metadata.description ?? metadata.name, metadata.recipe].filter(Boolean).join(", ");

async function compare(address, mine) {
  const url = URL.canParse(address, location) && new URL(address, location);
  if (url.origin !== location.origin || url.protocol !== location.protocol)
    throw new Told(`It must be on the same site as this page: ${address} is not.`);
  const theirs = await read(url.href);
  const other = new map.constructor({
    container: "other", attributionControl: false, center: map.getCenter(), zoom: map.getZoom(), ...QUIET,
    style: { version: 8, sources: { land: SOURCES.land }, layers: GROUND },
  });
  other.on("load", () => {
    other.addSource("imagery", theirs.source);
    other.addLayer(IMAGERY);
    other.addSource("region", SOURCES.region);
    other.addLayer(FOOTPRINTS[0]);
  });
  other.on("error", report);
  other.on("click", event => pick(event.lngLat));
  const along = (from, to) => from.on("move", event =>
    event.together || to.jumpTo({ center: from.getCenter(), zoom: from.getZoom() }, { together: true }));
  along(map, other);
  along(other, map);
  get("#left").textContent = nameOf(mine);
  get("#right").textContent = nameOf(theirs);
  const credit = theirs.metadata.attribution ?? "";
  if (credit !== data.attribution) get("#right").append(element("small", { textContent: credit }));
  for (const id of ["left", "right", "divider"]) get(`#${id}`).hidden = false;
  get("main").classList.add("comparing");
  get("#card").open = false;
  divide();
}

function divide() {
  const divider = get("#divider");
  let split;
  const put = share => {
    split = Math.min(1, Math.max(0, share));
    get("main").style.setProperty("--split", split);
    divider.ariaValueNow = Math.round(100 * split);
  };
  put(0.5);
  divider.addEventListener("pointerdown", event => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", event =>
    divider.hasPointerCapture(event.pointerId) && put(event.clientX / innerWidth));
  divider.addEventListener("keydown", event => {
    const to = { ArrowLeft: split - 0.02, ArrowDown: split - 0.02, ArrowRight: split + 0.02, ArrowUp: split + 0.02,
      PageDown: split - 0.1, PageUp: split + 0.1, Home: 0, End: 1 }[event.key];
    if (to === undefined) return;
    put(to);
    event.preventDefault();
  });
}

// -- All of it ------------------------------------------------------------------------------------

const QUIET = { dragRotate: false, pitchWithRotate: false, touchPitch: false };
const escaped = text => element("p", { textContent: text }).innerHTML;
const besides = { hillshade: "The hillshade", labels: "Labels" };   // what is not the map's own
function report({ error, sourceId }) {
  if (error?.name === "AbortError") return;
  const name = besides[sourceId] ?? "A part of the map";
  if (name) tell(`${name} cannot be shown: ${error.message}`);
  if (sourceId in besides) besides[sourceId] = "";   // told once, not for each web tile
}

// The package gives no map, but calls its methods with what it is given once the map has loaded.
const opened = () => new Promise(resolve => pymaplibregl({
  mapOptions: { ...data.view, ...QUIET, hash: true, attributionControl: false,
    style: { version: 8, sources: {}, layers: [GROUND[0]] } },
  calls: [
    ["addControl", ["NavigationControl", { showCompass: false }, "top-right"]],
    ["addControl", ["ScaleControl", {}, "bottom-left"]],
    ["addControl", ["AttributionControl", { compact: false,
      customAttribution: [data.attribution, data.credit].filter(Boolean).map(escaped) }, "bottom-right"]],
    ["once", ["render", event => resolve(event.target)]],
    ["triggerRepaint", []],
  ],
}));

async function start() {
  fillCard();
  const local = location.protocol === "file:";
  if (local) tell("A page that is opened as a file cannot read its map.\n"
    + "Run make serve in the folder of basemake, and open the address that it prints.");
  const asked = new URLSearchParams(location.search).get("compare");
  const failed = about => error => {
    if (!(error instanceof Told)) console.error(error);
    tell(`${about} cannot be shown. ${error.message}`);
  };
  const here = local ? null
    : await read(new URL(links.archive, location).href,
      "\nKeep the page and its archive in their places, or make them again: run snakemake.")
      .catch(failed("The map"));
  const fit = data.view.fitBoundsOptions, gap = fit.padding, card = get("#card");
  if (card.open && !asked)         // beside the card, so that it covers nothing of the map
    fit.padding = { top: gap, right: gap, bottom: gap, left: card.getBoundingClientRect().right + gap };
  map = await opened().catch(() => null);
  if (!map) return tell("This browser cannot draw the map: it has no WebGL.");
  map.on("error", report);
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  draw(here);
  if (here && map.getLayer("holes")) showHoles();
  legend();
  listen();
  if (asked && here) await compare(asked, here).catch(failed("The map to compare with"));
}

start();
})();
