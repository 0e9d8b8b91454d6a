/** A neuron: its statistics with a histogram, and examples of it, each in its context. */

import {choice, exactText, floats, node, percent} from "./base.js";
import {exampleList, signedScale, tokenOf} from "./examples.js";
import {histogram} from "./histogram.js";
import {tooltip} from "./tokens.js";

/** data.neuron: {layer, neuron, stats: {n, mean, std, min, max, density}, histogram: {edges, counts}, sections: [{name, note,
 *  examples}], contexts, base}: examples and contexts as `exampleList` takes them (examples drawn from a bin have bin, lower, upper),
 *  `base` is where links to generations begin (null: there are none). state: log (whether the histogram's counts are logarithmic),
 *  whole (whether contexts are). */
export function neuron(element, data, {state, theme, onChange}) {
  const {stats, sections, contexts, base} = data.neuron;
  const strip = node("div", "strip strip-neuron");
  const tip = tooltip(strip);
  let whole = Boolean(state.whole), scale = null, bars = null;

  const top = node("div", "neuron-top");
  top.append(facts());
  if (stats.n > 0) {
    bars = histogram(data.neuron.histogram, {theme, tip, log: Boolean(state.log), onLog: (log) => onChange({log})});
    top.append(bars.element);
  } else top.append(node("p", "section-note", "No token is selected: there is nothing that the filters leave."));
  const bar = node("div", "bar");
  scale = signedScale(shownValues(), theme);
  const forms = choice("contexts", [["around the token", false], ["whole contexts", true]], whole, (on) => { unfold(on); onChange({whole}); });
  bar.append(scale.legend("activation"), forms.element);
  const main = node("div", "example-sections");
  strip.prepend(top, bar, main);
  element.replaceChildren(strip);
  fill();

  function facts() {
    const list = node("dl", "neuron-facts");
    const rows = [
      ["positions", stats.n.toLocaleString("en")], ["mean", exactText(stats.mean)], ["standard deviation", exactText(stats.std)],
      ["least", exactText(stats.min)], ["greatest", exactText(stats.max)], ["above zero", stats.density === null ? "–" : percent(stats.density, 2)],
    ];
    for (const [name, value] of rows) {
      const row = node("div");
      row.append(node("dt", "", name), node("dd", "", value));
      list.append(row);
    }
    return list;
  }

  function* shownValues() {
    for (const context of Object.values(contexts)) yield* (context.decoded ??= floats(context.values));
  }

  function unfold(on) {
    whole = on;
    forms.set(on);
    fill();
  }

  function fill() {
    main.replaceChildren(...sections.map((section) => {
      const part = node("section", "example-section");
      part.append(node("h2", "", section.name));
      if (section.note) part.append(node("p", "section-note", section.note));
      part.append(exampleList(section.examples, contexts, {scale, tip, whole, link, what: "activation"}));
      if (section.examples.length === 0) part.append(node("p", "section-note", "none"));
      return part;
    }));
  }

  function link(generation_id) {
    return base === null ? `#generation-${generation_id}` : `${base}generation?id=${generation_id}`;
  }

  function examplesTable() {
    return {
      columns: ["section", "bin", "lower", "upper", "generation_id", "position", "token", "activation"],
      rows: sections.flatMap(({name, examples}) => examples.map(({bin = null, lower = null, upper = null, generation_id, position, value}) =>
        [name.toLowerCase(), bin, lower, upper, generation_id, position, tokenOf(contexts, generation_id, position), value])),
    };
  }

  function histogramTable() {
    const {edges, counts} = data.neuron.histogram;
    return {columns: ["lower", "upper", "n"], rows: counts.map((n, bin) => [edges[bin], edges[bin + 1], n])};
  }

  return {
    element: strip,
    table: examplesTable,
    more: {histogram: histogramTable, statistics: () => ({columns: Object.keys(stats), rows: [Object.values(stats)]})},
    update(now) {
      bars?.log(Boolean(now.log));
      if (Boolean(now.whole) !== whole) unfold(Boolean(now.whole));
    },
  };
}
