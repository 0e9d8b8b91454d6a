/** Tokens that are compared over layers: how likely each would be after each layer. */

import {exactText, floats, integers, node, shape} from "./base.js";
import {rgb} from "./colour.js";
import {pieces} from "./tokens.js";

const CHART_WIDTH = 640, CHART_HEIGHT = 190, LEFT = 52, BOTTOM = 26, TOP = 12, RIGHT = 12;

/** What the chart shows as a table, a row for each layer and token. */
export function watchedTable({tokens, layers, position, ...given}) {
  const ranks = integers(given.ranks), probabilities = floats(given.probabilities);
  return {
    columns: ["position", "layer", "token", "rank", "probability"],
    rows: layers.flatMap((layer, i) => tokens.map((token, t) => [position, layer, token, ranks[t * layers.length + i], probabilities[t * layers.length + i]])),
  };
}

/** A line for each watched token: its rank after each layer, rank 1 at the top, on a logarithmic scale.
 *  watched: {tokens, layers, position, ranks, probabilities}: base64 of int32 and float32, [tokens, layers]. */
export function watchedChart(watched, theme) {
  const ranks = integers(watched.ranks), probabilities = floats(watched.probabilities);
  const n = watched.layers.length, worst = Math.max(10, ...ranks);
  const box = node("div", "watched");
  const heading = node("div", "legend");
  heading.append(node("span", "legend-name", `rank after each layer, at position ${watched.position}`));
  const x = (i) => LEFT + (CHART_WIDTH - LEFT - RIGHT) * (n > 1 ? i / (n - 1) : 0.5);
  const y = (rank) => TOP + (CHART_HEIGHT - TOP - BOTTOM) * Math.log(rank) / Math.log(worst);
  const svg = shape("svg", {viewBox: `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`, role: "img", class: "watched-chart", "aria-label": "rank of each watched token after each layer"});
  for (let rank = 1; rank <= worst; rank *= 10) {
    svg.append(shape("line", {x1: LEFT, x2: CHART_WIDTH - RIGHT, y1: y(rank), y2: y(rank), stroke: rgb(theme.hair)}));
    svg.append(labelled(LEFT - 6, y(rank) + 4, rank.toLocaleString("en"), "end"));
  }
  const every = Math.ceil(n / 15);
  watched.layers.forEach((layer, i) => { if (i % every === 0) svg.append(labelled(x(i), CHART_HEIGHT - 8, String(layer), "middle")); });
  watched.tokens.forEach((token, t) => {
    const colour = rgb(theme.factor(t));
    const key = node("span", "swatch-item");
    const dot = node("span", "swatch");
    dot.style.backgroundColor = colour;
    const name = node("span", "mention");
    name.append(...pieces(token));
    key.append(dot, name);
    heading.append(key);
    const points = watched.layers.map((_, i) => `${x(i).toFixed(1)},${y(ranks[t * n + i]).toFixed(1)}`).join(" ");
    svg.append(shape("polyline", {points, fill: "none", stroke: colour, "stroke-width": 2}));
    watched.layers.forEach((layer, i) => {
      const point = shape("circle", {cx: x(i), cy: y(ranks[t * n + i]), r: 3.5, fill: colour});
      const title = shape("title");
      title.textContent = `${JSON.stringify(token)} after layer ${layer}: rank ${ranks[t * n + i]}, probability ${exactText(probabilities[t * n + i])}`;
      point.append(title);
      svg.append(point);
    });
  });
  box.append(heading, svg);
  return box;

  function labelled(left, top, text, anchor) {
    const label = shape("text", {x: left, y: top, "text-anchor": anchor, "font-size": 11, fill: rgb(theme.soft)});
    label.textContent = text;
    return label;
  }
}
