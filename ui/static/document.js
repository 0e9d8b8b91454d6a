// What starts the drawings of a page that stands alone: the views as tabs, the address's # as what is shown and pinned.

const given = JSON.parse(document.getElementById("data").textContent);
const stage = document.getElementById("drawing"), tabs = [...document.querySelectorAll("[data-view]")];
let drawing = null, chosen = null;

function showView(place) {
  chosen = place;
  drawing?.remove();
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(Number(tab.dataset.view) === place));
    tab.tabIndex = Number(tab.dataset.view) === place ? 0 : -1;
  }
  const one = given[place];
  drawing = draw(stage, one.payload, {state: one.state, onChange: (change) => { one.state = {...one.state, ...change}; remember(); }});
}

function remember() {
  try { history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify([chosen, given[chosen].state]))}`); } catch { /* a frame without an address */ }
}

function fromAddress() {
  try {
    const [place, state] = JSON.parse(decodeURIComponent(location.hash.slice(1)));
    if (!given[place] || typeof state !== "object") return 0;
    given[place].state = state;
    return place;
  } catch { return 0; }
}

for (const tab of tabs) {
  tab.addEventListener("click", () => { showView(Number(tab.dataset.view)); remember(); });
  tab.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step === undefined) return;
    const next = tabs[(Number(tab.dataset.view) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
    event.preventDefault();
  });
}
showView(fromAddress());
window.addEventListener("hashchange", () => showView(fromAddress()));

// In a notebook's frame: the frame becomes as high as what it holds.
if (window.parent !== window)
  new ResizeObserver(() => window.parent.postMessage({actlakeHeight: Math.ceil(document.body.getBoundingClientRect().height) + 2}, "*")).observe(document.body);
