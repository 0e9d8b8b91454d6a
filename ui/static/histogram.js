/** A histogram: bars over an axis of values, their heights linear or logarithmic, exact numbers on hover and by arrow keys. */

import {choice, exactText, node, percent, shape} from "./base.js";
import {rgb} from "./colour.js";

const WIDTH = 640, HEIGHT = 120;

/** Bars of `counts` between `edges` (one more). options: theme, tip, log (whether heights are logarithmic), onLog(on), what (the
 *  plural of what is counted). Gives {element, log(on)}. */
export function histogram({edges, counts}, {theme, tip, log, onLog, what = "positions"}) {
  const figure = node("figure", "histogram");
  const total = counts.reduce((sum, n) => sum + n, 0), most = Math.max(1, ...counts);
  const first = edges[0], last = edges[edges.length - 1], span = last - first || 1;
  const x = (value) => WIDTH * (value - first) / span;
  const plot = node("div", "histogram-plot");
  plot.tabIndex = 0;
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `histogram of ${total} ${what} from ${exactText(first)} to ${exactText(last)}; arrow keys read its bars`);
  const svg = shape("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none"});
  const bars = counts.map((_, bin) => {
    const gap = Math.min(1, (x(edges[bin + 1]) - x(edges[bin])) / 4);
    const fill = edges[bin] >= 0 ? theme.positive : edges[bin + 1] <= 0 ? theme.negative : theme.soft;
    const bar = shape("rect", {x: x(edges[bin]), width: Math.max(0.5, x(edges[bin + 1]) - x(edges[bin]) - gap), fill: rgb(fill)});
    svg.append(bar);
    return bar;
  });
  const marker = node("span", "histogram-marker");
  marker.hidden = true;
  plot.append(svg, marker);
  const axis = node("div", "histogram-axis");
  axis.append(node("span", "", exactText(round3(first))), node("span", "", exactText(round3(last))));
  if (first < 0 && last > 0) {
    const zero = node("span", "histogram-zero", "0");
    zero.style.left = `${100 * -first / span}%`;
    if (-first / span > 0.1 && last / span > 0.1) axis.append(zero);
  }
  const top = node("span", "histogram-top");
  const forms = choice("scale of the counts", [["linear", false], ["log", true]], log, (on) => { set(on); onLog(on); });
  const head = node("figcaption", "histogram-head");
  head.append(top, forms.element);
  figure.append(head, plot, axis);
  let shown = null;

  function set(on) {
    forms.set(on);
    const height = (n) => n === 0 ? 0 : on ? HEIGHT * (1 + Math.log10(n)) / (1 + Math.log10(most)) : Math.max(1, HEIGHT * n / most);
    bars.forEach((bar, bin) => {
      bar.setAttribute("y", String(HEIGHT - height(counts[bin])));
      bar.setAttribute("height", String(height(counts[bin])));
    });
    top.textContent = `${most.toLocaleString("en")} ${what} in the highest bar`;
  }

  function show(bin) {
    shown = Math.max(0, Math.min(counts.length - 1, bin));
    const before = counts.slice(0, shown).reduce((sum, n) => sum + n, 0);
    marker.hidden = false;
    marker.style.left = `${100 * x(edges[shown]) / WIDTH}%`;
    marker.style.width = `${100 * (x(edges[shown + 1]) - x(edges[shown])) / WIDTH}%`;
    tip.show(marker, [
      ["from", exactText(edges[shown])], ["below", exactText(edges[shown + 1])],
      [what, `${counts[shown].toLocaleString("en")} of ${total.toLocaleString("en")}`],
      ["share", percent(counts[shown] / (total || 1), 2)], ["lower ones", percent(before / (total || 1), 2)],
    ]);
  }

  function hide() { shown = null; marker.hidden = true; tip.hide(); }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect(), value = first + span * (event.clientX - box.left) / box.width;
    let bin = edges.findIndex((edge) => edge > value) - 1;
    if (bin < 0) bin = value < first ? 0 : counts.length - 1;
    if (bin !== shown) show(bin);
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step === undefined) { if (event.key === "Escape") hide(); return; }
    show(shown === null ? (step > 0 ? 0 : counts.length - 1) : shown + step);
    event.preventDefault();
  });
  set(log);
  return {element: figure, log: set};
}

function round3(value) { return Number(value.toPrecision(3)); }
