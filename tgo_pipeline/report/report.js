"use strict";
// Draws every chart from the JSON beside it. Colours are CSS variables, so a change of scheme needs no redraw.
(async () => {
  const options = {
    actions: false,
    defaultStyle: false,
    renderer: "svg",
    tooltip: { disableDefaultStyle: true, theme: "page" },
  };
  let failed = 0;
  for (const holder of document.querySelectorAll("[data-chart]")) {
    const spec = JSON.parse(holder.querySelector("script").textContent);
    const place = holder.querySelector(".drawing");
    try {
      await window.vegaEmbed(place, spec, options);
      const drawing = place.querySelector("svg");
      drawing.setAttribute("role", "img");
      drawing.setAttribute("aria-label", spec.description);
    } catch (error) {
      failed += 1;
      place.textContent = "This chart could not be drawn: " + error.message;
      console.error(error);
    }
  }
  document.documentElement.dataset.charts = failed ? "failed" : "drawn";
})();
