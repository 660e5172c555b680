// Part of a list of buttons: sends the number of the pressed button to the page, and keeps its focus.
let pressed = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-index]");
  if (!button) return;
  pressed = button.dataset.index;
  trigger("select", { index: Number(pressed) });
});
watch("value", () => {
  if (document.activeElement === document.body) element.querySelector(`[data-index="${pressed}"]`)?.focus();
});
