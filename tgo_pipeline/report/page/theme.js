// Light, dark, or as the system says: one button that goes through the three.
const THEMES = ["auto", "light", "dark"];

function startTheme() {
  const button = document.getElementById("theme");
  const set = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.querySelector("b").textContent = theme;
    memory.set("theme", theme);
  };
  const saved = memory.get("theme");
  let current = THEMES.includes(saved) ? saved : "auto";
  set(current);
  button.hidden = false;
  button.addEventListener("click", () => {
    current = THEMES[(THEMES.indexOf(current) + 1) % THEMES.length];
    set(current);
  });
}
