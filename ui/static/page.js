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

// A page comes in two pieces. The early one is drawn in a shadow root of its own; the late one, Panel's, takes its place when it is
// drawn, and takes over what was pinned, chosen and typed meanwhile (`early.state`).
const early = {state: {}, drawing: null};

function showEarly() {
  const host = document.getElementById("early");
  const root = host.attachShadow({mode: "closed"});
  root.append(document.getElementById("early-markup").content.cloneNode(true));
  const data = document.getElementById("early-data");
  if (data === null) return;
  const place = document.createElement("div"), {data: payload, state} = JSON.parse(data.textContent);
  root.append(place);
  early.drawing = drawEarly(place, payload, {state, onChange: (change) => Object.assign(early.state, change)});
}

/** Has the late part seen when it is drawn: a drawing says so itself (`lateIsDrawn`); what has none, or fails to, is when Bokeh rests. */
function showLate() {
  let rested = null;
  const wait = () => {
    if (!document.getElementById("early")) return;
    const documents = window.Bokeh?.documents ?? [];
    if (documents.length > 0 && documents.every((one) => one.is_idle)) rested ??= performance.now();
    if (rested !== null && (early.drawing === null ? !isLoading() : performance.now() - rested > 5000)) lateIsDrawn();
    else requestAnimationFrame(wait);
  };
  requestAnimationFrame(wait);
}

/** Whether the late part says that it waits for what a thread finds (`page.later`): the early one says as much, or more. */
function isLoading(root = document.getElementById("late")) {
  return [...root.querySelectorAll("*")].some((one) =>
    (one.matches(".loading") && one.checkVisibility()) || (one.shadowRoot && isLoading(one.shadowRoot)));
}

/** Shows the late part in place of the early; gives what was pinned and chosen there. */
function lateIsDrawn() {
  const state = early.state;
  early.state = {};
  early.drawing?.remove();
  document.getElementById("early")?.remove();
  document.getElementById("late").classList.remove("waiting");
  return state;
}
