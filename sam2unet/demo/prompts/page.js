// Sends clicks and boxes on the picture to the page, in pixels of the image. A press that moves only a little is a
// click.
const CLICK_DISTANCE = 5; // pixels of the screen
let start = null;
let band = null; // the box that is drawn while the pointer moves

const stage = () => element.querySelector(".stage[data-width]");

function imagePixel(event) {
  const box = stage().getBoundingClientRect();
  const index = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
  return [
    index((event.clientX - box.left) / box.width, Number(stage().dataset.width)),
    index((event.clientY - box.top) / box.height, Number(stage().dataset.height)),
  ];
}

const isDrag = (event) => Math.hypot(event.clientX - start.x, event.clientY - start.y) > CLICK_DISTANCE;

function reset() {
  band?.remove();
  start = band = null;
}

element.addEventListener("pointerdown", (event) => {
  if (event.button === 1 || !stage()?.contains(event.target)) return;
  const background = event.button === 2 || event.ctrlKey;
  start = { x: event.clientX, y: event.clientY, pixel: imagePixel(event), background };
  element.setPointerCapture(event.pointerId);
});

element.addEventListener("pointermove", (event) => {
  if (!start || start.background || !(band || isDrag(event))) return;
  if (!band?.isConnected) {
    band = document.createElement("b");
    band.className = "band";
    stage().append(band);
  }
  const box = stage().getBoundingClientRect();
  const clamp = (value, largest) => Math.max(0, Math.min(value, largest));
  const xs = [start.x, event.clientX].map((x) => clamp(x - box.left, box.width)).sort((a, b) => a - b);
  const ys = [start.y, event.clientY].map((y) => clamp(y - box.top, box.height)).sort((a, b) => a - b);
  Object.assign(band.style, { left: `${xs[0]}px`, top: `${ys[0]}px` });
  Object.assign(band.style, { width: `${xs[1] - xs[0]}px`, height: `${ys[1] - ys[0]}px` });
});

element.addEventListener("pointerup", (event) => {
  if (!start) return;
  if (isDrag(event) && !start.background) trigger("select", { box: [...start.pixel, ...imagePixel(event)] });
  else trigger("select", { point: start.pixel, background: start.background });
  reset();
});

element.addEventListener("pointercancel", reset);
element.addEventListener("contextmenu", (event) => {
  if (stage()?.contains(event.target)) event.preventDefault();
});

// Ask before the page is reloaded, because undo does not work after that.
window.addEventListener("beforeunload", (event) => {
  if (document.querySelector("#objects button")) event.preventDefault();
});
