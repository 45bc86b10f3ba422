// One sample in full: its image (or base and tuned under a slider), its prompt, everything that is known of it.
class Detail {
  constructor(gallery) {
    this.gallery = gallery;
    this.dialog = document.getElementById("detail");
    this.body = this.dialog.querySelector(".detail-body");
    this.title = this.dialog.querySelector("h2");
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
      const button = event.target.closest("button[value]");
      if (button) this.step(Number(button.value));
    });
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("close", () => this.back());
  }

  open(place) {
    this.place = place;
    const row = this.gallery.rows[place];
    this.fill(row);
    this.title.textContent = `Sample ${count(place + 1)} of ${count(this.gallery.rows.length)}`;
    const [previous, next] = this.dialog.querySelectorAll("button[value]");
    previous.disabled = place === 0;
    next.disabled = place === this.gallery.rows.length - 1;
    this.from = null;
    this.show(true);
  }

  // A pair of the section "Before and after": its own images, which are larger, and its own table.
  openPair(card, from) {
    const [base, tuned] = card.querySelectorAll(".sides :is(video, img:not(.strip))");
    const prompt = card.querySelector(".prompt > bdi").textContent;
    const table = card.querySelector("table").cloneNode(true);
    table.tHead.classList.remove("hidden");
    this.title.textContent = "Before and after";
    const size = [base.naturalWidth || base.videoWidth || base.width, base.naturalHeight || base.videoHeight || base.height];
    this.body.replaceChildren(
      make("div", { class: "stage" }, compare(base.src, tuned.src, ["base", "tuned"], size)),
      make("div", { class: "about" }, promptOf(prompt), table),
    );
    this.from = from;
    this.show(false);
  }

  show(inSequence) {
    for (const button of this.dialog.querySelectorAll("button[value]")) button.hidden = !inSequence;
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.title.focus();
  }

  // Closing hands the focus back to where the reader was.
  back() {
    for (const video of this.body.querySelectorAll("video")) video.pause();
    if (this.from) this.from.focus();
    else this.gallery.focus(this.place);
  }

  step(by) {
    const place = this.place + by;
    if (this.from || place < 0 || place >= this.gallery.rows.length) return;
    this.open(place);
  }

  key(event) {
    const sliding = event.target.type === "range";
    const steps = { n: 1, p: -1, ...(sliding ? {} : { ArrowRight: 1, ArrowLeft: -1 }) };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in steps)) return;
    event.preventDefault();
    this.step(steps[event.key]);
  }

  fill(row) {
    const { samples } = this.gallery;
    const sides = samples.sidesOf(row);
    const whole = sides && sides.every((side) => samples.sourceOf(side));
    const stage = whole ? this.slider(sides) : thumbnail(samples, row, samples.promptOf(row).slice(0, 160), 384, 512, true);
    this.body.replaceChildren(
      make("div", { class: "stage" }, stage),
      make(
        "div",
        { class: "about" },
        promptOf(samples.promptOf(row)),
        this.facts(row),
        this.scores(row, sides),
      ),
    );
  }

  slider(sides) {
    const { samples } = this.gallery;
    const [before, after] = sides.map((side) => samples.sourceOf(side));
    const size = [samples.width[sides[1]], samples.height[sides[1]]];
    return compare(before, after, sides.map((side) => samples.modelOf(side)), size);
  }

  facts(row) {
    const { samples } = this.gallery;
    const known = [
      ["set", samples.splitOf(row) || null],
      ["model", samples.modelOf(row) || null],
      ["label", labelOf(samples, row)],
      ["weight", samples.weight[row] === null ? null : fixed(samples.weight[row], 3)],
      ["s − τ", samples.relative[row] === null ? null : signed(samples.relative[row], 4)],
      ["reward ranks apart", samples.disagreement[row] === null ? null : percent(samples.disagreement[row])],
      ["size", samples.width[row] ? `${samples.width[row]} × ${samples.height[row]}` : null],
      ["seed", samples.seed[row]],
      ["sample", samples.id[row]],
      ["error", samples.errorOf(row)],
    ];
    const shown = known.filter(([, value]) => value !== null);
    return make(
      "dl",
      { class: "facts-list compact" },
      ...shown.map(([name, value]) =>
        make("div", {}, make("dt", {}, name), make("dd", {}, typeof value === "string" ? isolated(value) : value)),
      ),
    );
  }

  // Every reward, in one column or, for a test sample, in one per model with the difference that the slider shows.
  scores(row, sides) {
    const { samples } = this.gallery;
    const all = samples.together(row);
    const names = all.map((other) => samples.modelOf(other) || "score");
    const heads = ["reward", ...names, ...(sides ? [`${samples.modelOf(sides[1])} − base`] : [])];
    const lines = samples.rewards.map(({ name, decimals }, reward) => {
      const gain = sides && samples.gainOf(row, reward);
      return make(
        "tr",
        { class: name === samples.target ? "target" : null },
        make("th", { scope: "row" }, isolated(name)),
        ...all.map((other) => make("td", {}, fixed(samples.scoreOf(other, reward), decimals))),
        sides ? make("td", { class: gain > 0 ? "gain" : gain < 0 ? "loss" : null }, signed(gain, decimals)) : null,
      );
    });
    const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, isolated(text))));
    const table = make("table", { class: "values" }, make("thead", {}, head), make("tbody", {}, ...lines));
    return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores" }, table);
  }
}

// A prompt in full; one that has to be scrolled can be reached by keys.
function promptOf(text) {
  return make("p", { class: "prompt", tabindex: text.length > 300 ? 0 : null }, isolated(text));
}

// Two images, or clips in step, on top of each other, divided by a line that a range input moves: by pointer, touch and
// keys alike.
function compare(before, after, names, [width, height]) {
  const pixelated = Math.max(width, height) <= 64 ? "pixelated" : null;
  const range = make("input", { type: "range", min: 0, max: 100, value: 50, step: 1 });
  const moving = before.startsWith(CLIP) && after.startsWith(CLIP);
  const side = (source, name, kind) => {
    if (source.startsWith(CLIP)) return clip(source, { "aria-label": name, class: kind });
    return make("img", { src: source, alt: name, class: kind });
  };
  const shown = [side(before, names[0], pixelated), side(after, names[1], ["after", pixelated].filter(Boolean).join(" "))];
  const holder = make(
    "div",
    { class: "compare" },
    ...shown,
    make("span", { class: "divide", "aria-hidden": "true" }),
    range,
  );
  const move = () => {
    holder.style.setProperty("--cut", range.value + "%");
    range.setAttribute("aria-valuetext", `${range.value} % ${names[0]}, ${100 - range.value} % ${names[1]}`);
  };
  range.setAttribute("aria-label", `Part between ${names[0]} (left) and ${names[1]} (right)`);
  range.addEventListener("input", move);
  holder.style.aspectRatio = `${width} / ${height}`;
  move();
  const [left, right] = names.map((name) => make("span", {}, isolated(name)));
  const caption = make("figcaption", {}, left, moving ? playButton(shown) : null, right);
  return make("figure", { class: "comparison" }, holder, caption);
}
