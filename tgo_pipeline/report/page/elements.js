// Small hands for the page: elements without markup, numbers as the tables write them, choices that are remembered.
const MISSING = "–";

// An element with attributes and children; text becomes a text node, so that no prompt can ever be markup.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Outside text, kept apart from the direction of what surrounds it.
const isolated = (text) => make("bdi", {}, text);

function fixed(value, decimals) {
  if (value === null || value === undefined) return MISSING;
  return value.toFixed(decimals).replace("-", "\u2212"); // what rounds to zero keeps its sign
}

function signed(value, decimals) {
  const text = fixed(value, decimals);
  return value > 0 ? "+" + text : text;
}

const percent = (share) => (share === null ? MISSING : fixed(100 * share, 0) + "\u202f%");
const count = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");

// The page's own memory; a browser may forbid it to files, and then a choice lasts as long as the page.
const memory = {
  get(key) {
    try {
      return window.localStorage.getItem("tgo-report-" + key);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      window.localStorage.setItem("tgo-report-" + key, value);
    } catch {
      // nothing to do: see above
    }
  },
};
