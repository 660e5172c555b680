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
  byId("no-photographs").hidden = gallery.set.photographs;
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
  byId("rows").replaceChildren(...(gallery.order.length ? [] : [make("p", { class: "hint" }, noMatch())]));
  const { images, total } = gallery.set;
  const rest = total > images.length ? `, the worst of ${total}` : "";
  byId("count").value = `${gallery.order.length} of ${images.length} images${rest}`;
  drawMore();
}

// Says which filter to change if no image passes all of them.
function noMatch() {
  const { set } = gallery;
  const [text, key, limit] = [controls.text.value, controls.limited.value, controls.limit.valueAsNumber];
  const hints = [];
  if (!set.images.some(name => name.toLowerCase().includes(text.toLowerCase()))) {
    hints.push(`No name contains "${text}". Names look like "${set.images[0]}".`);
  }
  const method = set.methods[controls.by.value];
  const values = set.images.map((_, i) => valueOf(method, key, i)).filter(value => value != null);
  const passes = value => (controls.side.value === "below" ? value < limit : value > limit);
  if (!Number.isNaN(limit) && !values.some(passes)) {
    const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    const range = values.length ? `is between ${shown(low)} and ${shown(high)}` : "has no values";
    hints.push(`No ${metrics[key].title} is ${controls.side.value} ${limit}. It ${range} for ${method.name}.`);
  }
  if (!hints.length) hints.push("No image passes both filters. Change one of them.");
  return `No image matches. ${hints.join(" ")} The button "Reset" shows all images.`;
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
  const group = (n, parts, caption) =>
    make("figure", { style: `--n: ${n}` }, make("div", { class: "pair" }, ...parts), caption);
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
  const total = methods.length * 2 + (set.photographs ? 2 : 1);
  return make("div", { class: "pictures", style: `--total: ${total}` }, first, ...methods);
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
