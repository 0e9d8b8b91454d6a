import {exactText, shape} from "./base.js";

/** A quick picture of a table's rows: line, bar, scatter or histogram, as one SVG. */

const HEIGHT = 340;
let WIDTH = 960;  // as wide as the place that the picture is drawn in, so that its texts are as large as the page's
const EDGE = {left: 68, right: 14, top: 14, bottom: 46};
const MOST_BARS = 60;
const BINS = 40;

export const CHARTS = ["line", "bar", "scatter", "histogram"];

/** `rows` are lists of values in the order of `columns`; x and y are places in it. Gives an element, or a sentence why there is none. */
export function chart(columns, rows, {kind, x, y, width = 960}) {
  WIDTH = Math.max(300, Math.round(width));
  if (kind === "histogram") return histogram(columns, rows, x);
  const numeric = rows.some((row) => typeof row[x] === "number") && rows.every((row) => row[x] === null || typeof row[x] === "number");
  const kept = rows.filter((row) => typeof row[y] === "number" && row[x] !== null);
  if (!kept.length) return `There is no number in the column ${columns[y]}.`;
  if (kind === "bar") return bars(columns, kept.slice(0, MOST_BARS), x, y, kept.length);
  const points = kept.map((row, i) => ({at: numeric ? row[x] : i, value: row[y], name: String(row[x])}));
  if (kind === "line" && numeric) points.sort((a, b) => a.at - b.at);
  const across = scale(points.map((point) => point.at), EDGE.left, WIDTH - EDGE.right);
  const up = scale(points.map((point) => point.value), HEIGHT - EDGE.bottom, EDGE.top);
  const svg = frame(columns, x, y, up);
  if (numeric) for (const tick of across.ticks) below(svg, across(tick), exactText(tick));
  else for (const i of spread(points.length, WIDTH / 110)) below(svg, across(i), points[i].name);
  if (kind === "line") svg.append(shape("path", {class: "line-mark", d: points.map((point, i) => `${i ? "L" : "M"}${across(point.at).toFixed(1)} ${up(point.value).toFixed(1)}`).join("")}));
  if (kind === "scatter" || points.length <= 80)
    for (const point of points) svg.append(titled(shape("circle", {class: "dot-mark", cx: across(point.at).toFixed(1), cy: up(point.value).toFixed(1), r: kind === "line" ? 2.5 : 3.5}), `${point.name}: ${exactText(point.value)}`));
  return svg;
}

function bars(columns, rows, x, y, nAll) {
  const up = scale([0, ...rows.map((row) => row[y])], HEIGHT - EDGE.bottom, EDGE.top);
  const svg = frame(columns, x, y, up);
  const step = (WIDTH - EDGE.left - EDGE.right) / rows.length;
  const labelled = new Set(spread(rows.length, WIDTH / 80));
  rows.forEach((row, i) => {
    const [top, bottom] = [Math.min(up(row[y]), up(0)), Math.max(up(row[y]), up(0))];
    const bar = shape("rect", {class: "bar-mark", x: (EDGE.left + step * (i + 0.1)).toFixed(1), width: (0.8 * step).toFixed(1), y: top.toFixed(1), height: Math.max(bottom - top, 0.5).toFixed(1)});
    svg.append(titled(bar, `${row[x]}: ${exactText(row[y])}`));
    if (labelled.has(i)) below(svg, EDGE.left + step * (i + 0.5), String(row[x]));
  });
  if (nAll > rows.length) svg.append(words(WIDTH - EDGE.right, EDGE.top + 4, `the first ${rows.length} of ${nAll} rows`, "end"));
  return svg;
}

function histogram(columns, rows, x) {
  const values = rows.map((row) => row[x]).filter((value) => typeof value === "number");
  if (!values.length) return `There is no number in the column ${columns[x]}.`;
  const [least, most] = extent(values);
  const width = (most - least) / BINS || 1;
  const counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.min(BINS - 1, Math.floor((value - least) / width))] += 1;
  const across = scale([least, least + width * BINS], EDGE.left, WIDTH - EDGE.right, true);
  const up = scale([0, ...counts], HEIGHT - EDGE.bottom, EDGE.top);
  const svg = frame([...columns, "rows"], x, columns.length, up);
  counts.forEach((n, i) => {
    const [from, to] = [least + i * width, least + (i + 1) * width];
    const bar = shape("rect", {class: "bar-mark", x: (across(from) + 0.5).toFixed(1), width: Math.max(across(to) - across(from) - 1, 0.5).toFixed(1), y: up(n).toFixed(1), height: (up(0) - up(n)).toFixed(1)});
    svg.append(titled(bar, `${exactText(from)} to ${exactText(to)}: ${n}`));
  });
  for (const tick of across.ticks) below(svg, across(tick), exactText(tick));
  return svg;
}

/** The empty picture: the lines across, their numbers, and what the axes are. */
function frame(columns, x, y, up) {
  const svg = shape("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": `${columns[y]} by ${columns[x]}`});
  for (const tick of up.ticks) {
    svg.append(shape("line", {class: "grid-mark", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: up(tick).toFixed(1), y2: up(tick).toFixed(1)}));
    svg.append(words(EDGE.left - 8, up(tick) + 4, exactText(tick), "end"));
  }
  svg.append(words((EDGE.left + WIDTH - EDGE.right) / 2, HEIGHT - 6, columns[x], "middle", "axis-name"));
  const name = words(0, 0, columns[y], "middle", "axis-name");
  name.setAttribute("transform", `translate(13 ${(EDGE.top + HEIGHT - EDGE.bottom) / 2}) rotate(-90)`);
  svg.append(name);
  return svg;
}

/** A linear scale from values to pixels, with round ticks; `tight` ends where the values end. */
function scale(values, from, to, tight = false) {
  let [least, most] = extent(values);
  if (least === most) [least, most] = [least - 0.5, most + 0.5];
  const raw = (most - least) / (Math.abs(to - from) > 500 ? 8 : 4), ten = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((times) => times * ten).find((size) => size >= raw);
  if (!tight) [least, most] = [Math.floor(least / step) * step, Math.ceil(most / step) * step];
  const at = (value) => from + ((value - least) / (most - least)) * (to - from);
  at.ticks = [];
  for (let i = Math.ceil(least / step - 1e-9); i * step <= most + step * 1e-9; i++) at.ticks.push(i * step);
  return at;
}

function extent(values) { return values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]); }

function spread(n, most) {
  const step = Math.max(1, Math.ceil(n / most));
  return Array.from({length: Math.ceil(n / step)}, (_, i) => i * step);
}

function below(svg, x, text) { svg.append(words(x, HEIGHT - EDGE.bottom + 17, text.length > 14 ? `${text.slice(0, 13)}…` : text, "middle")); }

function words(x, y, text, anchor, kind = "tick") {
  const made = shape("text", {x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor, class: kind});
  made.textContent = text;
  return made;
}

function titled(mark, text) {
  const title = shape("title");
  title.textContent = text;
  mark.append(title);
  return mark;
}
