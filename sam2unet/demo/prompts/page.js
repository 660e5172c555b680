// Part of the picture: sends points and boxes to the page, in pixels of the image. A press that moves only a little is a
// point. Two fingers, the wheel with Ctrl and the buttons zoom. The middle button and two fingers move the picture.
const CLICK_DISTANCE = 5; // pixels of the screen
const LARGEST_ZOOM = 16;
let start = null;
let band = null; // the box that is drawn while the pointer moves
let zoom = 1;
const pointers = new Map(); // the fingers on the picture

const stage = () => element.querySelector(".stage");
const clamp = (value, largest) => Math.max(0, Math.min(largest, value));

function imagePixel(event) {
  const box = stage().getBoundingClientRect();
  const index = (share, count) => clamp(Math.floor(share * count), count - 1);
  return [
    index((event.clientX - box.left) / box.width, Number(stage().dataset.width)),
    index((event.clientY - box.top) / box.height, Number(stage().dataset.height)),
  ];
}

function reset() {
  band?.remove();
  start = band = null;
}

/** Changes the zoom. The place of the picture at x, y on the screen stays where it is. */
function setZoom(value, x, y) {
  const before = stage().getBoundingClientRect();
  const [shareX, shareY] = [(x - before.left) / before.width, (y - before.top) / before.height];
  zoom = Math.max(1, Math.min(LARGEST_ZOOM, value));
  element.style.setProperty("--zoom", zoom);
  const after = stage().getBoundingClientRect();
  element.scrollBy(after.left + shareX * after.width - x, after.top + shareY * after.height - y);
}

function zoomMiddle(value) {
  const view = element.getBoundingClientRect();
  setZoom(value, view.left + view.width / 2, view.top + view.height / 2);
}

/** The middle of the fingers and their distance. */
function measureFingers() {
  const [a, b] = [...pointers.values()];
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, distance: Math.hypot(a.x - b.x, a.y - b.y) };
}

function drawBand(event) {
  if (!band?.isConnected) {
    band = document.createElement("b");
    band.className = "band";
    stage().append(band);
  }
  const box = stage().getBoundingClientRect();
  const xs = [start.x, event.clientX].map((x) => clamp(x - box.left, box.width)).sort((a, b) => a - b);
  const ys = [start.y, event.clientY].map((y) => clamp(y - box.top, box.height)).sort((a, b) => a - b);
  Object.assign(band.style, { left: `${xs[0]}px`, top: `${ys[0]}px` });
  Object.assign(band.style, { width: `${xs[1] - xs[0]}px`, height: `${ys[1] - ys[0]}px` });
}

const isDrag = (event) => Math.hypot(event.clientX - start.x, event.clientY - start.y) > CLICK_DISTANCE;

element.addEventListener("pointerdown", (event) => {
  if (!stage()?.contains(event.target)) return;
  element.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (pointers.size > 1) return reset();
  if (event.button === 1) return event.preventDefault(); // no automatic scrolling
  const background = event.button === 2 || event.ctrlKey;
  start = { x: event.clientX, y: event.clientY, pixel: imagePixel(event), background };
});

element.addEventListener("pointermove", (event) => {
  if (!pointers.has(event.pointerId)) return;
  const before = pointers.size > 1 ? measureFingers() : pointers.get(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (start) {
    if (!start.background && (band || isDrag(event))) drawBand(event);
    return;
  }
  const after = pointers.size > 1 ? measureFingers() : pointers.get(event.pointerId);
  if (pointers.size > 1) setZoom((zoom * after.distance) / Math.max(before.distance, 1), before.x, before.y);
  element.scrollBy(before.x - after.x, before.y - after.y);
});

element.addEventListener("pointerup", (event) => {
  pointers.delete(event.pointerId);
  if (!start) return;
  if (isDrag(event) && !start.background) trigger("select", { box: [...start.pixel, ...imagePixel(event)] });
  else trigger("select", { point: start.pixel, background: start.background });
  reset();
});

element.addEventListener("pointercancel", (event) => {
  pointers.delete(event.pointerId);
  reset();
});
element.addEventListener("contextmenu", (event) => {
  if (stage()?.contains(event.target)) event.preventDefault();
});
element.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return; // the wheel alone scrolls
  event.preventDefault();
  setZoom(zoom * Math.exp(-event.deltaY / 200), event.clientX, event.clientY);
}, { passive: false });
