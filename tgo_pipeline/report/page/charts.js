// Draws every chart from the JSON beside it. Colours are CSS variables, so a change of scheme needs no redraw.
const CHART_OPTIONS = {
  actions: false,
  defaultStyle: false,
  renderer: "svg",
  tooltip: { disableDefaultStyle: true, theme: "page" },
};

async function drawChart(holder) {
  const spec = JSON.parse(holder.querySelector("script").textContent);
  const place = holder.querySelector(".drawing");
  try {
    await window.vegaEmbed(place, spec, CHART_OPTIONS);
    const drawing = place.querySelector("svg");
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", spec.description);
    return true;
  } catch (error) {
    place.textContent = "This chart could not be drawn: " + error.message;
    console.error(error);
    return false;
  }
}

async function drawCharts() {
  let failed = 0;
  for (const holder of document.querySelectorAll("[data-chart]")) {
    failed += (await drawChart(holder)) ? 0 : 1;
  }
  document.documentElement.dataset.charts = failed ? "failed" : "drawn";
}
