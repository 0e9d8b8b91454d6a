/** Examples: positions of generations, each with its whole context, coloured by one value a token on one scale. */

import {button, exactText, floats, node, shortText} from "./base.js";
import {level, palette, ramp, rgba, signedRamp} from "./colour.js";
import {pieces} from "./tokens.js";

const FOLDED_BEYOND = 48;
const SHOWN_AROUND = 16;

/** A scale on which zero is clear, orange is above and blue is below: {paint(value), ceiling, legend(name)}. */
export function signedScale(values, theme) {
  let ceiling = 0, below = false;
  for (const value of values) {
    ceiling = Math.max(ceiling, Math.abs(value) || 0);
    below ||= value < 0;
  }
  const warm = palette(theme.positive, theme), cold = palette(theme.negative, theme);
  const clear = warm[0];
  return {
    ceiling,
    paint: (value) => Number.isFinite(value) && ceiling > 0 ? (value < 0 ? cold : warm)[level(Math.abs(value), ceiling)] : clear,
    legend(name) {
      const box = node("div", "legend");
      const scale = below
        ? signedRamp(theme, "blue is below zero, orange above, zero is clear")
        : ramp((t) => rgba(theme.positive, t.toFixed(3)), "the darker, the larger; zero is clear");
      box.append(node("span", "legend-name", name), node("span", "", below ? shortText(-ceiling) : "0"), scale, node("span", "", shortText(ceiling)));
      return box;
    },
  };
}

/** A list of examples. `examples`: [{generation_id, position, value, note?}]; `contexts`: by generation_id {first, text, generated,
 *  special, values (base64 of float32, NaN where there is none), more_before, more_after}. options: scale, tip, whole (whether long
 *  contexts are shown whole), link(generation_id, position), null
 *  where there is no page to lead to, what (the name of the value). Gives the element. */
export function exampleList(examples, contexts, {scale, tip, whole, link, what}) {
  const list = node("ol", "examples");
  for (const example of examples) list.append(oneExample(example, contexts[example.generation_id]));
  return list;

  function oneExample(example, context) {
    const item = node("li", "example"), n = context.text.length, at = example.position - context.first;
    const values = context.decoded ??= floats(context.values);
    const head = node("div", "example-head");
    const address = link(example.generation_id, example.position);
    const anchor = node(address === null ? "span" : "a", "example-link", `generation ${example.generation_id}, position ${example.position}`);
    if (address !== null) anchor.href = address;
    head.append(node("b", "example-value", shortText(example.value)), anchor);
    if (example.note) head.append(node("span", "example-note", example.note));
    const line = node("div", "context");
    line.setAttribute("role", "listbox");
    line.setAttribute("aria-label", `context, coloured by ${what}`);
    const boxes = new Map();
    let from = 0, to = n;
    if (!whole && n > FOLDED_BEYOND) { from = Math.max(0, at - SHOWN_AROUND); to = Math.min(n, at + SHOWN_AROUND + 1); }
    fill();
    item.append(head, line);
    listen();
    return item;

    function fill() {
      line.replaceChildren();
      boxes.clear();
      if (context.more_before) line.append(node("span", "elsewhere", `… ${context.more_before} before`));
      if (from > 0) line.append(button("unfold", `… ${from} more`, () => { from = 0; fill(); }, `show the ${from} tokens before`));
      for (let place = from; place < to; place++) {
        const token = node("span", "token");
        token.dataset.position = String(context.first + place);
        token.setAttribute("role", "option");
        token.setAttribute("aria-label", `${context.first + place}: ${context.text[place]}: ${valueText(values[place])}`);
        token.setAttribute("aria-selected", String(place === at));
        token.tabIndex = place === at ? 0 : -1;
        token.classList.toggle("generated", Boolean(context.generated[place]));
        token.classList.toggle("special", Boolean(context.special[place]));
        token.classList.toggle("chosen", place === at);
        token.append(...pieces(context.text[place]));
        const [background, ink] = scale.paint(values[place]);
        token.style.backgroundColor = background;
        token.style.color = ink;
        boxes.set(place, token);
        line.append(token);
      }
      if (to < n) line.append(button("unfold", `${n - to} more …`, () => { to = n; fill(); }, `show the ${n - to} tokens after`));
      if (context.more_after) line.append(node("span", "elsewhere", `${context.more_after} after …`));
    }

    function listen() {
      const placeOf = (event) => {
        const token = event.target.closest(".token");
        return token === null ? null : Number(token.dataset.position) - context.first;
      };
      const tell = (event) => {
        const place = placeOf(event);
        if (place !== null) tip.show(boxes.get(place), facts(place));
      };
      line.addEventListener("pointerover", tell);
      line.addEventListener("focusin", tell);
      line.addEventListener("pointerleave", () => tip.hide());
      line.addEventListener("focusout", () => tip.hide());
      line.addEventListener("keydown", (event) => {
        const place = placeOf(event);
        const next = {ArrowLeft: place - 1, ArrowRight: place + 1, Home: from, End: to - 1}[event.key];
        if (place === null || next === undefined || !boxes.has(next)) return;
        for (const token of boxes.values()) token.tabIndex = -1;
        boxes.get(next).tabIndex = 0;
        boxes.get(next).focus();
        event.preventDefault();
      });
    }

    function facts(place) {
      return [
        ["token", JSON.stringify(context.text[place])], ["position", String(context.first + place)],
        [what, valueText(values[place])], ["written by", context.generated[place] ? "model" : "prompt"],
      ];
    }
  }
}

/** The text of a token of a context. */
export function tokenOf(contexts, generation_id, position) {
  const {text, first} = contexts[generation_id];
  return text[position - first];
}

function valueText(value) { return Number.isFinite(value) ? exactText(value) : "not recorded"; }
