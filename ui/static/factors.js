/** Factors of activations: a sparkline for each, beside the tokens that they colour. */

import {button, exactText, floats, node, orUnknown, shape, shareText, signedText} from "./base.js";
import {LEVELS, level, palette, ramp, rgba, signedRamp} from "./colour.js";
import {mention, tokenFacts, tokenLine} from "./tokens.js";

const SPARK_BINS = 240;
const NEARLY_ALL = 0.9;

/** Sparklines, one a factor, beside the tokens; hovering a factor paints the tokens with it, a click pins it.
 *  Values are drawn relative to each factor's own peak: the scale of a factor is arbitrary, its shape is not.
 *  data.factors: {k, layers, error, explained, explained_of, stability, values}: explained are shares of what explained_of
 *  says, values is base64 of little-endian float32, [n_tokens, k], NaN where a token has none. state: factor (a pinned factor or null). */
export function factors(element, data, {state, theme, onChange}) {
  const {tokens, n_prompt: nPrompt, factors: given} = data;
  const n = tokens.text.length, k = given.k;
  const exact = floats(given.values), values = relativeToPeak(exact, n, k);
  const signed = exact.some((value) => value < 0);
  const warm = palette(theme.positive, theme), cold = palette(theme.negative, theme);
  const colours = Array.from({length: k}, (_, factor) => theme.factor(factor));
  const palettes = colours.map((colour) => palette(colour, theme));
  const strongest = Array.from({length: n}, (_, position) => strongestFactor(values, position, k));
  let pinned = isFactor(state.factor) ? state.factor : null;

  const strip = node("div", "strip strip-factors");
  const side = node("div", "sparks");
  side.setAttribute("role", "group");
  side.setAttribute("aria-label", "factors");
  const main = node("div", "main");
  const readout = node("div", "readout");
  readout.setAttribute("aria-live", "polite");
  const sparks = Array.from({length: k}, (_, factor) => sparkline(factor));
  const line = tokenLine(strip, tokens, {
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
  side.addEventListener("keydown", sideKey);
  element.replaceChildren(strip);
  show(pinned);

  function isFactor(factor) { return Number.isInteger(factor) && factor >= 0 && factor < k; }

  function factorAt(event) {
    const row = event.target.closest(".spark");
    return row === null ? null : Number(row.dataset.factor);
  }

  /** How a token looks under a factor: the factor's colour, or blue and orange where factors have signs. */
  function paintOf(value, factor) {
    if (!signed) return palettes[factor][level(value, 1)];
    return (value < 0 ? cold : warm)[level(Math.abs(value), 1)];
  }

  function show(factor) {
    line.colour((position) => {
      const worn = factor ?? strongest[position];
      const value = values[position * k + worn];
      return factor === null ? palettes[worn][level(Math.abs(value), 1)] : paintOf(value, worn);
    });
    for (const spark of sparks) spark.element.classList.toggle("shown", spark.factor === factor);
    read(factor);
  }

  function pin(factor) {
    pinned = factor;
    for (const spark of sparks) spark.element.setAttribute("aria-pressed", String(spark.factor === pinned));
    show(pinned);
    onChange({factor: pinned});
  }

  function point(position) {
    for (const spark of sparks) spark.point(position);
  }

  function sideKey(event) {
    const factor = factorAt(event);
    const step = {ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1}[event.key];
    if (step === undefined || factor === null) return;
    sparks[(factor + step + k) % k].element.focus();
    event.preventDefault();
  }

  function read(factor) {
    const hint = node("span", pinned === null ? "hint" : "hint pinned", pinned === null ? factor === null ? "hover a factor to see where it is active" : "click pins it" : "pinned · Esc releases");
    if (factor === null) {
      const error = Number.isFinite(given.error) ? ` · relative error ${given.error.toFixed(3)}` : "";
      readout.replaceChildren(node("span", "reading", `Each token wears the colour of its strongest factor${error}`), hint);
      const whole = given.explained?.findIndex((share, each) => share > NEARLY_ALL && k > 1 && peakOf(each) < nPrompt) ?? -1;
      if (whole >= 0 && nPrompt < n) readout.append(node("span", "number", `Factor ${whole} alone explains nearly everything: its tokens are far stronger than all others. To leave them out, take the generated positions.`));
      return;
    }
    const peak = peakOf(factor);
    const reading = node("span", "reading");
    reading.append(`Factor ${factor} peaks at `, mention(tokens, peak));
    const scale = node("span", "legend");
    if (signed) scale.append(node("span", "", "− its peak"), signedRamp(theme, "blue is negative, orange positive"), node("span", "", "+ its peak"));
    else scale.append(node("span", "", "0"), ramp((t) => rgba(colours[factor], t.toFixed(3)), "the darker, the stronger"), node("span", "", "its peak"));
    reading.append(...numbersOf(factor));
    readout.replaceChildren(reading, scale, hint);
  }

  /** The position where a factor is strongest. */
  function peakOf(factor) {
    let peak = 0;
    for (let position = 1; position < n; position++)
      if (Math.abs(values[position * k + factor]) > Math.abs(values[peak * k + factor])) peak = position;
    return peak;
  }

  /** What is known of a factor as a whole. */
  function numbersOf(factor) {
    const said = [];
    if (given.explained) said.push(given.explained[factor] === null ? "explained share unknown" : `explains ${shareText(given.explained[factor])}`);
    if (given.stability) said.push(`stability ${orUnknown(given.stability[factor], (value) => value.toFixed(2))}`);
    return said.map((text) => node("span", "number", `· ${text}`));
  }

  function facts(position) {
    const rows = tokenFacts(tokens, position);
    if (Number.isNaN(exact[position * k])) return [...rows, ["factors", "no activations recorded here"]];
    const order = Array.from({length: k}, (_, factor) => factor)
      .sort((a, b) => Math.abs(values[position * k + b]) - Math.abs(values[position * k + a]));
    for (const factor of order.slice(0, 3)) rows.push([`factor ${factor}`, `${exactText(exact[position * k + factor])} (${signedText(100 * values[position * k + factor], 1)}% of its peak)`]);
    return rows;
  }

  function sparkline(factor) {
    const row = button("spark", undefined, () => pin(factor === pinned ? null : factor), `factor ${factor}`);
    row.dataset.factor = String(factor);
    row.setAttribute("aria-pressed", String(factor === pinned));
    const number = node("span", "spark-number", String(factor));
    number.style.backgroundColor = rgba(colours[factor], 1);
    number.style.color = palettes[factor][LEVELS][1];
    const plot = node("span", "spark-plot");
    plot.append(sparkPlot(values, n, k, factor, signed, rgba(colours[factor], 1)));
    if (nPrompt > 0 && nPrompt < n) {
      const border = node("span", "spark-border");
      border.style.left = `${100 * nPrompt / n}%`;
      plot.append(border);
    }
    const pointer = node("span", "spark-pointer");
    pointer.hidden = true;
    plot.append(pointer);
    row.append(number, plot);
    if (given.explained || given.stability) {
      const facts = node("span", "spark-facts");
      if (given.explained) facts.append(titled(`the share of the ${given.explained_of} of the activations that it explains`, node("span", "", orUnknown(given.explained[factor], shareText))));
      if (given.stability) facts.append(titled("how well other seeds find it again, up to 1", node("span", "spark-stability", `stable ${orUnknown(given.stability[factor], (value) => value.toFixed(2))}`)));
      row.append(facts);
    }
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
    settle: line.settle,
    table: () => ({
      columns: ["position", "token", "factor", "value"],
      rows: tokens.text.flatMap((text, position) => Array.from({length: k}, (_, factor) => [position, text, factor, exact[position * k + factor]])),
    }),
    update(now) {
      pinned = isFactor(now.factor) ? now.factor : null;
      for (const spark of sparks) spark.element.setAttribute("aria-pressed", String(spark.factor === pinned));
      show(pinned);
    },
  };
}

/** The path of a factor's bars in a box as wide as its bins and 1 high; signed ones stand on the middle. */
export function sparkPath(values, n, k, factor, signed) {
  const bins = Math.min(n, SPARK_BINS);
  let path = "";
  for (let bin = 0; bin < bins; bin++) {
    let height = 0;
    const end = Math.floor((bin + 1) * n / bins);
    for (let position = Math.floor(bin * n / bins); position < end; position++) {
      const value = values[position * k + factor];
      if (Math.abs(value) > Math.abs(height)) height = value;
    }
    if (height === 0) continue;
    const base = signed ? 0.5 : 1, top = base - height * base;
    path += `M${bin + 0.1},${base}V${top.toFixed(4)}h0.8V${base}Z`;
  }
  return {path, bins};
}

function titled(title, element) {
  element.title = title;
  return element;
}

function sparkPlot(values, n, k, factor, signed, fill) {
  const {path, bins} = sparkPath(values, n, k, factor, signed);
  const svg = shape("svg", {viewBox: `0 0 ${bins} 1`, preserveAspectRatio: "none", "aria-hidden": "true"});
  svg.append(shape("path", {d: path, fill}));
  return svg;
}

/** Values as shares of their factor's peak, the largest of either sign; 0 where a token has none (NaN). */
function relativeToPeak(values, n, k) {
  const scaled = new Float32Array(values.length);
  for (let factor = 0; factor < k; factor++) {
    let peak = 0;
    for (let position = 0; position < n; position++) peak = Math.max(peak, Math.abs(values[position * k + factor]) || 0);
    if (peak > 0)
      for (let position = 0; position < n; position++) scaled[position * k + factor] = (values[position * k + factor] || 0) / peak;
  }
  return scaled;
}

function strongestFactor(values, position, k) {
  let best = 0;
  for (let factor = 1; factor < k; factor++)
    if (Math.abs(values[position * k + factor]) > Math.abs(values[position * k + best])) best = factor;
  return best;
}
