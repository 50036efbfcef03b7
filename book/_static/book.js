// Names for assistive technology, where those of the theme and the bibliography do not fit.
addEventListener("load", () => {
  // A name contains the text that is shown, or else speech control does not find the button.
  for (const button of document.querySelectorAll(".search-button__button")) {
    button.setAttribute("aria-label", button.textContent.trim().replace(/\s+/g, " "));
  }
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    button.setAttribute("aria-label", "Color mode: Light Dark System Settings"); // the titles of its three icons
  }
  for (const summary of document.querySelectorAll("summary[aria-label]")) summary.removeAttribute("aria-label");
  for (const entry of document.querySelectorAll(".citation-list > .citation")) entry.setAttribute("role", "listitem");
});
