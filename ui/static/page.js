// What every page does beside its own work: the theme that was chosen, the address, and the buttons that copy.
"use strict";

const THEMES = ["light", "dark"];  // and neither, which is the system's

function chosenTheme() {
  try { return localStorage.getItem("actlake-theme") ?? "system"; } catch { return "system"; }
}

function showTheme(theme) {
  if (THEMES.includes(theme)) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  for (const button of document.querySelectorAll(".themes button"))
    button.setAttribute("aria-pressed", String(button.value === theme));
}

showTheme(chosenTheme());  // before the body is there, so that no page flashes
document.addEventListener("DOMContentLoaded", () => showTheme(chosenTheme()));
window.addEventListener("storage", (event) => { if (event.key === "actlake-theme") showTheme(chosenTheme()); });

// A page's state is its address: Back and Forward change the address, so the page is asked for again.
window.addEventListener("popstate", () => window.location.reload());

// A click inside of a shadow root is seen from here, and composedPath() says on what.
document.addEventListener("click", (event) => {
  const button = event.composedPath().find((node) => node instanceof HTMLButtonElement);
  if (button?.closest(".themes")) {
    try { localStorage.setItem("actlake-theme", button.value); } catch { /* for this page alone, then */ }
    showTheme(button.value);
  } else if (button?.dataset.copy !== undefined) copy(button);
});

/** Copies a button's text; where the browser allows no page to (an address without TLS), shows it selected, to be copied by hand. */
async function copy(button) {
  const box = button.closest(".copies");
  const [said, field] = [box.querySelector("output"), box.querySelector("textarea")];
  let copied = true;
  try {
    await navigator.clipboard.writeText(button.dataset.copy);
  } catch {
    field.hidden = false;
    field.value = button.dataset.copy;
    field.focus();
    field.select();
    copied = document.execCommand("copy");
  }
  if (copied) field.hidden = true;
  said.textContent = copied ? "copied" : "press Ctrl+C";
  if (copied) setTimeout(() => { said.textContent = ""; }, 2000);
}
