// Loads a file that is dropped anywhere on the page as the image. Without this, the browser opens the file in a tab.
let dragsPicture = false; // the visitor drags a picture of the page, not a file
const hasFiles = (event) => !dragsPicture && event.dataTransfer?.types.includes("Files");

window.addEventListener("dragstart", () => (dragsPicture = true));
window.addEventListener("dragend", () => (dragsPicture = false));
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!hasFiles(event) || event.defaultPrevented) return; // an upload field has handled the drop
  event.preventDefault();
  const field = document.querySelector(":is(#image, #images) input[type=file]");
  if (!field) return; // another upload is in progress
  const files = new DataTransfer();
  for (const file of [...event.dataTransfer.files].slice(0, field.multiple ? undefined : 1)) files.items.add(file);
  field.files = files.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
});
