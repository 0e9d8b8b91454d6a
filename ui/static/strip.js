/**
 * The token strip: a generation's tokens on a line, coloured by saliency or by factors.
 *
 * One plain ES module without a dependency. It draws the same thing in the app (Panel calls `render`), in a notebook and
 * in a page saved to disk (they call `saliencyStrip` or `factorStrip`). Every text reaches the page through `textContent`.
 * Its styles are `strip.css`; whoever loads the one loads the other.
 *
 * `data` is what `actlake.ui.strip` makes:
 *   tokens    {text, id, generated, special, logprob, rank, entropy}: one array each, one entry a position
 *   n_prompt  how many of the tokens are the prompt
 *   saliency  {method, signed, shares}: shares is base64 of little-endian float32, [n_tokens - n_prompt, n_tokens - 1]
 *   factors   {k, layers, error, values}: values is base64 of little-endian float32, [n_tokens, k], NaN where a token has none
 */

const INK = "rgb(17, 24, 39)";
const FAINT_INK = "rgb(107, 114, 128)";
const MAGNITUDE = [76, 29, 149];
const POSITIVE = [179, 72, 0];
const NEGATIVE = [0, 90, 156];

// Okabe and Ito's colours and Tol's, ordered so that neighbours differ in lightness too; past them, hues by the golden angle.
const FACTOR_COLOURS = [
  [0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [51, 34, 136], [221, 160, 20],
  [136, 34, 85], [86, 180, 233], [17, 119, 51], [170, 68, 153], [120, 94, 60], [68, 170, 153],
];

const LEVELS = 255;
const SPARK_BINS = 240;
const STRONGEST_SHOWN = 4;

/** Tokens coloured by how much each input moved one output token; hover an output to see its row, click to pin it.
 *  options: output (a pinned position or null), detailed (boolean), onChange({output} or {detailed}).
 *  Returns {element, select(output), detail(on), remove()}. */
export function saliencyStrip(element, data, options = {}) {
  const {tokens, n_prompt: nPrompt, saliency} = data;
  const n = tokens.text.length;
  const shares = floats(saliency.shares);
  const columns = n - 1;
  const {ceiling, clipped} = shareCeiling(shares, columns);
  const colour = palette(MAGNITUDE), warm = palette(POSITIVE), cold = palette(NEGATIVE);
  const changed = options.onChange ?? (() => {});
  let pinned = isOutput(options.output) ? options.output : null;
  let detailed = Boolean(options.detailed);
  let shown = pinned ?? lastWritten(tokens, nPrompt);

  const strip = node("div", "strip strip-saliency");
  const bar = node("div", "bar");
  const readout = node("div", "readout");
  readout.setAttribute("aria-live", "polite");
  const forms = formSwitch(detailed, (on) => { detail(on); changed({detailed: on}); });
  bar.append(legend(), forms.element);
  const line = tokenLine(strip, tokens, nPrompt, {
    over(position) { if (pinned === null && isOutput(position)) show(position); },
    press(position) { if (isOutput(position)) pin(position === pinned ? null : position); },
    release() { if (pinned !== null) pin(null); },
    facts: (position) => facts(position),
  });
  strip.append(bar, line.element, readout);
  element.replaceChildren(strip);
  detail(detailed);
  if (n > nPrompt) show(shown);
  else readout.textContent = "Nothing was generated here, so there is no output token to explain.";

  function isOutput(position) {
    return Number.isInteger(position) && position >= nPrompt && position < n && position > 0;
  }

  function share(output, input) {
    return input < output ? shares[(output - nPrompt) * columns + input] : 0;
  }

  function show(output) {
    shown = output;
    for (let position = 0; position < n; position++) {
      if (position === output) line.paint(position, INK, "white");
      else if (position > output) line.paint(position, "transparent", FAINT_INK);
      else {
        const value = share(output, position);
        const paint = saliency.signed ? (value < 0 ? cold : warm) : colour;
        line.paint(position, ...paint[level(Math.abs(value), ceiling)]);
      }
    }
    if (detailed) writeShares();
    line.mark(output, pinned !== null);
    readStrongest();
  }

  function pin(output) {
    pinned = output;
    if (output !== null) show(output);
    else { line.mark(shown, false); readStrongest(); }
    changed({output: pinned});
  }

  function detail(on) {
    detailed = on;
    strip.classList.toggle("detailed", on);
    forms.set(on);
    if (on && n > nPrompt) writeShares();
  }

  function writeShares() {
    for (let position = 0; position < n; position++)
      line.note(position, position < shown ? percent(share(shown, position)) : "");
  }

  function readStrongest() {
    const inputs = Array.from({length: shown}, (_, position) => position)
      .sort((a, b) => Math.abs(share(shown, b)) - Math.abs(share(shown, a)))
      .slice(0, STRONGEST_SHOWN);
    const heading = node("span", "reading");
    heading.append("Strongest inputs to output ", mention(tokens, shown));
    const list = node("span", "strongest");
    for (const position of inputs) {
      const item = node("span", "strongest-item");
      item.append(mention(tokens, position), node("b", "", percent(share(shown, position))));
      list.append(item);
    }
    readout.replaceChildren(heading, list);
    readout.append(node("span", pinned === null ? "hint" : "hint pinned", pinned === null ? "click an output to pin it" : "pinned · Esc releases"));
  }

  function facts(position) {
    const rows = tokenFacts(tokens, position, nPrompt);
    if (position < shown) rows.push([`share of output ${shown}`, signedText(share(shown, position), 4)]);
    return rows;
  }

  function legend() {
    const box = node("div", "legend");
    const top = percent(ceiling, 0);
    const ramp = node("span", "ramp");
    ramp.setAttribute("role", "img");
    if (saliency.signed) {
      ramp.style.background = `linear-gradient(to right, ${rgba(NEGATIVE, 1)}, ${rgba(NEGATIVE, 0)} 50%, ${rgba(POSITIVE, 0)} 50%, ${rgba(POSITIVE, 1)})`;
      box.append(node("span", "legend-name", "signed share"), node("span", "", `against ${clipped ? "≤ " : ""}−${top}`), ramp, node("span", "", `${clipped ? "≥ " : ""}+${top} for`));
      ramp.setAttribute("aria-label", "blue speaks against the output, orange for it");
    } else {
      ramp.style.background = `linear-gradient(to right, ${rgba(MAGNITUDE, 0)}, ${rgba(MAGNITUDE, 1)})`;
      box.append(node("span", "legend-name", "share"), node("span", "", "0"), ramp, node("span", "", `${clipped ? "≥ " : ""}${top}`));
      ramp.setAttribute("aria-label", "the darker, the larger the share");
    }
    box.append(swatch("swatch-output", "output explained"), swatch("swatch-generated", "generated"));
    return box;
  }

  return {
    element: strip,
    select(output) { pinned = isOutput(output) ? output : null; if (pinned !== null) show(pinned); },
    detail,
    remove() { strip.remove(); },
  };
}

/** Sparklines, one a factor, beside the tokens; hovering a factor paints the tokens with it, a click pins it.
 *  Values are drawn relative to each factor's own peak: the scale of a factor is arbitrary, its shape is not.
 *  options: factor (a pinned factor or null), onChange({factor}). Returns {element, select(factor), remove()}. */
export function factorStrip(element, data, options = {}) {
  const {tokens, n_prompt: nPrompt, factors} = data;
  const n = tokens.text.length, k = factors.k;
  const given = floats(factors.values), values = relativeToPeak(given, n, k);
  const palettes = Array.from({length: k}, (_, factor) => palette(factorColour(factor)));
  const strongest = Array.from({length: n}, (_, position) => strongestFactor(values, position, k));
  const changed = options.onChange ?? (() => {});
  let pinned = isFactor(options.factor) ? options.factor : null;

  const strip = node("div", "strip strip-factors");
  const side = node("div", "sparks");
  side.setAttribute("role", "group");
  side.setAttribute("aria-label", "factors");
  const main = node("div", "main");
  const readout = node("div", "readout");
  readout.setAttribute("aria-live", "polite");
  const sparks = Array.from({length: k}, (_, factor) => sparkline(factor));
  const line = tokenLine(strip, tokens, nPrompt, {
    over: point,
    out() { point(null); },
    release() { if (pinned !== null) pin(null); },
    facts: (position) => facts(position),
  });
  side.append(...sparks.map((spark) => spark.element));
  main.append(line.element, readout);
  strip.append(side, main);
  side.addEventListener("pointerover", (event) => { const factor = factorAt(event); if (factor !== null) show(factor); });
  side.addEventListener("pointerleave", () => show(pinned));
  side.addEventListener("focusin", (event) => show(factorAt(event)));
  side.addEventListener("focusout", () => show(pinned));
  side.addEventListener("click", (event) => {
    const factor = factorAt(event);
    if (factor !== null) pin(factor === pinned ? null : factor);
  });
  side.addEventListener("keydown", sideKey);
  element.replaceChildren(strip);
  show(pinned);

  function isFactor(factor) { return Number.isInteger(factor) && factor >= 0 && factor < k; }

  function factorAt(event) {
    const row = event.target.closest(".spark");
    return row === null ? null : Number(row.dataset.factor);
  }

  function show(factor) {
    for (let position = 0; position < n; position++) {
      const worn = factor ?? strongest[position];
      line.paint(position, ...palettes[worn][level(values[position * k + worn], 1)]);
    }
    for (const spark of sparks) spark.element.classList.toggle("shown", spark.factor === factor);
    read(factor);
  }

  function pin(factor) {
    pinned = factor;
    for (const spark of sparks) spark.element.setAttribute("aria-pressed", String(spark.factor === pinned));
    show(pinned);
    changed({factor: pinned});
  }

  function point(position) {
    for (const spark of sparks) spark.point(position);
  }

  function sideKey(event) {
    const factor = factorAt(event);
    const step = {ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1}[event.key];
    if (step === undefined) return;
    sparks[(factor + step + k) % k].element.focus();
    event.preventDefault();
  }

  function read(factor) {
    const hint = node("span", pinned === null ? "hint" : "hint pinned", pinned === null ? factor === null ? "hover a factor to see where it is active" : "click pins it" : "pinned · Esc releases");
    if (factor === null) {
      const error = Number.isFinite(factors.error) ? ` · relative error ${factors.error.toFixed(3)}` : "";
      readout.replaceChildren(node("span", "reading", `Each token wears the colour of its strongest factor${error}`), hint);
      return;
    }
    const ramp = node("span", "ramp");
    ramp.style.background = `linear-gradient(to right, ${rgba(factorColour(factor), 0)}, ${rgba(factorColour(factor), 1)})`;
    let peak = 0;
    for (let position = 1; position < n; position++)
      if (values[position * k + factor] > values[peak * k + factor]) peak = position;
    const reading = node("span", "reading");
    reading.append(`Factor ${factor} peaks at `, mention(tokens, peak));
    const scale = node("span", "legend");
    scale.append(node("span", "", "0"), ramp, node("span", "", "its peak"));
    readout.replaceChildren(reading, scale, hint);
  }

  function facts(position) {
    const rows = tokenFacts(tokens, position, nPrompt);
    if (Number.isNaN(given[position * k])) return [...rows, ["factors", "no activations recorded here"]];
    const order = Array.from({length: k}, (_, factor) => factor)
      .sort((a, b) => values[position * k + b] - values[position * k + a]);
    for (const factor of order.slice(0, 3)) rows.push([`factor ${factor}, of its peak`, values[position * k + factor].toFixed(4)]);
    return rows;
  }

  function sparkline(factor) {
    const row = node("button", "spark");
    row.type = "button";
    row.dataset.factor = String(factor);
    row.setAttribute("aria-pressed", String(factor === pinned));
    row.setAttribute("aria-label", `factor ${factor}`);
    const number = node("span", "spark-number", String(factor));
    number.style.backgroundColor = rgba(factorColour(factor), 1);
    number.style.color = palettes[factor][LEVELS][1];
    const plot = node("span", "spark-plot");
    plot.append(sparkPath(values, n, k, factor));
    if (nPrompt > 0 && nPrompt < n) {
      const border = node("span", "spark-border");
      border.style.left = `${100 * nPrompt / n}%`;
      plot.append(border);
    }
    const pointer = node("span", "spark-pointer");
    pointer.hidden = true;
    plot.append(pointer);
    row.append(number, plot);
    return {
      factor,
      element: row,
      point(position) {
        pointer.hidden = position === null;
        if (position !== null) pointer.style.left = `${100 * (position + 0.5) / n}%`;
      },
    };
  }

  return {
    element: strip,
    select(factor) { pinned = isFactor(factor) ? factor : null; show(pinned); },
    remove() { strip.remove(); },
  };
}

/** Panel's door: draws `model.payload` (JSON text, empty while it is being worked out) and writes what is pinned back. */
export function render({model}) {
  const element = document.createElement("div");
  const draw = () => {
    if (model.payload === "") { element.replaceChildren(node("div", "strip waiting")); return; }
    const data = JSON.parse(model.payload);
    const onChange = (change) => Object.assign(model, change);
    if (data.saliency) saliencyStrip(element, data, {output: model.output, detailed: model.detailed, onChange});
    else factorStrip(element, data, {factor: model.factor, onChange});
  };
  const wait = () => element.classList.toggle("busy", model.busy);
  model.on("payload", draw);
  model.on("busy", wait);
  draw();
  wait();
  return element;
}

export default {render};

// The line of tokens: one box a position, one of them in the tab order, arrow keys between them.

function tokenLine(strip, tokens, nPrompt, handlers) {
  const line = node("div", "line");
  line.setAttribute("role", "listbox");
  line.setAttribute("aria-label", "tokens");
  const boxes = [], faces = [], notes = [];
  tokens.text.forEach((text, position) => {
    const box = node("span", "token");
    box.dataset.position = String(position);
    box.setAttribute("role", "option");
    box.setAttribute("aria-label", `${position}: ${text}`);
    box.tabIndex = -1;
    box.classList.toggle("generated", Boolean(tokens.generated[position]));
    box.classList.toggle("special", Boolean(tokens.special[position]));
    const face = node("span", "face");
    face.append(...pieces(text));
    const note = node("span", "note");
    box.append(node("span", "position", String(position)), face, note);
    const opensLine = /^[\r\n]+[^\r\n]/.test(text);
    if (opensLine) line.append(node("span", "break"));
    line.append(box);
    if (!opensLine && /[\r\n]/.test(text)) line.append(node("span", "break"));
    boxes.push(box); faces.push(face); notes.push(note);
  });
  const tip = tooltip(strip);
  let current = Math.max(0, Math.min(nPrompt, boxes.length - 1)), marked = null;
  if (boxes.length > 0) boxes[current].tabIndex = 0;

  line.addEventListener("pointerover", (event) => enter(positionAt(event)));
  line.addEventListener("pointerleave", leave);
  line.addEventListener("focusin", (event) => enter(positionAt(event)));
  line.addEventListener("focusout", leave);
  line.addEventListener("click", (event) => {
    const position = positionAt(event);
    if (position === null) return;
    rove(position);
    handlers.press?.(position);
    tip.show(boxes[position], handlers.facts(position));
  });
  document.addEventListener("keydown", function escape(event) {
    if (!strip.isConnected) document.removeEventListener("keydown", escape);
    else if (event.key === "Escape") handlers.release();
  });
  line.addEventListener("keydown", (event) => {
    const position = positionAt(event);
    if (position === null) return;
    if (event.key === "Enter" || event.key === " ") handlers.press?.(position);
    else {
      const next = neighbour(event.key, position);
      if (next === null) return;
      rove(next);
      boxes[next].focus();
    }
    event.preventDefault();
  });

  function positionAt(event) {
    const box = event.target.closest(".token");
    return box === null ? null : Number(box.dataset.position);
  }

  function enter(position) {
    if (position === null) return;
    handlers.over?.(position);
    tip.show(boxes[position], handlers.facts(position));
  }

  function leave() { tip.hide(); handlers.out?.(); }

  function rove(position) {
    boxes[current].tabIndex = -1;
    current = position;
    boxes[current].tabIndex = 0;
  }

  function neighbour(key, position) {
    const last = boxes.length - 1;
    if (key === "ArrowLeft") return Math.max(0, position - 1);
    if (key === "ArrowRight") return Math.min(last, position + 1);
    if (key === "Home") return 0;
    if (key === "End") return last;
    if (key === "ArrowUp" || key === "ArrowDown") return acrossRows(position, key === "ArrowUp" ? -1 : 1);
    return null;
  }

  function acrossRows(position, step) {
    const from = boxes[position].getBoundingClientRect();
    let row = null, best = position, distance = Infinity;
    for (let other = position + step; other >= 0 && other < boxes.length; other += step) {
      const to = boxes[other].getBoundingClientRect();
      if (Math.abs(to.top - from.top) < from.height / 2) continue;
      row ??= to.top;
      if (Math.abs(to.top - row) > from.height / 2) break;
      const apart = Math.abs(to.left + to.width / 2 - from.left - from.width / 2);
      if (apart < distance) { distance = apart; best = other; }
    }
    return best;
  }

  return {
    element: line,
    paint(position, background, ink) {
      const style = faces[position].style;
      style.backgroundColor = background;
      style.color = ink;
    },
    note(position, text) { notes[position].textContent = text; },
    mark(position, isPinned) {
      if (marked !== null) { boxes[marked].classList.remove("output", "pinned"); boxes[marked].setAttribute("aria-selected", "false"); }
      marked = position;
      boxes[marked].classList.add("output");
      boxes[marked].classList.toggle("pinned", isPinned);
      boxes[marked].setAttribute("aria-selected", String(isPinned));
    },
  };
}

// What a token's text looks like: whitespace is visible, bytes and invisible characters are chips.

const SPECIAL_PIECE = /(<0x[0-9A-Fa-f]{2}>)|(\r\n|\n|\r)|(\t)|( )|([\u0000-\u001f\u007f-\u009f\u00a0\u00ad\u034f\u061c\u115f\u1160\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\ufff9-\ufffd\ud800-\udfff])/gu;

function pieces(text) {
  if (text === "") return [node("span", "chip", "empty")];
  const drawn = [];
  let end = 0;
  for (const match of text.matchAll(SPECIAL_PIECE)) {
    if (match.index > end) drawn.push(node("span", "text", text.slice(end, match.index)));
    const [whole, byte, newline, tab, space, unseen] = match;
    if (byte) drawn.push(node("span", "chip", byte.slice(3, 5).toUpperCase()));
    else if (newline) drawn.push(node("span", "mark", "↵"));
    else if (tab) drawn.push(node("span", "mark", "→"));
    else if (space) drawn.push(node("span", "mark", "·"));
    else if (unseen) drawn.push(node("span", "chip", `U+${unseen.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
    end = match.index + whole.length;
  }
  if (end < text.length) drawn.push(node("span", "text", text.slice(end)));
  return drawn;
}

function mention(tokens, position) {
  const chip = node("span", "mention");
  chip.append(node("span", "mention-position", String(position)), ...pieces(tokens.text[position]));
  return chip;
}

function tokenFacts(tokens, position, nPrompt) {
  const rows = [["token", JSON.stringify(tokens.text[position])], ["position", String(position)], ["token id", String(tokens.id[position])]];
  const logprob = tokens.logprob?.[position], rank = tokens.rank?.[position], entropy = tokens.entropy?.[position];
  if (logprob != null) rows.push(["log probability", `${signedText(logprob, 4)} (${percent(Math.exp(logprob))})`]);
  if (rank != null) rows.push(["rank", String(rank)]);
  if (entropy != null) rows.push(["entropy", entropy.toFixed(4)]);
  rows.push(["written by", position < nPrompt ? "prompt" : "model"]);
  return rows;
}

function tooltip(strip) {
  const tip = node("div", "tip");
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  strip.append(tip);
  return {
    show(box, rows) {
      const table = node("dl", "tip-facts");
      for (const [name, value] of rows) table.append(node("dt", "", name), node("dd", "", value));
      tip.replaceChildren(table);
      tip.hidden = false;
      const at = box.getBoundingClientRect(), frame = strip.getBoundingClientRect(), own = tip.getBoundingClientRect();
      const left = Math.max(0, Math.min(at.left - frame.left, frame.width - own.width));
      const below = at.bottom + own.height + 8 < window.innerHeight || at.top - own.height - 8 < 0;
      tip.style.left = `${left}px`;
      tip.style.top = `${below ? at.bottom - frame.top + 6 : at.top - frame.top - own.height - 6}px`;
    },
    hide() { tip.hidden = true; },
  };
}

function formSwitch(detailed, onSet) {
  const group = node("div", "forms");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "form");
  const buttons = [["Minimal", false], ["Detailed", true]].map(([name, on]) => {
    const button = node("button", "form", name);
    button.type = "button";
    button.addEventListener("click", () => onSet(on));
    group.append(button);
    return [button, on];
  });
  const set = (chosen) => { for (const [button, on] of buttons) button.setAttribute("aria-pressed", String(on === chosen)); };
  set(detailed);
  return {element: group, set};
}

function swatch(kind, text) {
  const item = node("span", "swatch-item");
  item.append(node("span", `swatch ${kind}`), text);
  return item;
}

function sparkPath(values, n, k, factor) {
  const bins = Math.min(n, SPARK_BINS);
  let path = "";
  for (let bin = 0; bin < bins; bin++) {
    let height = 0;
    const end = Math.floor((bin + 1) * n / bins);
    for (let position = Math.floor(bin * n / bins); position < end; position++)
      height = Math.max(height, values[position * k + factor]);
    if (height > 0) path += `M${bin + 0.1},1V${(1 - height).toFixed(4)}h0.8V1Z`;
  }
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${bins} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  shape.setAttribute("d", path);
  shape.setAttribute("fill", rgba(factorColour(factor), 1));
  svg.append(shape);
  return svg;
}

// Numbers and colours.

function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
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

/** Values as shares of their factor's peak; 0 where a token has none (NaN). */
function relativeToPeak(values, n, k) {
  const scaled = new Float32Array(values.length);
  for (let factor = 0; factor < k; factor++) {
    let peak = 0;
    for (let position = 0; position < n; position++) peak = Math.max(peak, values[position * k + factor] || 0);
    if (peak > 0)
      for (let position = 0; position < n; position++) scaled[position * k + factor] = (values[position * k + factor] || 0) / peak;
  }
  return scaled;
}

function strongestFactor(values, position, k) {
  let best = 0;
  for (let factor = 1; factor < k; factor++)
    if (values[position * k + factor] > values[position * k + best]) best = factor;
  return best;
}

function lastWritten(tokens, nPrompt) {
  let last = tokens.text.length - 1;
  while (last > nPrompt && tokens.special[last]) last--;
  return last;
}

function level(value, ceiling) {
  return Math.max(0, Math.min(LEVELS, Math.round(LEVELS * value / ceiling)));
}

/** A colour from clear to full in steps, each with an ink of contrast 4.5 or more on it over white. */
function palette(colour) {
  return Array.from({length: LEVELS + 1}, (_, step) => {
    const alpha = step / LEVELS;
    const over = colour.map((channel) => 255 + (channel - 255) * alpha);
    const bright = luminance(over);
    return [rgba(colour, alpha.toFixed(4)), bright > 0.31 ? INK : bright > 0.179 ? "black" : "white"];
  });
}

function luminance(colour) {
  const [r, g, b] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function factorColour(factor) {
  if (factor < FACTOR_COLOURS.length) return FACTOR_COLOURS[factor];
  const hue = (factor * 137.508) % 360, lightness = [0.38, 0.55, 0.46][factor % 3];
  const amplitude = 0.62 * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((shift) => {
    const turn = (shift + hue / 30) % 12;
    return Math.round(255 * (lightness - amplitude * Math.max(-1, Math.min(turn - 3, 9 - turn, 1))));
  });
}

function rgba([r, g, b], alpha) { return `rgba(${r}, ${g}, ${b}, ${alpha})`; }

function percent(share, digits = 1) { return `${signedText(100 * share, digits)}%`; }

function signedText(value, digits) { return value.toFixed(digits).replace("-", "−"); }

function node(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
