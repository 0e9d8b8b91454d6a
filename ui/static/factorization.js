/** A saved factorization: a card for each factor, with its label, its strongest tokens in their contexts, and its neurons. */

import {choice, floats, node, orUnknown, percent, shortText} from "./base.js";
import {exampleList, signedScale, tokenOf} from "./examples.js";
import {rgb} from "./colour.js";
import {tooltip} from "./tokens.js";

/** data.factorization: {base, cards: [{factor, explained, stability, label, examples, contexts, neurons: [{layer, neuron, weight}]}]};
 *  null where explained share or stability are not known. state: sort ("factor", "explained" or "stability"), whole, label
 *  ({factor, text}, when a label was changed), draft (the same of one that is being typed, else null). */
export function factorization(element, data, {state, theme, onChange}) {
  const {cards, base} = data.factorization;
  const strip = node("div", "strip strip-factorization");
  const tip = tooltip(strip);
  let whole = Boolean(state.whole), sort = state.sort ?? "factor", draft = state.draft ?? null;
  const bar = node("div", "bar"), list = node("div", "cards");
  const orders = [["by number", "factor"]];
  if (cards.some((card) => card.explained !== null)) orders.push(["by share", "explained"]);
  if (cards.some((card) => card.stability !== null)) orders.push(["by stability", "stability"]);
  const order = choice("order of the factors", orders, sort, (now) => { show(now, whole); onChange({sort}); });
  const forms = choice("contexts", [["around the token", false], ["whole contexts", true]], whole, (on) => { show(sort, on); onChange({whole}); });
  bar.append(order.element, forms.element);
  strip.prepend(bar, list);
  element.replaceChildren(strip);
  show(sort, whole);

  function show(by, on) {
    [sort, whole] = [by, on];
    order.set(sort);
    forms.set(whole);
    const sorted = [...cards].sort((a, b) => sort === "factor" ? a.factor - b.factor : (b[sort] ?? -1) - (a[sort] ?? -1));
    list.replaceChildren(...sorted.map(card));
  }

  function card(one) {
    const part = node("section", "factor-card"), head = node("div", "card-head");
    const number = node("span", "spark-number", String(one.factor));
    number.style.backgroundColor = rgb(theme.factor(one.factor));
    number.style.color = theme.dark ? "black" : "white";
    head.append(number, ...labelOf(one));
    head.append(fact("explained share", orUnknown(one.explained, (share) => percent(share, 2))));
    if (one.stability !== null) head.append(fact("stability", one.stability.toFixed(3)));
    const values = Object.values(one.contexts).flatMap((context) => [...(context.decoded ??= floats(context.values))]);
    const scale = signedScale(values, theme);
    head.append(scale.legend("value"));
    const neurons = node("p", "card-neurons", "strongest neurons (layer/neuron, weight) ");
    for (const each of one.neurons) {
      const link = node(base === null ? "span" : "a", "example-link", `${each.layer}/${each.neuron}`);
      if (base !== null) link.href = base + data.links.neuron.replace("{layer}", each.layer).replace("{neuron}", each.neuron);
      link.title = `layer ${each.layer}, neuron ${each.neuron}`;
      neurons.append(link, node("span", "", ` ${shortText(each.weight)}  `));
    }
    part.append(head, neurons, exampleList(one.examples, one.contexts, {
      scale, tip, whole, what: `factor ${one.factor}`,
      link: (generation_id) => base === null ? null : `${base}generation?id=${generation_id}`,
    }));
    return part;
  }

  /** Where there is an app, a label can be changed; elsewhere it is read. */
  function labelOf(one) {
    if (base === null) return one.label ? [node("b", "card-name", one.label)] : [];
    const label = node("input", "card-label"), isTyped = draft?.factor === one.factor;
    label.value = isTyped ? draft.text : one.label;
    label.placeholder = "label, for everybody";
    label.setAttribute("aria-label", `label of factor ${one.factor}`);
    label.addEventListener("input", () => {
      draft = {factor: one.factor, text: label.value};
      onChange({draft});
    });
    label.addEventListener("blur", () => keep(one, label.value));
    label.addEventListener("keydown", (event) => { if (event.key === "Enter") keep(one, label.value); });
    if (isTyped) requestAnimationFrame(() => label.focus());  // it may not be on the page yet
    return [label];
  }

  function keep(one, text) {
    if (draft === null) return;
    draft = null;
    const label = text === one.label ? {} : {label: {factor: one.factor, text}};
    one.label = text;
    onChange({...label, draft});
  }

  function fact(name, value) {
    const one = node("span", "card-fact", `${name} `);
    one.append(node("b", "", value));
    return one;
  }

  return {
    element: strip,
    table: () => ({
      columns: ["factor", "label", "explained", "stability", "generation_id", "position", "token", "value"],
      rows: cards.flatMap((one) => one.examples.map(({generation_id, position, value}) =>
        [one.factor, one.label, one.explained, one.stability, generation_id, position, tokenOf(one.contexts, generation_id, position), value])),
    }),
    more: {
      neurons: () => ({
        columns: ["factor", "layer", "neuron", "weight"],
        rows: cards.flatMap(({factor, neurons}) => neurons.map(({layer, neuron, weight}) => [factor, layer, neuron, weight])),
      }),
    },
    update(now) {
      draft = now.draft ?? null;
      if (now.label) for (const one of cards) if (one.factor === now.label.factor) one.label = now.label.text;
      show(now.sort ?? "factor", Boolean(now.whole));
    },
  };
}
