"use strict";
const { metrics, datasets, classes } = JSON.parse(document.getElementById("data").textContent);
const METHODS = [...new Set(datasets.flatMap(set => set.methods.map(method => method.name)))];
const byId = id => document.getElementById(id);

// Makes an element. Text is added as text, so that no file name is read as markup.
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect", "circle", "title", "g"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) element.setAttribute(name, value);
  element.append(...children.filter(child => child != null));
  return element;
}

const colour = method => `var(--m${METHODS.indexOf(method) % 8})`;
const dash = method => (METHODS.indexOf(method) < 8 ? null : "5 3");
const shown = value => (value == null ? "–" : value < 100 ? value.toFixed(3) : value.toFixed(0));
// The metrics of the chosen class; without a choice, those of whole images.
const shownKeys = () => Object.keys(metrics).filter(key => String(metrics[key].owner ?? "") === controls.shown.value);
const arrow = key => (metrics[key].higher ? "↑" : "↓");

function methodKey(tag, method, ...more) {
  const swatch = make("i", { style: `background: ${colour(method)}` });
  return make(tag, {}, make("span", { class: "key" }, swatch, method), ...more);
}

// Entry i of each curve belongs to the threshold "map >= 255 - i".
const CURVES = [
  { title: "Precision over recall", x: "recall", range: 1, needs: ["precision", "recall"],
    points: curves => curves.recall.map((recall, i) => [recall, curves.precision[i]]) },
  { title: "F-measure", note: "beta² 0.3", x: "threshold", range: 255, needs: ["F"],
    points: curves => curves.F.map((value, i) => [255 - i, value]) },
  { title: "E-measure", x: "threshold", range: 255, needs: ["E"],
    points: curves => curves.E.map((value, i) => [255 - i, value]) },
  { title: "Reliability", note: "share of foreground over the stored map; a calibrated model is on the diagonal",
    x: "probability", range: 1, needs: ["level_pixels", "level_foreground"], diagonal: true,
    points: curves => bins(curves).map(bin => [bin.probability, bin.share]),
    rest: curves => `ECE ${calibrationError(curves).toFixed(4)}` },
];

// The pixels of a map in 15 bins of its levels. Empty bins are left out.
function bins(curves) {
  const sums = Array.from({ length: 15 }, () => ({ pixels: 0, levels: 0, foreground: 0 }));
  curves.level_pixels.forEach((pixels, level) => {
    const bin = sums[Math.min(14, Math.floor((level / 255) * 15))];
    bin.pixels += pixels;
    bin.levels += (pixels * level) / 255;
    bin.foreground += curves.level_foreground[level];
  });
  return sums.filter(bin => bin.pixels)
    .map(bin => ({ ...bin, probability: bin.levels / bin.pixels, share: bin.foreground / bin.pixels }));
}

function calibrationError(curves) {
  const all = bins(curves);
  const gaps = all.reduce((sum, bin) => sum + Math.abs(bin.foreground - bin.levels), 0);
  return gaps / all.reduce((sum, bin) => sum + bin.pixels, 0);
}

function curveFigure(kind, methods) {
  const [width, height, left, bottom] = [400, 290, 30, 34];
  const x = value => left + (value / kind.range) * (width - left - 8);
  const y = value => height - bottom - value * (height - bottom - 8);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${kind.title} curves` });
  for (let step = 0; step <= 5; step++) {
    const [share, at] = [step / 5, (kind.range * step) / 5];
    const label = kind.range === 1 ? at.toFixed(1) : at;
    svg.append(
      make("line", { class: "grid", x1: x(0), x2: x(kind.range), y1: y(share), y2: y(share) }),
      make("line", { class: "grid", x1: x(at), x2: x(at), y1: y(0), y2: y(1) }),
      make("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, share.toFixed(1)),
      make("text", { x: x(at), y: height - bottom + 15, "text-anchor": "middle" }, label),
    );
  }
  if (kind.diagonal) svg.append(make("line", { class: "grid", x1: x(0), x2: x(1), y1: y(0), y2: y(1) }));
  svg.append(make("text", { x: x(kind.range), y: height - 4, "text-anchor": "end" }, kind.x));
  const list = make("ul", { class: "methods readout" });
  const lines = methods.map(method => {
    const points = kind.points(method.curves).filter(([a, b]) => a != null && b != null);
    const path = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
    const dot = make("circle", { r: 3.5, fill: colour(method.name), visibility: "hidden" });
    const paint = { stroke: colour(method.name), "stroke-dasharray": dash(method.name) };
    svg.append(make("path", { class: "line", d: path, ...paint }), dot);
    const readout = make("output");
    list.append(methodKey("li", method.name, readout));
    const peak = points.reduce((best, point) => (point[1] > best[1] ? point : best), [0, -1]);
    const best = kind.range === 1 || !points.length ? "" : `best ${shown(peak[1])} at ${peak[0]}`;
    const rest = kind.rest ? kind.rest(method.curves) : best;
    return { points, dot, readout, rest };
  });
  const rest = () => lines.forEach(line => {
    line.dot.setAttribute("visibility", "hidden");
    line.readout.value = line.rest;
  });
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const at = (((event.clientX - box.left) / box.width) * width - left) / (width - left - 8) * kind.range;
    for (const { points, dot, readout } of lines.filter(line => line.points.length)) {
      const [a, b] = points.reduce((near, point) => (Math.abs(point[0] - at) < Math.abs(near[0] - at) ? point : near));
      dot.setAttribute("cx", x(a));
      dot.setAttribute("cy", y(b));
      dot.setAttribute("visibility", "visible");
      readout.value = `${shown(b)} at ${kind.range === 1 ? `${kind.x} ${shown(a)}` : a}`;
    }
  });
  svg.addEventListener("pointerleave", rest);
  rest();
  const caption = make("figcaption", {}, kind.title, kind.note && make("span", {}, ` ${kind.note}`));
  return make("figure", {}, caption, svg, list);
}

function drawCurves() {
  for (const set of datasets) {
    const having = names => set.methods.filter(method => names.every(name => method.curves[name]));
    const figures = CURVES.map(kind => [kind, having(kind.needs)])
      .filter(([, methods]) => methods.length)
      .map(([kind, methods]) => curveFigure(kind, methods));
    if (figures.length) byId("curves").append(make("h3", {}, set.name), make("div", { class: "charts" }, ...figures));
  }
  byId("curves").hidden = !byId("curves").querySelector("figure");
}

const BINS = 25; // as in page.py

// Shows a text beside the pointer, inside the window.
function showTooltip(event, text) {
  const tooltip = byId("tooltip");
  tooltip.textContent = text;
  tooltip.hidden = false;
  const [x, y] = [event.clientX + 12, event.clientY + 16];
  tooltip.style.left = `${Math.max(4, Math.min(x, innerWidth - tooltip.offsetWidth - 8))}px`;
  tooltip.style.top = `${Math.min(y, innerHeight - tooltip.offsetHeight - 8)}px`;
}

function hideTooltip() {
  byId("tooltip").hidden = true;
}

// `distribution` has the numbers of all images, also of those that are not in the gallery.
function histogramFigure(key, methods, distribution) {
  const [width, height, bottom] = [220, 100, 16];
  const { top, methods: series } = distribution;
  const x = value => (value / top) * width;
  const shares = series.map(({ counts, defined }) => counts.map(n => n / Math.max(1, defined)));
  const highest = shares.flat().reduce((a, b) => Math.max(a, b), 1e-9);
  const y = share => height - bottom - (share / highest) * (height - bottom - 4);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `distribution of ${key}` });
  svg.append(make("line", { class: "grid", x1: 0, x2: width, y1: y(0), y2: y(0) }));
  methods.forEach((method, m) => {
    const right = bin => (((bin + 1) * width) / BINS).toFixed(1);
    const steps = shares[m].map((share, bin) => `V${y(share).toFixed(1)}H${right(bin)}`).join("");
    const paint = { stroke: colour(method.name), fill: colour(method.name), "stroke-dasharray": dash(method.name) };
    svg.append(make("path", { class: "area", d: `M0 ${y(0)}${steps}V${y(0)}Z`, ...paint }));
    if (!series[m].defined) return;
    const mean = x(series[m].mean);
    svg.append(make("line", { class: "mean", x1: mean, x2: mean, y1: 0, y2: y(0), stroke: paint.stroke }));
  });
  for (let bin = 0; bin < BINS; bin++) {
    const place = { x: (bin * width) / BINS, width: width / BINS, y: 0, height: height - bottom };
    const range = `${metrics[key].title} ${shown((bin * top) / BINS)} to ${shown(((bin + 1) * top) / BINS)}`;
    const lines = methods.map((method, m) =>
      `${method.name}: ${series[m].counts[bin]} of ${series[m].defined} images (${(100 * shares[m][bin]).toFixed(1)} %)`);
    const hit = make("rect", { class: "hit", ...place });
    hit.addEventListener("pointermove", event => showTooltip(event, [range, ...lines].join("\n")));
    svg.append(hit);
  }
  svg.addEventListener("pointerleave", hideTooltip);
  svg.append(
    make("text", { x: 0, y: height - 2 }, "0"),
    make("text", { x: width, y: height - 2, "text-anchor": "end" }, top === 1 ? "1" : shown(top)),
  );
  const undefinedCount = series.reduce((sum, row) => sum + row.undefined, 0);
  const note = undefinedCount ? ` ${undefinedCount} undefined` : "";
  const more = make("span", {}, ` ${arrow(key)}${note}`);
  return make("figure", {}, make("figcaption", { title: metrics[key].legend }, metrics[key].title, more), svg);
}

function drawDistributions() {
  for (const drawn of byId("distributions").querySelectorAll("details")) drawn.remove();
  datasets.forEach((set, s) => {
    const figures = shownKeys()
      .map(key => [key, set.methods.filter(method => method.values[key])])
      .filter(([, methods]) => methods.length)
      .map(([key, methods]) => histogramFigure(key, methods, set.distributions[key]));
    const legend = make("ul", { class: "methods" }, ...set.methods.map(method => methodKey("li", method.name)));
    const body = [make("summary", {}, set.name), legend, make("div", { class: "charts small" }, ...figures)];
    byId("distributions").append(make("details", { class: "set", ...(s ? {} : { open: "" }) }, ...body));
  });
}
