/** Input saliency on a line of tokens: how much each input moved one output. */

import {choice, exactText, floats, node, percent} from "./base.js";
import {level, palette, ramp, rgb, rgba, signedRamp} from "./colour.js";
import {mention, tokenFacts, tokenLine} from "./tokens.js";

const STRONGEST_SHOWN = 4;

/** Tokens coloured by how much each input moved one output; hover an output to see its row, click to pin it.
 *  data.saliency: {method, signed, outputs, shares}: outputs are the boxes that are explained, shares is base64 of
 *  little-endian float32, [outputs, boxes]. state: output (a pinned position or null), detailed (boolean). */
export function saliency(element, data, {state, theme, onChange}) {
  const {tokens, saliency: given} = data;
  const n = tokens.text.length;
  const shares = floats(given.shares);
  const rows = new Map(given.outputs.map((output, row) => [output, row]));
  const {ceiling, clipped} = shareCeiling(shares, n);
  const colour = palette(theme.magnitude, theme), warm = palette(theme.positive, theme), cold = palette(theme.negative, theme);
  const ink = rgb(theme.ink), surface = rgb(theme.card), soft = rgb(theme.soft);
  let pinned = boxAt(state.output);
  let detailed = Boolean(state.detailed);
  let shown = pinned ?? lastWritten();

  const strip = node("div", "strip strip-saliency");
  const bar = node("div", "bar");
  const readout = node("div", "readout");
  readout.setAttribute("aria-live", "polite");
  const forms = choice("form", [["Minimal", false], ["Detailed", true]], detailed, (on) => { detail(on); onChange({detailed: on}); });
  bar.append(legend(), forms.element);
  const line = tokenLine(strip, tokens, {
    over(position) { if (pinned === null && rows.has(position)) show(position); },
    press(position) { if (rows.has(position)) pin(position === pinned ? null : position); },
    release() { if (pinned !== null) pin(null); },
    facts: (position) => facts(position),
  });
  if (given.masked) for (const output of rows.keys()) line.boxes[output].classList.add("masked");
  strip.append(bar, line.element, readout);
  element.replaceChildren(strip);
  detail(detailed);
  if (rows.size) show(shown);
  else readout.textContent = "Nothing was generated here, so there is no output token to explain.";

  /** The box of an output position that is written in the address. */
  function boxAt(position) {
    if (!Number.isInteger(position)) return null;
    const box = tokens.first.findLastIndex((first) => first <= position);
    return rows.has(box) ? box : null;
  }

  function share(output, input) { return shares[rows.get(output) * n + input]; }

  function isInput(output, input) { return given.masked ? true : input < output; }

  function show(output) {
    shown = output;
    line.colour((position) => {
      if (position === output) return [ink, surface];
      if (!isInput(output, position)) return ["transparent", soft];
      const value = share(output, position);
      return (given.signed ? (value < 0 ? cold : warm) : colour)[level(Math.abs(value), ceiling)];
    });
    if (detailed) writeShares();
    line.mark(output, pinned !== null);
    readStrongest();
  }

  function pin(output) {
    pinned = output;
    if (output !== null) show(output);
    else { line.mark(shown, false); readStrongest(); }
    onChange({output: pinned === null ? null : tokens.last[pinned]});
  }

  function detail(on) {
    detailed = on;
    strip.classList.toggle("detailed", on);
    forms.set(on);
    if (on && rows.size) writeShares();
  }

  function writeShares() {
    for (let position = 0; position < n; position++)
      line.note(position, counted(shown, position) ? percent(share(shown, position)) : "");
  }

  /** Whether an output's share of an input is told: it is of all before the output, and of its own box where what it owes to an
   *  earlier token of its own word or line stays in it. */
  function counted(output, input) { return isInput(output, input) || Boolean(share(output, input)); }

  function inputs() { return Array.from({length: n}, (_, position) => position).filter((position) => counted(shown, position)); }

  function readStrongest() {
    const strongest = inputs().sort((a, b) => Math.abs(share(shown, b)) - Math.abs(share(shown, a))).slice(0, STRONGEST_SHOWN);
    const heading = node("span", "reading");
    heading.append("Strongest inputs to output ", mention(tokens, shown));
    const list = node("span", "strongest");
    for (const position of strongest) {
      const item = node("span", "strongest-item");
      item.append(mention(tokens, position), node("b", "", percent(share(shown, position))));
      list.append(item);
    }
    readout.replaceChildren(heading, list);
    readout.append(node("span", pinned === null ? "hint" : "hint pinned", pinned === null ? "click an output to pin it" : "pinned · Esc releases"));
  }

  function facts(position) {
    const rowsOfFacts = tokenFacts(tokens, position);
    if (rows.size && counted(shown, position))
      rowsOfFacts.push([`share of output ${tokens.last[shown]}`, exactText(share(shown, position))]);
    return rowsOfFacts;
  }

  function legend() {
    const box = node("div", "legend");
    const top = percent(ceiling, 0);
    if (given.signed)
      box.append(node("span", "legend-name", "signed share"), node("span", "", `against ${clipped ? "≤ " : ""}−${top}`), signedRamp(theme, "blue speaks against the output, orange for it"), node("span", "", `${clipped ? "≥ " : ""}+${top} for`));
    else
      box.append(node("span", "legend-name", "share"), node("span", "", "0"), ramp((t) => rgba(theme.magnitude, t.toFixed(3)), "the darker, the larger the share"), node("span", "", `${clipped ? "≥ " : ""}${top}`));
    if (given.target) box.append(node("span", "", `of the ${given.target}`));
    box.append(swatch("swatch-output", "output explained"), swatch("swatch-generated", given.masked ? "masked" : "generated"));
    return box;
  }

  function lastWritten() {
    const boxes = [...rows.keys()];
    return boxes.findLast((box) => !tokens.special[box]) ?? boxes.at(-1) ?? 0;
  }

  return {
    element: strip,
    settle: line.settle,
    table: () => ({
      columns: ["output_position", "input_position", "token", "share"],
      rows: rows.size ? inputs().map((input) => [tokens.last[shown], tokens.first[input], tokens.text[input], share(shown, input)]) : [],
    }),
    update(now) {
      pinned = boxAt(now.output);
      detail(Boolean(now.detailed));
      if (pinned !== null) show(pinned);
    },
  };
}

function swatch(kind, text) {
  const item = node("span", "swatch-item");
  item.append(node("span", `swatch ${kind}`), text);
  return item;
}

/** The share at which the colour is full, the same for all outputs: what the typical output's largest share is. Were it
 *  the largest of all, a first output with a single input (its share is always 1) would pale all others. */
function shareCeiling(shares, columns) {
  const peaks = [];
  for (let start = 0; start < shares.length; start += columns) {
    let peak = 0;
    for (let i = start; i < start + columns; i++) peak = Math.max(peak, Math.abs(shares[i]));
    peaks.push(peak);
  }
  peaks.sort((a, b) => a - b);
  const typical = peaks[Math.floor(peaks.length / 2)] || 1;
  const ceiling = Math.min(1, Math.ceil(typical * 20 - 1e-6) / 20);
  return {ceiling, clipped: (peaks.at(-1) ?? 0) > ceiling + 1e-6};
}
