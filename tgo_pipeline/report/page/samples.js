// The samples of the gallery: the island's columns, which of them a reader wants to see, and in what order.

// Text without accents, width variants and capitals, so that "ete" finds "Été".
const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

class Samples {
  constructor(island) {
    Object.assign(this, island);
    this.size = island.id.length;
    this.rows = Array.from({ length: this.size }, (_, row) => row);
    this.foldedPrompts = null;
    this.siblings = new Map();
    for (const row of this.rows) {
      if (!this.modelOf(row)) continue;
      const key = this.keyOf(row);
      if (!this.siblings.has(key)) this.siblings.set(key, []);
      this.siblings.get(key).push(row);
    }
  }

  keyOf(row) {
    return this.split[row] + " " + this.id[row];
  }

  promptOf(row) {
    return this.prompts[this.prompt[row]];
  }

  splitOf(row) {
    return this.splits[this.split[row]];
  }

  modelOf(row) {
    return this.models[this.model[row]];
  }

  errorOf(row) {
    return this.error[row] === null ? null : this.errors[this.error[row]];
  }

  sourceOf(row) {
    const kind = this.moving[row] ? "video/mp4" : "image/webp";
    return this.image[row] && `data:${kind};base64,${this.image[row]}`;
  }

  scoreOf(row, reward) {
    return this.scores[reward][row];
  }

  // What every model made of the same prompt and seed, in the order of the models; a training image stands alone.
  together(row) {
    return this.siblings.get(this.keyOf(row)) ?? [row];
  }

  // The two sides of a comparison: base, and this row's model (or tuned, for a row of base).
  sidesOf(row) {
    const all = this.together(row);
    const base = all.find((other) => this.modelOf(other) === "base");
    const chosen =
      this.modelOf(row) === "base" ? all.find((other) => this.modelOf(other) === "tuned") : row;
    return base === undefined || chosen === undefined || base === chosen ? null : [base, chosen];
  }

  // Score of the compared model over that of base, or null.
  gainOf(row, reward) {
    const sides = this.sidesOf(row);
    if (!sides) return null;
    const [before, after] = sides.map((side) => this.scoreOf(side, reward));
    return before === null || after === null ? null : after - before;
  }

  get hasPairs() {
    return this.rows.some((row) => this.sidesOf(row));
  }

  // The prompts in which every word of a query occurs, as a set of their places.
  promptsWith(query) {
    const words = folded(query).split(/\s+/).filter(Boolean);
    if (!words.length) return null;
    this.foldedPrompts ??= this.prompts.map(folded);
    const found = new Set();
    this.foldedPrompts.forEach((prompt, place) => {
      if (words.every((word) => prompt.includes(word))) found.add(place);
    });
    return found;
  }

  // Rows that pass every filter: `split` and `model` by name, `label` as "1", "0" or "none", `error` as "yes" or "no".
  matching({ query, split, model, label, error }) {
    const prompts = this.promptsWith(query);
    const splitPlace = this.splits.indexOf(split);
    const modelPlace = this.models.indexOf(model);
    return this.rows.filter(
      (row) =>
        (prompts === null || prompts.has(this.prompt[row])) &&
        (!split || this.split[row] === splitPlace) &&
        (!model || this.model[row] === modelPlace) &&
        (!label || String(this.label[row] ?? "none") === label) &&
        (!error || (this.error[row] !== null) === (error === "yes")),
    );
  }

  // Rows in the order that was asked for; rows that have no such value come last, equal ones as in the run.
  sorted(rows, order, reward) {
    const keys = {
      high: (row) => negative(this.scoreOf(row, reward)),
      low: (row) => this.scoreOf(row, reward),
      apart: (row) => negative(this.disagreement[row]),
      together: (row) => this.disagreement[row],
      gain: (row) => negative(this.gainOf(row, reward)),
      loss: (row) => this.gainOf(row, reward),
      near: (row) => magnitude(this.relative[row]),
    };
    if (!(order in keys)) return rows;
    const values = new Map(rows.map((row) => [row, keys[order](row) ?? Infinity]));
    return rows.sort((a, b) => (values.get(a) < values.get(b) ? -1 : values.get(a) > values.get(b) ? 1 : a - b));
  }
}

const negative = (value) => (value === null ? null : -value);
const magnitude = (value) => (value === null ? null : Math.abs(value));
