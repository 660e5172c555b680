addEventListener("load", () => {
  // The keyboard reaches tables and code that are wider than the page, and can scroll them.
  for (const box of document.querySelectorAll("pre, .table-wrapper"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  // The theme leaves out the level of headings in the sidebar, and the names of both sidebars.
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.ariaLevel = 2;
  document.querySelector(".sidebar-drawer").ariaLabel = "all pages";
  document.querySelector(".toc-drawer").ariaLabel = "this page";
});
