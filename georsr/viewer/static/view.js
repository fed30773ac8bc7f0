// The page of `georsr view`: a map in the pixels of the output. Places are [row, column] for
// Leaflet, and names of files are set as text, never as HTML.
"use strict";

const MAGNIFIED = 6; // zooms beyond that of the finest pixels: one of them on 64 of the screen
const UNITS = { metre: " m", degree: "\u00b0", pixel: " px" };
const element = (id) => document.getElementById(id);

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function say(text) {
  element("message").textContent = text;
}

function format(value) {
  if (value === null) return "no data";
  return String(Number.isInteger(value) ? value : Number(value.toPrecision(6)));
}

// The largest of 1, 2 or 5 times a power of ten that is at most `limit`.
function roundLength(limit) {
  const power = 10 ** Math.floor(Math.log10(limit));
  return power * [5, 2, 1].find((digit) => digit * power <= limit);
}

class Viewer {
  constructor(view) {
    this.view = view;
    this.rasters = view.rasters;
    this.unit = UNITS[view.unit] ?? ` ${view.unit}`;
    this.share = 0.5; // of the map's width, left of the line
    const finest = Math.max(...Object.values(this.rasters).map((raster) => raster.maxNativeZoom));
    this.map = L.map("map", {
      crs: L.Util.extend({}, L.CRS.Simple, { transformation: new L.Transformation(1, 0, 1, 0) }),
      minZoom: view.minZoom,
      maxZoom: finest + MAGNIFIED,
      attributionControl: false,
      maxBounds: L.latLngBounds([0, 0], [view.height, view.width]).pad(1),
    });
    this.extent = L.latLngBounds([0, 0], [view.height, view.width]);
    this.layers = {};
    for (const name of ["output", "source"]) if (name in this.rasters) this.add(name, name);
    this.map.createPane("quality").style.zIndex = 260;
    this.setUpNames();
    this.setUpLine();
    this.setUpQuality();
    this.setUpPointer();
    element("fit").onclick = () => this.fit();
    element("native").onclick = () => this.map.setZoom(0);
    this.map.on("move zoom resize", () => this.clip());
    this.map.on("zoomend moveend resize", () => this.update());
    this.fit();
  }

  // Adds the tiles of a raster to a pane of the map.
  add(name, pane) {
    const raster = this.rasters[name];
    const [left, top, right, bottom] = raster.bounds;
    if (!this.map.getPane(pane)) this.map.createPane(pane).style.zIndex = 250;
    const tiles = L.tileLayer(`tiles/${name}/{z}/{x}/{y}.png`, {
      pane,
      tileSize: this.view.tile,
      bounds: [[top, left], [bottom, right]],
      minZoom: raster.minZoom,
      maxZoom: this.map.options.maxZoom,
      maxNativeZoom: raster.maxNativeZoom,
    });
    tiles.on("tileerror", () => { this.problem = "A tile was not read: see the terminal of georsr view."; });
    tiles.on("loading load", () => this.update());
    this.layers[name] = tiles;
    tiles.addTo(this.map);
  }

  fit() {
    const whole = this.map.getBoundsZoom(this.extent);
    const zoom = Math.max(whole, this.rasters.output.minZoom);
    this.map.setView(this.extent.getCenter(), zoom, { animate: false });
  }

  mode() {
    return document.querySelector("input[name=mode]:checked").value;
  }

  setUpNames() {
    const { output, source } = this.rasters;
    document.title = `${output.file} - georsr view`;
    element("right").textContent = `output: ${output.file}`;
    element("right").title = output.size;
    const notes = ["output " + output.size];
    if (source) {
      element("left").textContent = `source: ${source.file}`;
      notes.push("source " + source.size);
    } else {
      document.querySelector("input[value=output]").checked = true;
    }
    const crs = this.view.georeferenced ? `CRS ${this.view.crs}` : "no georeferencing";
    notes.push(crs, this.view.copyright, this.view.note, "map by Leaflet");
    element("attribution").textContent = notes.filter(Boolean).join(" \u00b7 ");
  }

  setUpLine() {
    const line = element("line");
    element("modes").hidden = !("source" in this.rasters);
    for (const input of document.querySelectorAll("input[name=mode]"))
      input.onchange = () => this.clip();
    line.onpointerdown = (event) => line.setPointerCapture(event.pointerId);
    line.onpointermove = (event) => {
      if (!line.hasPointerCapture(event.pointerId)) return;
      const box = element("map").getBoundingClientRect();
      this.moveLine((event.clientX - box.left) / box.width);
    };
    line.onwheel = (event) => {
      event.preventDefault();
      element("map").dispatchEvent(new WheelEvent("wheel", event));
    };
    line.onkeydown = (event) => {
      const steps = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1 };
      if (event.key in steps) this.moveLine(this.share + steps[event.key]);
      else if (event.key === "Home" || event.key === "End") this.moveLine(event.key === "End" ? 1 : 0);
      else return;
      event.preventDefault();
    };
  }

  moveLine(share) {
    this.share = Math.min(1, Math.max(0, share));
    this.clip();
  }

  // Cuts the source off right of the line, the output and its quality layer left of it.
  clip() {
    const mode = this.mode();
    const share = { swipe: this.share, source: 1, output: 0 }[mode];
    const size = this.map.getSize();
    const { x: left, y: top } = this.map.containerPointToLayerPoint([0, 0]);
    const [right, bottom, cut] = [left + size.x, top + size.y, left + size.x * share];
    const box = (a, b) => `polygon(${a}px ${top}px, ${b}px ${top}px, ${b}px ${bottom}px, ${a}px ${bottom}px)`;
    for (const [pane, shape] of [["source", box(left, cut)], ["output", box(cut, right)], ["quality", box(cut, right)]])
      if (this.map.getPane(pane)) this.map.getPane(pane).style.clipPath = shape;
    const line = element("line");
    line.hidden = mode !== "swipe";
    line.style.left = `${100 * share}%`;
    line.setAttribute("aria-valuenow", Math.round(100 * share));
    element("left").hidden = share === 0 || !("source" in this.rasters);
    element("right").hidden = share === 1;
  }

  setUpQuality() {
    const select = element("layer");
    for (const [name, raster] of Object.entries(this.rasters)) {
      if (name === "output" || name === "source") continue;
      select.add(new Option(raster.bands[0], name));
      element("overlay").hidden = false;
    }
    select.onchange = () => this.showQuality(select.value);
    element("opacity").oninput = () => this.setOpacity();
  }

  async showQuality(name) {
    if (this.quality) this.layers[this.quality].remove();
    this.quality = name;
    element("legend").hidden = !name;
    if (!name) return this.update();
    this.add(name, "quality");
    this.setOpacity();
    const raster = this.rasters[name];
    const maximum = await fetchJson(`maximum/${name}`);
    const [title, canvas, labels] = element("legend").children;
    title.textContent = raster.bands[0] + (raster.meaning ? `: ${raster.meaning}` : "");
    labels.lastChild.textContent = `${Number(maximum.toPrecision(3))} ${raster.unit} and more`;
    const context = canvas.getContext("2d");
    const gradient = context.createLinearGradient(0, 0, canvas.width, 0);
    const { ramp } = this.view;
    ramp.forEach((colour, i) => gradient.addColorStop(i / (ramp.length - 1), colour));
    context.fillStyle = gradient;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }

  setOpacity() {
    if (this.quality) this.layers[this.quality].setOpacity(element("opacity").value / 100);
  }

  // Asks for the values under the pointer; of places passed while an answer is awaited, the last.
  setUpPointer() {
    let next = null, waiting = false;
    const ask = async () => {
      waiting = true;
      while (next) {
        const [column, row, place] = next;
        next = null;
        try {
          this.showValues(place, await fetchJson(`values/${column}/${row}`));
        } catch (error) {
          say("The server does not answer: is georsr view still running?");
        }
      }
      waiting = false;
    };
    this.map.on("mousemove", ({ latlng }) => {
      next = [Math.floor(latlng.lng), Math.floor(latlng.lat), latlng];
      if (!waiting) ask();
    });
  }

  showValues(place, values) {
    const { transform: [a, b, c, d, e, f], georeferenced } = this.view;
    const digits = Math.max(0, 1 - Math.floor(Math.log10(Math.hypot(a, d))));
    const x = a * place.lng + b * place.lat + c, y = d * place.lng + e * place.lat + f;
    const parts = [`column ${Math.floor(place.lng)}, row ${Math.floor(place.lat)}`];
    if (georeferenced) parts.push(`x ${x.toFixed(digits)}, y ${y.toFixed(digits)}${this.unit}`);
    for (const [name, found] of Object.entries(values)) {
      const raster = this.rasters[name];
      if (name === "source" || name === "output") parts.push(`${name} ${found.map(format).join(", ")}`);
      else if (name === this.quality) parts.push(`${raster.bands[0]} ${found.map(format)} ${raster.unit}`);
    }
    element("place").textContent = parts.join("   ");
  }

  // Shows the zoom, the scale bar, whether tiles are awaited, and which rasters have none here.
  update() {
    this.clip();
    const zoom = this.map.getZoom(), { transform, unit } = this.view;
    element("zoom").textContent = `${Number((100 * 2 ** zoom).toPrecision(3))} %`;
    const size = Math.hypot(transform[0], transform[3]) / 2 ** zoom; // of a screen pixel
    const length = roundLength(140 * size);
    const bar = element("scale").firstElementChild;
    bar.style.width = `${length / size}px`;
    const kilometres = unit === "metre" && length >= 1000;
    bar.textContent = kilometres ? `${length / 1000} km` : Number(length.toPrecision(1)) + this.unit;
    const added = Object.keys(this.layers).filter((name) => this.map.hasLayer(this.layers[name]));
    const hidden = added.filter((name) => zoom < this.rasters[name].minZoom);
    element("loading").hidden = !added.some(
      (name) => !hidden.includes(name) && this.layers[name].isLoading());
    const files = [...new Set(hidden.map((name) => this.rasters[name].file))].join(" and ");
    say(this.problem || files && `${files}: zoom in to see it; it has no overviews (gdaladdo -ro adds them).`);
  }
}

fetchJson("view.json")
  .then((view) => { window.viewer = new Viewer(view); })
  .catch((error) => say(`The view was not loaded: ${error.message}`));
