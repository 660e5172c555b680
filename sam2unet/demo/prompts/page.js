// Clicks and boxes on the picture, told to the page in pixels of the image. A click is a press that hardly moves.
const SLOP = 5; // screen pixels
let from = null;
let band = null;

const stage = () => element.querySelector(".stage[data-width]");

function pixel(event) {
  const box = stage().getBoundingClientRect();
  const at = (share, count) => Math.max(0, Math.min(count - 1, Math.floor(share * count)));
  return [
    at((event.clientX - box.left) / box.width, Number(stage().dataset.width)),
    at((event.clientY - box.top) / box.height, Number(stage().dataset.height)),
  ];
}

const moved = (event) => Math.hypot(event.clientX - from.x, event.clientY - from.y) > SLOP;

function stop() {
  band?.remove();
  from = band = null;
}

element.addEventListener("pointerdown", (event) => {
  if (event.button === 1 || !stage()?.contains(event.target)) return;
  const background = event.button === 2 || event.ctrlKey;
  from = { x: event.clientX, y: event.clientY, pixel: pixel(event), background };
  element.setPointerCapture(event.pointerId);
});

element.addEventListener("pointermove", (event) => {
  if (!from || from.background || !(band || moved(event))) return;
  if (!band?.isConnected) {
    band = document.createElement("b");
    band.className = "band";
    stage().append(band);
  }
  const box = stage().getBoundingClientRect();
  const within = (value, most) => Math.max(0, Math.min(value, most));
  const xs = [from.x, event.clientX].map((x) => within(x - box.left, box.width)).sort((a, b) => a - b);
  const ys = [from.y, event.clientY].map((y) => within(y - box.top, box.height)).sort((a, b) => a - b);
  Object.assign(band.style, { left: `${xs[0]}px`, top: `${ys[0]}px` });
  Object.assign(band.style, { width: `${xs[1] - xs[0]}px`, height: `${ys[1] - ys[0]}px` });
});

element.addEventListener("pointerup", (event) => {
  if (!from) return;
  if (moved(event) && !from.background) trigger("select", { box: [...from.pixel, ...pixel(event)] });
  else trigger("select", { point: from.pixel, background: from.background });
  stop();
});

element.addEventListener("pointercancel", stop);
element.addEventListener("contextmenu", (event) => {
  if (stage()?.contains(event.target)) event.preventDefault();
});

// Undo does not reach across a reload.
window.addEventListener("beforeunload", (event) => {
  if (document.querySelector("#objects button")) event.preventDefault();
});
