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

const BINS = 25;

function histogramFigure(key, methods) {
  const [width, height, bottom] = [220, 100, 16];
  const series = methods.map(method => method.values[key].filter(value => value != null));
  const largest = series.flat().reduce((a, b) => Math.max(a, b), 0);
  const top = largest <= 1 ? 1 : largest;
  const x = value => (value / top) * width;
  const counts = series.map(values => {
    const count = Array(BINS).fill(0);
    for (const value of values) count[Math.min(BINS - 1, Math.floor((value / top) * BINS))]++;
    return count;
  });
  const shares = counts.map((count, m) => count.map(n => n / Math.max(1, series[m].length)));
  const highest = shares.flat().reduce((a, b) => Math.max(a, b), 1e-9);
  const y = share => height - bottom - (share / highest) * (height - bottom - 4);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `distribution of ${key}` });
  svg.append(make("line", { class: "grid", x1: 0, x2: width, y1: y(0), y2: y(0) }));
  methods.forEach((method, m) => {
    const right = bin => (((bin + 1) * width) / BINS).toFixed(1);
    const steps = shares[m].map((share, bin) => `V${y(share).toFixed(1)}H${right(bin)}`).join("");
    const paint = { stroke: colour(method.name), fill: colour(method.name), "stroke-dasharray": dash(method.name) };
    svg.append(make("path", { class: "area", d: `M0 ${y(0)}${steps}V${y(0)}Z`, ...paint }));
    if (!series[m].length) return;
    const mean = x(series[m].reduce((a, b) => a + b) / series[m].length);
    svg.append(make("line", { class: "mean", x1: mean, x2: mean, y1: 0, y2: y(0), stroke: paint.stroke }));
  });
  for (let bin = 0; bin < BINS; bin++) {
    const place = { x: (bin * width) / BINS, width: width / BINS, y: 0, height: height - bottom };
    const lines = methods.map((method, m) => `${method.name}: ${counts[m][bin]}`);
    const range = `${shown((bin * top) / BINS)} to ${shown(((bin + 1) * top) / BINS)}`;
    svg.append(make("rect", { class: "hit", ...place }, make("title", {}, [range, ...lines].join("\n"))));
  }
  svg.append(
    make("text", { x: 0, y: height - 2 }, "0"),
    make("text", { x: width, y: height - 2, "text-anchor": "end" }, top === 1 ? "1" : shown(top)),
  );
  const undefinedCount = methods.reduce((sum, method, m) => sum + method.values[key].length - series[m].length, 0);
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
      .map(([key, methods]) => histogramFigure(key, methods));
    const legend = make("ul", { class: "methods" }, ...set.methods.map(method => methodKey("li", method.name)));
    const body = [make("summary", {}, set.name), legend, make("div", { class: "charts small" }, ...figures)];
    byId("distributions").append(make("details", { class: "set", ...(s ? {} : { open: "" }) }, ...body));
  });
}

const controls = byId("controls").elements;
const PAGE = 30; // rows drawn at a time
const gallery = { s: 0, set: datasets[0], order: [], drawn: 0, at: 0 };

const valueOf = (method, key, i) => method.values[key]?.[i] ?? null; // null if the score is not defined

function options(select, choices) {
  const kept = select.value;
  select.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  if (choices.some(([value]) => String(value) === kept)) select.value = kept;
}

// Sets the choices that depend on the data set.
function chooseSet() {
  gallery.s = Number(controls.set.value);
  gallery.set = datasets[gallery.s];
  const keys = shownKeys().filter(key => gallery.set.methods.some(method => method.values[key]));
  const titled = keys.map(key => [key, `${metrics[key].title} ${arrow(key)}`]);
  for (const name of ["sort", "limited"]) options(controls[name], titled);
  options(controls.by, gallery.set.methods.map((method, m) => [m, method.name]));
  controls.by.parentElement.hidden = gallery.set.methods.length < 2;
  refresh();
}

// Returns the indices of the images that pass the filters, sorted. Images without a value are last.
function sortedImages() {
  const { set } = gallery;
  const method = set.methods[controls.by.value];
  const [key, text, limit] = [controls.sort.value, controls.text.value.toLowerCase(), controls.limit.valueAsNumber];
  const passes = i => {
    if (!set.images[i].toLowerCase().includes(text)) return false;
    if (Number.isNaN(limit)) return true;
    const value = valueOf(method, controls.limited.value, i);
    return value != null && (controls.side.value === "below" ? value < limit : value > limit);
  };
  const direction = (metrics[key]?.higher === false ? -1 : 1) * (controls.order.value === "worst" ? 1 : -1);
  const compare = (i, j) => {
    const [a, b] = [valueOf(method, key, i), valueOf(method, key, j)];
    if (a == null || b == null) return (a == null) - (b == null) || i - j;
    return direction * (a - b) || i - j;
  };
  return [...set.images.keys()].filter(passes).sort(compare);
}

function refresh() {
  gallery.order = sortedImages();
  gallery.drawn = 0;
  byId("rows").replaceChildren();
  byId("count").value = `${gallery.order.length} of ${gallery.set.images.length} images`;
  drawMore();
}

function drawMore() {
  const next = gallery.order.slice(gallery.drawn, gallery.drawn + PAGE);
  byId("rows").append(...next.map((i, n) => galleryRow(i, gallery.drawn + n)));
  gallery.drawn += next.length;
  byId("more").hidden = gallery.drawn >= gallery.order.length;
}

function galleryRow(i, position) {
  const name = make("button", { type: "button", title: "Enlarge" }, gallery.set.images[i]);
  const label = make("div", {}, name, make("span", { class: "rank" }, ` #${position + 1}`));
  const row = make("article", { class: "row", "data-image": i }, label, pictures(i));
  row.addEventListener("click", () => enlarge(position));
  return row;
}

// Reads a picture whose grey values are indices of classes.
async function readIndices(data, [width, height]) {
  const image = new Image();
  image.src = `data:image/webp;base64,${data}`;
  await image.decode();
  const context = make("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height).data.filter((_, at) => at % 4 === 0);
}

// Returns a canvas with the colour `paint(mask index, map index)` in each pixel, once both pictures are read.
function classCanvas(stored, map, label, paint) {
  const [width, height] = stored.size;
  const canvas = make("canvas", { width, height, role: "img", "aria-label": label });
  Promise.all([stored.mask, map].map(data => readIndices(data, stored.size))).then(([mask, indices]) => {
    const pixels = new ImageData(width, height);
    mask.forEach((index, at) => pixels.data.set([...paint(index, indices[at]), 255], 4 * at));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  });
  return canvas;
}

// Returns how to colour the pixels of a map: pale if another class is chosen. Ignored pixels are nearly black.
function classPainter() {
  const chosen = controls.shown.value;
  const colours = Array.from({ length: 256 }, (_, index) =>
    (classes[index]?.color ?? [40, 40, 40]).map(part => (chosen === "" || chosen === String(index) ? part : 204 + part / 5)));
  return (mask, map) => colours[map];
}

// Returns how to colour the errors of the chosen class; without a choice, those of all classes.
function errorPainter() {
  const chosen = controls.shown.value;
  const style = getComputedStyle(document.documentElement);
  const [nothing, positive, negative, agreed] = ["nothing", "false-positive", "false-negative", "agreed"]
    .map(name => style.getPropertyValue(`--${name}`).match(/\d+/g));
  return (mask, map) => {
    if (!classes[mask]) return nothing; // ignored
    if (chosen === "") return mask === map ? agreed : positive;
    const [inMask, inMap] = [mask === Number(chosen), map === Number(chosen)];
    return inMask ? (inMap ? agreed : negative) : inMap ? positive : nothing;
  };
}

function pictures(i) {
  const { s, set } = gallery;
  const stored = JSON.parse(byId(`pictures-${s}-${i}`).textContent);
  const [width, height] = stored.size;
  const image = (data, alt) =>
    make("img", { src: `data:image/webp;base64,${data}`, alt, width, height, decoding: "async" });
  const picture = classes.length ? (data, alt) => classCanvas(stored, data, alt, classPainter()) : image;
  const absent = (text, n) => make("div", { class: "absent", style: `aspect-ratio: ${n * width} / ${height}` }, text);
  const group = (n, parts, caption) => {
    const attributes = { style: `--n: ${n}`, class: n === 1 ? "lone" : null };
    return make("figure", attributes, make("div", { class: "pair" }, ...parts), caption);
  };
  const mask = picture(stored.mask, "mask");
  const photograph = stored.photograph ? image(stored.photograph, "photograph") : absent("no photograph", 1);
  const first = set.photographs
    ? group(2, [photograph, mask], make("figcaption", {}, "image, mask"))
    : group(1, [mask], make("figcaption", {}, "mask"));
  const key = controls.sort.value;
  const methods = set.methods.map((method, m) => {
    const [map, label] = [stored.maps[m], `errors of ${method.name}`];
    const errors = () =>
      (classes.length ? classCanvas(stored, map, label, errorPainter()) : image(stored.errors[m], label));
    const parts = map
      ? [picture(map, `map of ${method.name}`), errors()]
      : [absent("no prediction", 2)];
    const value = key && make("b", {}, `${metrics[key].title} ${shown(valueOf(method, key, i))}`);
    return group(2, parts, make("figcaption", {}, methodKey("span", method.name), value));
  });
  return make("div", { class: "pictures" }, first, ...methods);
}

function enlarge(position) {
  const { set, order } = gallery;
  gallery.at = position;
  const i = order[position];
  byId("enlarged-name").textContent = set.images[i];
  byId("enlarged-place").textContent = `${position + 1} of ${order.length} in ${set.name}`;
  byId("enlarged-pictures").replaceChildren(pictures(i));
  byId("enlarged-numbers").replaceChildren(numbers(i));
  byId("enlarged-body").classList.toggle("several", set.methods.length > 1);
  for (const button of byId("enlarged").querySelectorAll("[data-step]")) {
    button.disabled = order[position + Number(button.dataset.step)] === undefined;
  }
  if (!byId("enlarged").open) byId("enlarged").showModal();
}

function numbers(i) {
  const { methods } = gallery.set;
  const keys = shownKeys().filter(key => methods.some(method => method.values[key]));
  const head = methods.map(method => make("th", { scope: "col" }, methodKey("span", method.name)));
  const body = keys.map(key => make("tr", {},
    make("th", { scope: "row", title: metrics[key].legend }, metrics[key].title, make("span", {}, ` ${arrow(key)}`)),
    ...methods.map(method => make("td", {}, shown(valueOf(method, key, i))))));
  const titles = make("tr", {}, make("th", { scope: "col" }, "Metric"), ...head);
  return make("table", {}, make("thead", {}, titles), make("tbody", {}, ...body));
}

function step(by) {
  if (gallery.order[gallery.at + by] !== undefined) enlarge(gallery.at + by);
}

// Goes back to the row of the image that was enlarged last.
function onClose() {
  while (gallery.drawn <= gallery.at) drawMore();
  const row = byId("rows").children[gallery.at];
  row.scrollIntoView({ block: "nearest" });
  row.querySelector("button").focus({ preventScroll: true });
}

function listen() {
  byId("controls").addEventListener("input", event => {
    if (event.target === controls.shown) drawDistributions();
    if ([controls.set, controls.shown].includes(event.target)) chooseSet();
    else refresh();
  });
  byId("controls").addEventListener("submit", event => event.preventDefault());
  byId("controls").addEventListener("reset", () => setTimeout(() => { // the form resets its values after this event
    if (classes.length) drawDistributions();
    chooseSet();
  }));
  byId("more").addEventListener("click", drawMore);
  const near = new IntersectionObserver(([more]) => {
    if (!more.isIntersecting) return;
    drawMore();
    near.unobserve(more.target); // observing again reports again if the button is still near
    near.observe(more.target);
  }, { rootMargin: "800px" });
  near.observe(byId("more"));
  const dialog = byId("enlarged");
  dialog.addEventListener("close", onClose);
  dialog.addEventListener("click", event => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  byId("close").addEventListener("click", () => dialog.close());
  for (const button of dialog.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => step(Number(button.dataset.step)));
  }
}

drawCurves();
options(controls.shown, [["", "all"], ...classes.map(({ name }, c) => [c, name])]);
controls.shown.parentElement.hidden = !classes.length;
byId("classes").append(...classes.map(({ name, color }) =>
  make("li", {}, make("span", { class: "key" }, make("i", { style: `background: rgb(${color})` }), name))));
drawDistributions();
options(controls.set, datasets.map((set, s) => [s, set.name]));
controls.set.parentElement.hidden = datasets.length < 2;
listen();
chooseSet();
