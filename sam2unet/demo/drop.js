// Part of the status line. Gives files that are dropped anywhere on the page to an upload field, also whole folders.
// Shows problems with files in the status line. Gives each upload field a name of its own.
let dragsPicture = false; // the visitor drags a picture of the page, not a file
const hasFiles = (event) => !dragsPicture && event.dataTransfer?.types.includes("Files");
const showProblem = (text) => {
  const line = Object.assign(document.createElement("div"), { className: "bad", textContent: text });
  line.setAttribute("role", "alert");
  props.value = line.outerHTML;
};

/** Returns all files of a drop. A folder is read with its folders. */
async function listFiles(entries) {
  const files = [];
  for (const entry of entries) {
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else {
      const reader = entry.createReader();
      let part;
      do {
        part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at once
        files.push(...(await listFiles(part)));
      } while (part.length);
    }
  }
  return files.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true })); // a folder has no order
}

window.addEventListener("dragstart", () => (dragsPicture = true));
window.addEventListener("dragend", () => (dragsPicture = false));
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
// In the capture phase: without this, the browser opens the file, or gradio shows its own messages.
window.addEventListener("drop", (event) => dropFiles(event).catch((error) => showProblem(error.message)), true);

async function dropFiles(event) {
  if (!hasFiles(event)) return;
  event.preventDefault();
  event.stopPropagation();
  event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true })); // gradio removes its frame
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter((entry) => entry);
  let files = await listFiles(entries);
  const isLabelMap = files.length === 1 && files[0].name.endsWith("_labels.png"); // the name of a saved label map
  // On the page for prompts, #masks is a button.
  const block = event.target.closest("div#masks") ?? document.querySelector("#images");
  const field = (isLabelMap && findLabelMapField()) || block.querySelector("input[type=file]");
  if (!field) return showProblem("Another upload is in progress. Wait until it ends, then drop the files again.");
  if (entries.some((entry) => entry.isDirectory)) files = files.filter((file) => accepts(field, file));
  if (!files.length) return showProblem("The folder has no images.");
  setFiles(field, files.slice(0, field.multiple ? undefined : 1));
  field.dispatchEvent(new Event("change", { bubbles: true }));
}

/** gradio puts the field of a button before the button. */
const findLabelMapField = () => document.querySelector("#label-map")?.previousElementSibling;

function setFiles(field, files) {
  const list = new DataTransfer();
  for (const file of files) list.items.add(file);
  field.files = list.files;
}

// gradio does not set `accept` for folders
const listEndings = (field) => field.accept?.split(/, */) ?? [];
const accepts = (field, file) => {
  const endings = field.webkitdirectory ? props.endings : listEndings(field);
  return endings.some((ending) => file.name.toLowerCase().endsWith(ending));
};

/** Returns why the server would refuse a file, or nothing. gradio shows these errors in another place. */
function findProblem(field, file) {
  if (!accepts(field, file)) return `${file.name} cannot be used here; wanted ${listEndings(field).join(", ")}`;
  if (file.size > props.max_mb * 1e6)
    return `${file.name} has ${(file.size / 1e6).toFixed(1)} MB; the limit is ${props.max_mb} MB`;
}

window.addEventListener("change", (event) => {
  const field = event.target;
  if (!field.matches?.("input[type=file]")) return;
  if (field.webkitdirectory) setFiles(field, [...field.files].filter((file) => accepts(field, file)));
  const problem = [...field.files].map((file) => findProblem(field, file)).find((text) => text);
  if (!problem && field.files.length) return;
  event.stopImmediatePropagation();
  field.value = "";
  showProblem(problem ?? "The folder has no images.");
}, true);

/** gradio gives all upload fields the same name. */
function nameFields() {
  for (const button of document.querySelectorAll(".upload-container:not([data-named])")) {
    const label = button.parentElement.querySelector("[data-testid=block-label]")?.textContent.trim();
    if (!label) continue;
    button.setAttribute("aria-label", `${label}: click to upload or drop files`);
    button.dataset.named = "";
  }
}
new MutationObserver(nameFields).observe(document.body, { childList: true, subtree: true });
nameFields();
