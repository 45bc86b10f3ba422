// Brings the page to life: the gallery first, because a reader may want it before every chart is drawn.
function startGallery() {
  const island = document.getElementById("gallery-data");
  return island ? new Gallery(document.getElementById("gallery"), JSON.parse(island.textContent)) : null;
}

// The pairs that stand in the page open in the same view as those of the gallery.
function startPairs(gallery) {
  const detail = gallery?.detail ?? new Detail(null);
  for (const button of document.querySelectorAll("[data-compare]")) {
    button.hidden = false;
    button.addEventListener("click", () => detail.openPair(button.closest(".card"), button));
  }
  for (const sides of document.querySelectorAll(".sides")) {
    const clips = [...sides.querySelectorAll("video")];
    if (clips.length === 2) sides.after(make("p", { class: "origin" }, playButton(clips)));
  }
}

// A table that is wider than its place says so while more of it is to the right.
function startTables() {
  const mark = (place) => place.toggleAttribute("data-cut", place.scrollWidth - place.clientWidth - place.scrollLeft > 1);
  const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => mark(target)));
  for (const place of document.querySelectorAll(".scroll")) {
    resized.observe(place);
    place.addEventListener("scroll", () => mark(place), { passive: true });
  }
}

startTheme();
startTables();
const gallery = startGallery();
startPairs(gallery);
startKeys(gallery);
drawCharts();
