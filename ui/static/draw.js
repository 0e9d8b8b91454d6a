/** The one door of the module: `draw` draws a payload in any page; `render` is Panel's way to it. */

import {node} from "./base.js";
import {themeOf, watchTheme} from "./colour.js";
import {tools} from "./tools.js";

/** Draws `data` (what `actlake.ui` makes, whose `kind` names the view) into `element`, and again when the page becomes
 *  light or dark. options: state (what is pinned and chosen), onChange(change of the state).
 *  Gives {update(state), remove()}. */
export function draw(element, data, {state = {}, onChange = () => {}} = {}) {
  const view = VIEWS[data.kind];
  if (!view) throw new Error(`no view draws ${JSON.stringify(data.kind)}; there are ${Object.keys(VIEWS).join(", ")}`);
  let now = {...state}, drawn = null;
  const again = () => {
    const change = (changed) => { now = {...now, ...changed}; onChange(changed); };
    drawn = view(element, data, {state: now, theme: themeOf(element), onChange: change});
    const strip = element.firstElementChild;
    if (data.note) strip.append(node("p", "left-out", `Left out: ${data.note}.`));
    strip.append(tools(strip, data.name ?? data.kind, drawn));
  };
  const unwatch = watchTheme(again);
  again();
  return {
    update(changed) { now = {...now, ...changed}; drawn.update?.(now); },
    remove() { unwatch(); element.replaceChildren(); },
  };
}

/** Panel's door: draws `model.payload` (JSON text, empty while it is being worked out) and writes the state back. */
export function render({model}) {
  const element = document.createElement("div");
  let drawing = null, written = "";
  const drawPayload = () => {
    drawing?.remove();
    drawing = null;
    if (model.payload === "") { element.replaceChildren(node("div", "strip waiting")); return; }
    const onChange = (change) => {
      const state = {...model.state, ...change};
      written = JSON.stringify(state);
      model.state = state;
    };
    drawing = draw(element, JSON.parse(model.payload), {state: model.state, onChange});
    const early = globalThis.lateIsDrawn?.() ?? {};  // of the part of the page that was there before the session
    if (Object.keys(early).length > 0) { onChange(early); drawing.update(early); }
  };
  const wait = () => element.classList.toggle("busy", model.busy);
  model.on("payload", drawPayload);
  model.on("busy", () => {
    wait();
    if (!model.busy && model.payload === "") globalThis.lateIsDrawn?.();  // nothing comes: the page says why
  });
  model.on("state", () => { if (JSON.stringify(model.state) !== written) drawing?.update(model.state); });
  drawPayload();
  wait();
  return element;
}

export default {render};
