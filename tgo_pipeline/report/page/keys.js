// Keys of the whole page. Single letters can be switched off, for readers whose speech or switches send them.
function startKeys(gallery) {
  const help = document.getElementById("help");
  const allowed = help.querySelector("input");
  allowed.checked = memory.get("keys") !== "off";
  allowed.addEventListener("change", () => memory.set("keys", allowed.checked ? "on" : "off"));
  const button = document.getElementById("keys");
  button.hidden = false;
  button.addEventListener("click", () => help.showModal());
  const actions = {
    "?": () => help.showModal(),
    t: () => document.getElementById("theme").click(),
    ...(gallery && {
      "/": () => {
        gallery.section.scrollIntoView({ block: "start" });
        gallery.search.focus({ preventScroll: true });
      },
      n: () => gallery.turn(1),
      p: () => gallery.turn(-1),
    }),
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    const modified = event.ctrlKey || event.metaKey || event.altKey;
    if (typing || modified || !allowed.checked || document.querySelector("dialog[open]")) return;
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  });
  if (gallery) leaveSearch(gallery);
  for (const close of document.querySelectorAll("dialog [data-close]")) {
    close.addEventListener("click", () => close.closest("dialog").close());
  }
}

// In the search box Enter goes to the first card; Escape empties the box, and then goes there too.
function leaveSearch(gallery) {
  gallery.search.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && gallery.search.value) {
      gallery.search.value = "";
      gallery.apply();
    } else if (event.key === "Enter" || event.key === "Escape") {
      gallery.focus(0);
    } else {
      return;
    }
    event.preventDefault();
  });
}
