// Part of the picture, after page.js. Arrows move a cross, other keys mark its pixel. Asks before objects are lost.
let cross = null; // its pixel
let corner = null; // the first corner of a box
const isTyping = (target) => target.matches?.("input:not([type=radio]):not([type=range]), textarea");

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ZOOM_KEYS = { "+": () => zoomMiddle(zoom * 1.5), "-": () => zoomMiddle(zoom / 1.5), 0: () => zoomMiddle(1) };

function sides() {
  return [Number(stage().dataset.width), Number(stage().dataset.height)];
}

/** Draws the cross, and the first corner of a box. Every answer of the page replaces the picture. */
function drawCross() {
  for (const mark of element.querySelectorAll(".cross")) mark.remove();
  if (!cross || !stage()) return;
  const [width, height] = sides();
  for (const [pixel, name] of [[corner, "cross corner"], [cross, "cross"]]) {
    if (!pixel) continue;
    const mark = Object.assign(document.createElement("u"), { className: name });
    Object.assign(mark.style, { left: `${(100 * (pixel[0] + 0.5)) / width}%`, top: `${(100 * (pixel[1] + 0.5)) / height}%` });
    stage().append(mark);
    if (pixel === cross) mark.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function say(text) {
  document.querySelector("#cross-place").textContent = text;
}

function moveCross([dx, dy], isSmall) {
  const [width, height] = sides();
  cross ??= [width >> 1, height >> 1];
  const step = isSmall ? 1 : Math.max(1, Math.round(Math.max(width, height) / 40));
  cross = [clamp(cross[0] + dx * step, width - 1), clamp(cross[1] + dy * step, height - 1)];
  drawCross();
  say(`x ${cross[0]}, y ${cross[1]}`);
}

function markBoxCorner() {
  if (corner) trigger("select", { box: [...corner, ...cross] });
  else say("The first corner of a box is set. Move the cross, then press B again.");
  corner = corner ? null : cross;
  drawCross();
}

element.addEventListener("keydown", (event) => {
  if (event.target !== element || !stage() || event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length > 1 ? event.key : event.key.toLowerCase(); // Caps Lock can be on
  if (key in ARROWS) moveCross(ARROWS[key], event.shiftKey);
  else if (key in ZOOM_KEYS) ZOOM_KEYS[key]();
  else if (key === "n") document.querySelector("#new").click();
  else if (key === "Delete") document.querySelector("#delete").click();
  else if (key === "Escape") { corner = null; drawCross(); }
  else if (["Enter", " ", "b"].includes(key)) {
    if (!cross) moveCross([0, 0]);
    if (key === "b") markBoxCorner();
    else trigger("select", { point: cross, background: event.shiftKey });
  } else return;
  event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key !== "z" || isTyping(event.target)) return;
  event.preventDefault();
  document.querySelector("#undo").click();
});

document.addEventListener("click", (event) => {
  const key = event.target.closest("[data-zoom]")?.dataset.zoom;
  if (key) ZOOM_KEYS[key]();
});

// Ask before objects are deleted.
document.addEventListener("click", (event) => {
  const count = document.querySelectorAll("#objects button").length;
  const selected = document.querySelector("#objects [aria-pressed=true]")?.dataset.index;
  const questions = { delete: `Delete object ${selected}?`, clear: `Delete ${count === 1 ? "the object" : `all ${count} objects`}?` };
  const question = questions[event.target.closest("#delete, #clear")?.id];
  if (question && !confirm(`${question} Undo brings it back.`)) event.stopImmediatePropagation();
}, true);
// Ask before the page is closed while an image of the queue has objects, because undo does not work after that.
window.addEventListener("beforeunload", (event) => {
  if (!document.querySelector("#masks").disabled) event.preventDefault();
});

function showPicture() {
  const picture = element.querySelector("img");
  element.tabIndex = 0;
  element.setAttribute("role", "application");
  const help = "The arrow keys move a cross. Enter marks foreground, Shift and Enter background, B a corner of a box.";
  element.setAttribute("aria-label", `Picture ${picture?.alt}. ${help}`);
  if (element.dataset.picture !== picture?.alt) {
    cross = corner = null;
    if (stage()) zoomMiddle(1);
  }
  element.dataset.picture = picture?.alt;
  drawCross();
}
watch("value", showPicture);
showPicture();
