/** One layer's activations as a heat map: a row for each token, a column for each neuron. */

import {choice, exactText, floats, integers, node} from "./base.js";
import {mixed, ramp, rgb} from "./colour.js";
import {grid} from "./grid.js";
import {mention, plain, tokenFacts} from "./tokens.js";

const STEPS = 255;
const FULL_AT = 0.995;

/** A heat map with zero in the middle of a blue–orange scale; a click on a neuron goes to its page where there is one.
 *  data.activations: {layer, order, positions, neurons, clusters, values, note}: values is base64 of little-endian float32,
 *  [positions, neurons], neurons of int32 in the order drawn, clusters the number of each column's cluster or null.
 *  data.links.neuron: an address with {layer} and {neuron} in it. */
export function activations(element, data, {theme}) {
  const {tokens, activations: given} = data;
  const values = floats(given.values), neurons = integers(given.neurons), positions = given.positions;
  const rows = positions.length, columns = neurons.length;
  const ceiling = fullAt(values);
  const colours = signedColours(theme);
  const strip = node("div", "strip strip-activations");
  const bar = node("div", "bar"), readout = node("div", "readout");
  readout.setAttribute("aria-live", "polite");
  const zooms = choice("zoom", [["Fit", 0], ["2 px", 2], ["6 px", 6], ["14 px", 14]], 0, (to) => zoom(to));
  bar.append(legend(), zooms.element);
  const map = grid(strip, {
    label: `activations of layer ${given.layer}`,
    rows, columns, theme,
    labelWidth: 118, headHeight: 20, cellHeight: rows > 60 ? 12 : 16, cellWidth: 1,
    corner: "token ╲ neuron",
    rowLabel: (row) => `${positions[row]} ${plain(tokens.text[positions[row]])}`,
    columnLabel,
    paintCells,
    facts, press,
    over: read,
  });
  strip.append(bar, map.element, readout);
  element.replaceChildren(strip);
  let width = 0, labelEvery = 1;
  zoom(0);
  read(null);
  const fitted = new ResizeObserver(() => { if (width === 0) fit(); });
  fitted.observe(map.element);

  function zoom(to) {
    width = to;
    zooms.set(to);
    if (to === 0) fit();
    else { label(to); map.size(to); }
  }

  function fit() { const cell = Math.min(14, map.room() / columns); label(cell); map.size(cell); }

  function label(cell) { labelEvery = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((step) => step * cell >= 46) ?? 2000; }

  function columnLabel(column) {
    if (given.clusters) {
      const starts = column === 0 || given.clusters[column] !== given.clusters[column - 1];
      return starts ? `▾${given.clusters[column]}` : "";
    }
    return column % labelEvery === 0 ? String(neurons[column]) : "";
  }

  function at(row, column) { return values[row * columns + column]; }

  function colourOf(value) { return colours[Math.max(-STEPS, Math.min(STEPS, Math.round(STEPS * value / ceiling))) + STEPS]; }

  /** Cells narrower than a pixel share it: it wears the largest value of either sign. */
  function paintCells(context, view) {
    const [left, , cellWidth, cellHeight] = view.place(0, 0);
    const pixel = 1 / view.ratio;
    for (let row = view.firstRow; row <= view.lastRow; row++) {
      const [, y] = view.place(row, 0);
      if (cellWidth >= pixel) {
        for (let column = view.firstColumn; column <= view.lastColumn; column++) {
          context.fillStyle = colourOf(at(row, column));
          const x = Math.round((left + column * cellWidth) * view.ratio) * pixel;
          const end = Math.round((left + (column + 1) * cellWidth) * view.ratio) * pixel;
          context.fillRect(x, y, end - x, cellHeight);
        }
        continue;
      }
      for (let x = view.labelWidth; x < view.width; x += pixel) {
        const from = Math.max(0, Math.floor((x - left) / cellWidth)), to = Math.min(columns, Math.ceil((x + pixel - left) / cellWidth));
        if (from >= columns) break;
        let strongest = 0;
        for (let column = from; column < to; column++) if (Math.abs(at(row, column)) > Math.abs(strongest)) strongest = at(row, column);
        context.fillStyle = colourOf(strongest);
        context.fillRect(x, y, pixel, cellHeight);
      }
    }
    if (!given.clusters || cellWidth < 0.5) return;
    context.fillStyle = rgb(theme.ink);
    for (let column = Math.max(1, view.firstColumn); column <= view.lastColumn; column++)
      if (given.clusters[column] !== given.clusters[column - 1]) context.fillRect(view.place(0, column)[0] - 0.5, view.headHeight, 1, view.height);
  }

  function facts(row, column) {
    const position = positions[row];
    const found = [["activation", exactText(at(row, column))], ["neuron", `${given.layer}:${neurons[column]}`]];
    if (given.clusters) found.push(["cluster", String(given.clusters[column])]);
    return [...found, ...tokenFacts(tokens, position).slice(0, 2)];
  }

  function read(row, column) {
    const text = node("span", "reading");
    if (row === null) {
      text.textContent = `Layer ${given.layer}: ${rows} tokens × ${columns} neurons${given.note ? ` (${given.note})` : ""}`;
      readout.replaceChildren(text, node("span", "hint", data.links?.neuron ? "a click opens the neuron's page" : "point at a cell to read it"));
      return;
    }
    text.append(`Neuron ${given.layer}:${neurons[column]} is `, node("b", "", exactText(at(row, column))), " at ", mention(tokens, positions[row]));
    readout.replaceChildren(text);
  }

  function press(row, column) {
    if (data.links?.neuron) window.location.assign(data.links.neuron.replace("{layer}", given.layer).replace("{neuron}", neurons[column]));
  }

  function legend() {
    const box = node("div", "legend");
    box.append(node("span", "legend-name", "activation"), node("span", "", `≤ ${exactText(-ceiling)}`), ramp((t) => colours[Math.round(t * 2 * STEPS)], "blue is negative, orange positive"), node("span", "", `≥ ${exactText(ceiling)}`));
    return box;
  }

  return {
    element: strip,
    settle: map.unfold,
    table: () => ({
      columns: ["position", "token", "layer", "neuron", "activation"],
      rows: positions.flatMap((position, row) => Array.from(neurons, (neuron, column) => [position, tokens.text[position], given.layer, neuron, at(row, column)])),
    }),
  };
}

/** The size of value at which the colour is full: all but a two-hundredth are smaller, since a few outliers would pale the rest. */
function fullAt(values) {
  const step = Math.max(1, Math.floor(values.length / 50000));
  const sizes = values.filter((_, i) => i % step === 0).map(Math.abs).sort();
  return Number(((sizes[Math.floor(FULL_AT * (sizes.length - 1))] ?? 0) || 1).toPrecision(2));
}

function signedColours(theme) {
  return Array.from({length: 2 * STEPS + 1}, (_, i) => {
    const value = (i - STEPS) / STEPS;
    return rgb(mixed(theme.card, value < 0 ? theme.negative : theme.positive, Math.abs(value)).map(Math.round));
  });
}
