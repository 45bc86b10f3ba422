// The gallery: controls, one page of cards at a time, and a focus that walks over them.
const PER_PAGE = 24;
const CARD_PROMPT = 160; // characters; the detail view has the rest

class Gallery {
  constructor(section, island) {
    this.samples = new Samples(island);
    this.section = section;
    this.list = section.querySelector("#gallery-cards");
    this.controls = section.querySelector("#gallery-controls");
    this.status = section.querySelector("#gallery-status");
    this.pages = section.querySelector("#gallery-pages");
    this.detail = new Detail(this);
    this.fillControls();
    this.listen();
    this.controls.hidden = this.pages.hidden = false;
    this.apply();
  }

  get search() {
    return this.controls.elements.query;
  }

  get choices() {
    return Object.fromEntries(new FormData(this.controls));
  }

  get reward() {
    return Number(this.controls.elements.reward.value);
  }

  get pageCount() {
    return Math.max(1, Math.ceil(this.rows.length / PER_PAGE));
  }

  fillControls() {
    const { samples, controls } = this;
    const fill = (name, entries) => {
      controls.elements[name].append(...entries.map(([value, text]) => make("option", { value }, text)));
    };
    const marked = (name) => (name === samples.target ? name + " (target)" : name);
    fill("reward", samples.rewards.map(({ name }, place) => [place, marked(name)]));
    fill("split", samples.splits.map((name) => [name, name === samples.training ? "training" : "test: " + name]));
    fill("model", samples.models.filter(Boolean).map((name) => [name, name]));
    const offered = {
      split: samples.splits.length > 1,
      model: samples.models.some(Boolean),
      label: samples.label.some((label) => label !== null),
      error: samples.errors.length > 0,
      gain: samples.hasPairs,
      near: samples.relative.some((value) => value !== null),
      apart: samples.disagreement.some((value) => value !== null),
    };
    const needs = { loss: "gain", together: "apart" };
    for (const name of ["split", "model", "label", "error"]) controls.elements[name].closest("label").hidden = !offered[name];
    for (const choice of [...controls.elements.sort.options]) {
      if (offered[needs[choice.value] ?? choice.value] === false) choice.remove();
    }
  }

  listen() {
    this.controls.addEventListener("input", () => this.apply());
    this.controls.addEventListener("submit", (event) => event.preventDefault());
    this.controls.addEventListener("reset", () => window.setTimeout(() => this.apply()));
    this.pages.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.turn(Number(button.value));
    });
    this.list.addEventListener("click", (event) => {
      const card = event.target.closest("button");
      if (card) this.detail.open(Number(card.dataset.place));
    });
    this.list.addEventListener("focusin", (event) => this.mark(event.target.closest("button")));
    this.list.addEventListener("keydown", (event) => this.walk(event));
  }

  // Filter and sort again, from the first page.
  apply() {
    const choices = this.choices;
    this.rows = this.samples.sorted(this.samples.matching(choices), choices.sort, this.reward);
    this.show(0);
  }

  show(page) {
    this.page = Math.min(Math.max(page, 0), this.pageCount - 1);
    const first = this.page * PER_PAGE;
    const shown = this.rows.slice(first, first + PER_PAGE);
    this.list.replaceChildren(...shown.map((row, place) => this.card(row, first + place)));
    this.mark(this.list.querySelector("button"));
    const { length } = this.rows;
    this.status.textContent = length
      ? `${count(first + 1)} to ${count(first + shown.length)} of ${count(length)} samples`
      : "No sample fits: loosen a filter, or clear them.";
    this.pages.querySelector("span").textContent = `page ${count(this.page + 1)} of ${count(this.pageCount)}`;
    const [back, on] = this.pages.querySelectorAll("button");
    back.disabled = this.page === 0;
    on.disabled = this.page === this.pageCount - 1;
  }

  // Turn a page; the focus stays among the cards if it was there.
  turn(step) {
    const inside = this.list.contains(document.activeElement);
    this.show(this.page + step);
    if (inside) this.focus(this.page * PER_PAGE);
    this.section.scrollIntoView({ block: "start" });
  }

  // Bring a place of the whole sequence into view and give it the focus.
  focus(place) {
    const bounded = Math.min(Math.max(place, 0), this.rows.length - 1);
    const page = Math.floor(bounded / PER_PAGE);
    if (page !== this.page) this.show(page);
    this.list.querySelector(`[data-place="${bounded}"]`)?.focus();
  }

  mark(card) {
    for (const other of this.list.querySelectorAll("button")) other.tabIndex = other === card ? 0 : -1;
  }

  walk(event) {
    const cards = [...this.list.querySelectorAll("button")];
    const here = Number(event.target.dataset.place);
    const top = cards[0].offsetTop;
    const columns = cards.filter((card) => card.offsetTop === top).length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const first = this.page * PER_PAGE;
    const goals = { Home: first, End: first + cards.length - 1 };
    if (event.key in steps && here + steps[event.key] >= 0) goals[event.key] = here + steps[event.key];
    if (event.key in steps || event.key in goals) event.preventDefault();
    if (event.key in goals) this.focus(goals[event.key]);
  }

  card(row, place) {
    const { samples } = this;
    const prompt = samples.promptOf(row);
    const short = prompt.length > CARD_PROMPT ? prompt.slice(0, CARD_PROMPT) + "…" : prompt;
    const button = make(
      "button",
      { type: "button", "data-place": place, "data-row": row, tabindex: -1 },
      thumbnail(samples, row, "", 192),
      make("span", { class: "prompt" }, isolated(short)),
      make("span", { class: "facts" }, ...this.facts(row)),
    );
    const video = button.querySelector("video");
    if (video) playOnVisit(button, video);
    return make("li", { class: "card sample" }, button);
  }

  facts(row) {
    const { samples, reward } = this;
    const { name, decimals } = samples.rewards[reward];
    const order = this.controls.elements.sort.value;
    const gain = order === "gain" || order === "loss" ? samples.gainOf(row, reward) : null;
    const model = samples.modelOf(row);
    return [
      make("span", {}, isolated([samples.splitOf(row), model].filter(Boolean).join(", ") || samples.id[row])),
      labelOf(samples, row),
      make("span", {}, isolated(name), " ", make("b", {}, fixed(samples.scoreOf(row, reward), decimals))),
      gain === null ? null : make("span", {}, "against base ", make("b", {}, signed(gain, decimals))),
      order === "near" ? make("span", {}, "s − τ ", make("b", {}, signed(samples.relative[row], 3))) : null,
      order === "apart" || order === "together"
        ? make("span", {}, "ranks apart ", make("b", {}, percent(samples.disagreement[row])))
        : null,
      samples.errorOf(row) ? make("span", { class: "label negative" }, "error") : null,
    ];
  }
}

function labelOf(samples, row) {
  if (samples.label[row] === null) return null;
  const name = samples.label[row] ? "positive" : "negative";
  return make("span", { class: "label " + name }, name);
}

// The thumbnail of a sample within `side` pixels, at a whole multiple of its size where it is tiny and else within
// `large`; or the reason why there is none. A clip has controls where it stands alone.
function thumbnail(samples, row, alternative, side, large = side, controls = false) {
  const source = samples.sourceOf(row);
  if (!source) return make("span", { class: "no-image" }, isolated(samples.errorOf(row) ?? "no image"));
  const [width, height] = [samples.width[row], samples.height[row]];
  const longer = Math.max(width, height);
  const factor = (longer <= 64 ? side : large) / longer;
  const scale = factor >= 1 ? Math.floor(factor) : factor;
  const shape = {
    width: Math.round(width * scale),
    height: Math.round(height * scale),
    class: longer <= 64 ? "pixelated" : null,
  };
  if (source.startsWith(CLIP)) return clip(source, { ...shape, "aria-label": alternative || null, controls, loop: true });
  return make("img", { src: source, alt: alternative, ...shape, decoding: "async" });
}
