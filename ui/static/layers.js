/** What the model would say after each layer: a grid of layers and positions, with the rank of the token that came next. */

import {exactText, floats, integers, node, percent} from "./base.js";
import {level, palette, ramp} from "./colour.js";
import {grid} from "./grid.js";
import {mention, pieces, plain} from "./tokens.js";
import {watchedChart, watchedTable} from "./watched.js";

const LAST_RANK = 1000;
const CELL_WIDTH = 74;

/** Each cell wears the rank of the token that came next (1 is the likeliest) and says the likeliest token there.
 *  data.layers: {layers, positions, ranks, probabilities, texts, top, top_probabilities, k}: ranks is base64 of int32,
 *  [layers, positions], 0 where nothing came next; top of int32 indexes into texts, [layers, positions, k].
 *  state: cell ([layer, position] or null): the cell whose likeliest tokens are listed. */
export function layers(element, data, {state, theme, onChange}) {
  const {tokens, layers: given} = data;
  const ranks = integers(given.ranks), probabilities = floats(given.probabilities);
  const top = integers(given.top), topProbabilities = floats(given.top_probabilities);
  const rows = given.layers.length, columns = given.positions.length, k = given.k;
  const colour = palette(theme.magnitude, theme);
  let pinned = cellOf(state.cell);

  const strip = node("div", "strip strip-layers");
  const bar = node("div", "bar"), readout = node("div", "readout cell-readout");
  readout.setAttribute("aria-live", "polite");
  bar.append(legend());
  const map = grid(strip, {
    label: "layer predictions",
    rows, columns, theme,
    labelWidth: 34, headHeight: 34, cellHeight: 22, cellWidth: CELL_WIDTH, maxHeight: 760,
    clipColumnLabels: true,
    rowLabel: (row) => String(given.layers[row]),
    columnLabel: (column) => columnText(column),
    paintCells, facts, press,
    over(row, column) { if (!pinned) read(row, column); },
    leave() { if (!pinned) read(...start()); },
    release() { if (pinned) press(...pinned); },
  });
  strip.append(bar, map.element, readout);
  if (given.watched) strip.append(watchedChart(given.watched, theme));
  element.replaceChildren(strip);
  map.draw();
  show();
  map.reveal(...(pinned ?? start()));

  function cellOf(cell) {
    if (!cell) return null;
    const row = given.layers.indexOf(cell[0]), column = given.positions.indexOf(cell[1]);
    return row < 0 || column < 0 ? null : [row, column];
  }

  /** The cell that is told of while none is pointed at: where the last layer predicts the first generated token. */
  function start() {
    const first = given.positions.findIndex((position) => tokens.generated[position + 1]);
    return [rows - 1, Math.max(0, first)];
  }

  function show() {
    map.mark(...(pinned ?? [null, null]));
    read(...(pinned ?? start()));
  }

  function press(row, column) {
    pinned = pinned && pinned[0] === row && pinned[1] === column ? null : [row, column];
    show();
    onChange({cell: pinned && [given.layers[row], given.positions[column]]});
  }

  function columnText(column) {
    const next = given.positions[column] + 1;
    return next < tokens.text.length ? `${next} ${plain(tokens.text[next])}` : "(end)";
  }

  function paintOf(rank) { return colour[rank ? level(1 - Math.log(rank) / Math.log(LAST_RANK), 1) : 0]; }

  function paintCells(context, view) {
    context.font = `12px ${getComputedStyle(map.element).fontFamily}`;
    for (let row = view.firstRow; row <= view.lastRow; row++)
      for (let column = view.firstColumn; column <= view.lastColumn; column++) {
        const cell = row * columns + column, [x, y, width, height] = view.place(row, column);
        const [background, ink] = paintOf(ranks[cell]);
        context.fillStyle = background;
        context.fillRect(x + 0.5, y + 0.5, width - 1, height - 1);
        context.fillStyle = ink;
        context.save();
        context.beginPath();
        context.rect(x + 1, y, width - 3, height);
        context.clip();
        context.fillText(plain(given.texts[top[cell * k]]), x + 5, y + height / 2 + 1);
        context.restore();
      }
  }

  function facts(row, column) {
    const cell = row * columns + column, position = given.positions[column];
    const found = [["layer", String(given.layers[row])], ["position", String(position)]];
    if (position + 1 < tokens.text.length) found.push(["came next", JSON.stringify(tokens.text[position + 1])]);
    if (ranks[cell]) found.push(["its rank", String(ranks[cell])], ["its probability", exactText(probabilities[cell])]);
    for (let i = 0; i < Math.min(3, k); i++) found.push([`${i + 1}. ${JSON.stringify(given.texts[top[cell * k + i]])}`, exactText(topProbabilities[cell * k + i])]);
    return found;
  }

  function read(row, column) {
    const cell = row * columns + column, position = given.positions[column];
    const heading = node("span", "reading");
    heading.append(`After layer ${given.layers[row]}, at `, mention(tokens, position));
    if (ranks[cell]) heading.append(" the token that came next, ", mention(tokens, position + 1), ", has rank ", node("b", "", String(ranks[cell])));
    const list = node("ol", "top-tokens");
    for (let i = 0; i < k; i++) {
      const probability = topProbabilities[cell * k + i];
      const item = node("li", "top-token");
      const text = node("span", "mention"), barOf = node("span", "top-bar"), filled = node("i");
      text.append(...pieces(given.texts[top[cell * k + i]]));
      filled.style.width = `${100 * probability}%`;
      barOf.append(filled);
      item.append(text, barOf, node("span", "top-number", percent(probability, 2)));
      list.append(item);
    }
    readout.replaceChildren(heading, node("span", pinned ? "hint pinned" : "hint", pinned ? "pinned · Esc releases" : "click a cell to pin it"), list);
  }

  function legend() {
    const box = node("div", "legend");
    box.append(node("span", "legend-name", "rank of the token that came next"), node("span", "", `≥ ${LAST_RANK}`), ramp((t) => colour[level(t, 1)][0], "the darker, the likelier"), node("span", "", "1"));
    return box;
  }

  return {
    element: strip,
    settle: map.unfold,
    update(now) { pinned = cellOf(now.cell); show(); },
    table: () => ({
      columns: ["layer", "position", "token", "next_token", "rank", "probability", ...Array.from({length: k}, (_, i) => `top_${i + 1}`), ...Array.from({length: k}, (_, i) => `top_${i + 1}_probability`)],
      rows: given.layers.flatMap((layer, row) => given.positions.map((position, column) => {
        const cell = row * columns + column, next = position + 1 < tokens.text.length ? tokens.text[position + 1] : null;
        const best = Array.from({length: k}, (_, i) => cell * k + i);
        return [layer, position, tokens.text[position], next, ranks[cell] || null, ranks[cell] ? probabilities[cell] : null, ...best.map((i) => given.texts[top[i]]), ...best.map((i) => topProbabilities[i])];
      })),
    }),
    more: given.watched ? {"watched tokens": () => watchedTable(given.watched)} : {},
  };
}
