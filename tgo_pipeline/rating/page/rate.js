// The page of `tgo rate`: asks the server for a question, shows it, sends the answer, and goes on.
const $ = id => document.getElementById(id);
const RATER = "tgo rater";
const AGAIN_MS = 2000;
const CHOICES = {
  stars: [1, 2, 3, 4, 5].map(n => ({ value: n, keys: [String(n)], sign: "★", text: String(n), name: n === 1 ? "1 star" : `${n} stars` })),
  thumbs: [
    { value: 0, keys: ["arrowleft", "arrowdown", "0", "-"], sign: "−", text: "Bad", key: "←", name: "thumb down" },
    { value: 1, keys: ["arrowright", "arrowup", "1", "+"], sign: "+", text: "Good", key: "→", name: "thumb up" },
  ],
  pairs: [
    { value: 1, keys: ["arrowleft", "1"], sign: "←", text: "Left", key: "←", name: "the left one" },
    { value: 0.5, keys: ["arrowdown", "t", "="], sign: "=", text: "Tie", key: "↓", name: "a tie" },
    { value: 0, keys: ["arrowright", "2"], sign: "→", text: "Right", key: "→", name: "the right one" },
  ],
};
let rater = sessionStorage.getItem(RATER);
let ask = "stars", question = null, shownAt = 0, busy = false;

async function call(name, content = {}) {
  const answer = await fetch(name, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content),
  });
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { refused: true });
  return found;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function problem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text;
}

// What was asked for reaches the server, however long that takes; null if the server refuses it.
async function persistently(name, content) {
  busy = true;
  document.body.ariaBusy = "true";
  try {
    for (;;) {
      try {
        const found = await call(name, content);
        problem("");
        return found;
      } catch (error) {
        if (error.refused) {
          problem(`Not saved: ${error.message}`);
          return null;
        }
        problem("Not saved yet: the server does not answer, this page tries again. If it was ended, start tgo rate again.");
        await new Promise(done => setTimeout(done, AGAIN_MS));
      }
    }
  } finally {
    busy = false;
    document.body.ariaBusy = "false";
  }
}

function show(part) {
  for (const id of ["begin", "question", "finished"]) $(id).hidden = id !== part;
  $("status").hidden = $("details").hidden = part === "begin";
}

async function begin() {
  const known = await persistently("raters");
  if (!known) return;
  ask = known.ask;
  if (rater) return take(await persistently("next", { rater }));
  $("known").replaceChildren(...known.raters.map(name =>
    element("button", { type: "button", textContent: `Go on as ${name}`, onclick: () => enter(name) })));
  show("begin");
  $("rater").value = "";
  $("rater").focus();
}

async function enter(name) {
  const found = await persistently("next", { rater: name });
  if (!found) return;
  rater = name;
  sessionStorage.setItem(RATER, rater);
  take(found);
}

function take(found) {
  if (!found) return;
  if (found.nothing) $("said").textContent = "There is nothing to undo.";
  question = found.question;
  $("name").textContent = rater;
  $("count").textContent = `${found.done} of ${found.of}`;
  $("bar").max = found.of;
  $("bar").value = found.done;
  if ($("details").open) summarise();
  if (!question) {
    show("finished");
    $("finished-title").focus();
    return;
  }
  show("question");
  draw(found.undone);
  for (const address of found.ahead) isClip(address) ? fetch(address) : (new Image().src = address);
}

function draw(undone) {
  $("prompt").textContent = question.prompt ?? "(no prompt)";
  $("prompt").className = question.prompt ? "" : "none";
  const sides = question.images.length > 1 ? ["left", "right"] : [""];
  $("images").replaceChildren(...question.images.map((address, place) => imageOf(address, sides[place])));
  $("controls").className = ask;
  $("controls").replaceChildren(...CHOICES[ask].map(choice => {
    const button = element("button", { type: "button", ariaLabel: choice.name, onclick: event => once(event, choice) },
      element("span", { className: "sign", textContent: choice.sign }),
      element("span", {}, choice.text, " ", ...(choice.key ? [element("kbd", { textContent: choice.key })] : [])));
    button.setAttribute("aria-keyshortcuts", choice.keys[0]);
    button.dataset.value = choice.value;
    if (choice.value === undone) button.className = "chosen";
    return button;
  }));
  $("prompt").focus({ preventScroll: true });
}

const isClip = address => address.startsWith("clip/");
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

// A clip plays over and over, without a sound; by itself unless the system asks for less motion.
function pictured(address, side) {
  if (!isClip(address)) return element("img", { src: address, alt: side ? `The ${side} image` : "The image to rate", draggable: false });
  const video = element("video", { src: address, muted: true, loop: true, playsInline: true, autoplay: !calm.matches, controls: calm.matches && !side });
  video.setAttribute("aria-label", side ? `The ${side} clip` : "The clip to rate");
  return video;
}

function imageOf(address, side) {
  const image = pictured(address, side), what = isClip(address) ? "clip" : "image";
  const holder = side
    ? element("button", { type: "button", ariaLabel: `The ${side} ${what} is better`, onclick: event => once(event, CHOICES.pairs[side === "left" ? 0 : 2]) }, image)
    : element("div", {}, image);
  image.onload = image.onloadeddata = () => { image.classList.toggle("tiny", (image.naturalWidth ?? image.videoWidth) <= 128); };
  image.onerror = () => holder.replaceChildren(element("span", { className: "lost", textContent: `This ${what} cannot be shown: skip it.` }));
  if (isClip(address)) holder.onmouseenter = holder.onfocus = () => image.play();
  shownAt = performance.now();
  const there = isClip(address) ? new Promise(done => image.addEventListener("loadeddata", done)) : image.decode();
  there.then(() => { shownAt = performance.now(); }, () => null);  // a slow image does not count
  return holder;
}

// A double click answers once: its second click would fall on the next question.
function once(event, choice) {
  if (event.detail < 2) answer(choice);
}

async function answer(choice) {
  if (busy || !question || $("question").hidden) return;
  const seconds = (performance.now() - shownAt) / 1000;
  const id = [...crypto.getRandomValues(new Uint8Array(8))].map(byte => byte.toString(16).padStart(2, "0")).join("");
  const found = await persistently("answer", { rater, question: question.id, value: choice.value, id, seconds });
  if (found) $("said").textContent = `Saved: ${choice.name}. ${found.done} of ${found.of}.`;
  take(found);
}

async function undo() {
  if (busy || !rater) return;
  take(await persistently("undo", { rater }));
}

const skip = () => answer({ value: null, name: "skipped" });

async function summarise() {
  const found = await call("summary").catch(() => null);  // an answer need not wait for it
  if (!found) return;
  const cell = (tag, text) => element(tag, { textContent: text });
  const table = element("table", {},
    element("thead", {}, element("tr", {}, ...["rater", "answers", "skipped", "median s"].map(text => cell("th", text)))),
    element("tbody", {}, ...found.raters.map(one => element("tr", {}, cell("th", one.name), cell("td", one.answers),
      cell("td", one.skipped), cell("td", one.seconds === null ? "–" : one.seconds.toFixed(1))))));
  const agreed = found.alpha === null ? "Agreement: not known until two people have judged the same."
    : `Agreement (Krippendorff's alpha): ${found.alpha.toFixed(2)} on ${found.shared} that several judged; 1 is agreement, 0 is chance.`;
  $("summary").replaceChildren(table, cell("p", agreed));
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.matches("input")) return;
  if ($("question").hidden && $("finished").hidden) return;
  const key = event.key.toLowerCase();
  const choice = question && CHOICES[ask].find(one => one.keys.includes(key));
  if (choice) answer(choice);
  else if (key === "s" && question) skip();
  else if (key === "u" || key === "backspace") undo();
  else return;
  event.preventDefault();
});
$("begin").addEventListener("submit", event => {
  event.preventDefault();
  enter($("rater").value.trim());
});
$("undo").onclick = $("undo-last").onclick = undo;
$("skip").onclick = skip;
$("details").addEventListener("toggle", () => { if ($("details").open) summarise(); });
$("who").onclick = () => {
  rater = null;
  sessionStorage.removeItem(RATER);
  begin();
};
begin();
