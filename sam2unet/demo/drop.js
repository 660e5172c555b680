// A file that is dropped beside the upload fields is loaded as the image. By itself, the browser opens it in a tab.
let own = false; // a picture of the page itself is being dragged
const hasFiles = (event) => !own && event.dataTransfer?.types.includes("Files");

window.addEventListener("dragstart", () => (own = true));
window.addEventListener("dragend", () => (own = false));
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
window.addEventListener("drop", (event) => {
  if (!hasFiles(event) || event.defaultPrevented) return; // an upload field has taken it
  event.preventDefault();
  const field = document.querySelector(":is(#image, #images) input[type=file]");
  if (!field) return; // an upload is under way
  const files = new DataTransfer();
  for (const file of [...event.dataTransfer.files].slice(0, field.multiple ? undefined : 1)) files.items.add(file);
  field.files = files.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
});
