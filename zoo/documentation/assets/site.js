"use strict";
// What scrolls can be reached by the keyboard, and nothing else costs a stop.
const boxes = "pre, .table-wrapper, .zoo-formula, .sidebar-scroll, .toc-scroll";
function stops() {
  for (const box of document.querySelectorAll(boxes)) {
    const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    if (scrolls && !box.querySelector("a[href], button, input")) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
addEventListener("load", stops);
addEventListener("resize", stops);
document.addEventListener("toggle", stops, true); // what was folded up has a size once it is open
