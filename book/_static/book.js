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

// What scrolls can be reached by key: figures, as the theme does for code and tables.
for (const event of ["load", "resize"]) {
  addEventListener(event, () => {
    for (const figure of document.querySelectorAll("article figure")) {
      if (figure.scrollWidth > figure.clientWidth) figure.tabIndex = 0;
      else figure.removeAttribute("tabindex");
    }
  });
}
