import {node} from "./base.js";
import {dataButtons, saving} from "./tools.js";

/* The corpus: a search, filters, and one page of generations as a table of links. Every text is set by textContent or value, never
 * as markup.
 *
 * model.payload  JSON, "" while nothing has come: {n, page, pages, rows, runs: [[id, label]], values: {key: [[value, count]]}, asked,
 *                message} ; asked is what the page shows: {search, run, metadata: [[key, value]], sort, descending, page}
 * model.asked    JSON of the same, written here when a person asks for something else; model.typing while they still type
 */

const COLUMNS = [
  ["generation_id", "id"], ["prompt", "prompt"], ["completion", "completion"], ["n_prompt_tokens", "prompt tokens"],
  ["n_generated", "generated"], ["model", "model"], ["finish_reason", "finish"],
];
const NUMBERS = new Set(["n_prompt_tokens", "n_generated"]);
const TYPING_PAUSE_MS = 250;

export function render({model}) {
  const element = node("div", "corpus");
  const bar = node("div", "bar");
  const search = field("search", "Search prompts, completions, models and metadata");
  const run = picker("run");
  const key = picker("metadata");
  const value = picker("value of the metadata");
  const random = node("a", "random", "Random");
  const chips = node("div", "chips");
  const count = node("p", "count");
  count.setAttribute("role", "status");
  const table = node("div", "rows");
  const foot = node("div", "foot"), save = saving(...dataButtons("generations", shownRows, "rows of this page")), pager = node("nav", "pager");
  save.hidden = true;
  pager.setAttribute("aria-label", "pages of the table");
  bar.append(search, run, key, value, random);
  foot.append(save, pager);
  element.append(bar, chips, count, table, foot);

  let data = null, asked = null, pause = 0;

  function ask(change) {
    clearTimeout(pause);
    asked = {...asked, page: 1, ...change};
    model.asked = JSON.stringify(asked);
  }

  search.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => { asked = {...asked, page: 1, search: search.value}; model.typing = JSON.stringify(asked); }, TYPING_PAUSE_MS);
  });
  search.addEventListener("change", () => ask({search: search.value}));
  search.addEventListener("keydown", (event) => { if (event.key === "Enter") ask({search: search.value}); });
  run.addEventListener("change", () => ask({run: run.value === "" ? null : Number(run.value)}));
  key.addEventListener("change", () => fillValues());
  value.addEventListener("change", () => {
    if (value.value !== "") ask({metadata: [...asked.metadata.filter(([name]) => name !== key.value), [key.value, JSON.parse(value.value)]]});
  });
  const typed = (event) => {
    const inField = event.composedPath().some((place) => place instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(place.tagName));
    if (event.key === "/" && !inField && !event.ctrlKey && !event.metaKey && search.isConnected) { event.preventDefault(); search.focus(); search.select(); }
  };
  document.addEventListener("keydown", typed);

  function fillValues() {
    const values = data.values[key.value] ?? [];
    value.hidden = key.value === "" || !values.length;
    options(value, [["", "choose a value"], ...values.map(([text, n]) => [JSON.stringify(text), `${brief(text)} (${n.toLocaleString("en")})`])], "");
  }

  function draw() {
    if (model.payload === "") {
      table.replaceChildren(node("div", "waiting"));
      return;
    }
    data = JSON.parse(model.payload);
    asked = data.asked;
    if (search !== search.getRootNode().activeElement) search.value = asked.search;
    run.hidden = data.runs.length < 2;
    options(run, [["", "all runs"], ...data.runs.map(([id, label]) => [String(id), label])], asked.run === null ? "" : String(asked.run));
    const keys = Object.keys(data.values);
    key.hidden = !keys.length;
    options(key, [["", "any metadata"], ...keys.map((name) => [name, brief(name)])], keys.includes(key.value) ? key.value : "");
    fillValues();
    chips.replaceChildren(...asked.metadata.map(([name, text]) => {
      const chip = node("button", "chip");
      chip.type = "button";
      chip.append(node("span", "chip-key", brief(name)), node("span", "", brief(text)), node("span", "chip-end", "×"));
      chip.setAttribute("aria-label", `no longer only ${name} ${text}`);
      chip.addEventListener("click", () => ask({metadata: asked.metadata.filter(([other]) => other !== name)}));
      return chip;
    }));
    random.href = data.random;
    random.hidden = !data.n;
    count.textContent = data.message;
    table.replaceChildren(data.problem ? problem(data.problem) : data.rows.length ? rows() : nothing());
    save.hidden = !data.rows.length;
    drawPager();
  }

  function rows() {
    const whole = node("table"), head = node("thead"), body = node("tbody"), titles = node("tr");
    for (const [name, title] of COLUMNS) {
      const cell = node("th", `of-${name}`), button = node("button", "", title);
      const sorted = asked.sort === name;
      cell.scope = "col";
      cell.setAttribute("aria-sort", sorted ? (asked.descending ? "descending" : "ascending") : "none");
      button.type = "button";
      button.addEventListener("click", () => ask({sort: name, descending: asked.sort === name && !asked.descending}));
      cell.append(button);
      titles.append(cell);
    }
    head.append(titles);
    for (const row of data.rows) {
      const line = node("tr", "listed");
      for (const [name] of COLUMNS) {
        const cell = node("td", `of-${name}${NUMBERS.has(name) ? " number" : ""}`);
        const text = String(row[name]);
        if (name === "generation_id" || name === "prompt") {
          const link = node("a", "", name === "prompt" ? visible(text) : text);
          link.href = `generation?id=${row.generation_id}`;
          if (name === "prompt") link.tabIndex = -1;
          cell.append(link);
        } else cell.textContent = name === "completion" ? visible(text) : text;
        line.append(cell);
      }
      line.addEventListener("click", (event) => { if (!event.target.closest("a") && !String(window.getSelection())) line.querySelector("a").click(); });
      body.append(line);
    }
    whole.append(head, body);
    return whole;
  }

  function shownRows() {
    const columns = COLUMNS.map(([name]) => name);
    return {columns, rows: data.rows.map((row) => columns.map((name) => row[name]))};
  }

  function nothing() {
    const box = node("section", "nothing");
    const all = node("button", "", "Show all generations");
    all.type = "button";
    all.addEventListener("click", () => { search.value = ""; ask({search: "", run: null, metadata: []}); });
    box.append(node("p", "", "No generation is like that."), all);
    return box;
  }

  function drawPager() {
    pager.hidden = data.pages < 2;
    const to = (label, page, name) => {
      const button = node("button", "", label);
      button.type = "button";
      button.setAttribute("aria-label", name);
      button.disabled = page < 1 || page > data.pages || page === data.page;
      button.addEventListener("click", () => ask({page}));
      return button;
    };
    const number = node("input");
    number.type = "text";
    number.inputMode = "numeric";
    number.value = String(data.page);
    number.setAttribute("aria-label", "page");
    number.addEventListener("change", () => {
      const page = Math.min(Math.max(1, Math.round(Number(number.value)) || data.page), data.pages);
      number.value = String(page);
      if (page !== data.page) ask({page});
    });
    const of = node("span", "", `of ${data.pages.toLocaleString("en")}`);
    pager.replaceChildren(to("«", 1, "first page"), to("‹", data.page - 1, "previous page"), number, of, to("›", data.page + 1, "next page"), to("»", data.pages, "last page"));
  }

  const wait = () => element.setAttribute("aria-busy", String(model.busy));
  model.on("payload", draw);
  model.on("busy", wait);
  model.on("remove", () => document.removeEventListener("keydown", typed));
  draw();
  wait();
  return element;
}

export default {render};

function field(type, label) {
  const made = node("input");
  made.type = type;
  made.placeholder = label;
  made.setAttribute("aria-label", label);
  made.spellcheck = false;
  return made;
}

function picker(label) {
  const made = node("select");
  made.setAttribute("aria-label", label);
  made.hidden = true;
  return made;
}

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, label]) => {
    const option = node("option", "", label);
    option.value = value;
    return option;
  }));
  select.value = chosen;
}

function problem(sentence) {
  const line = node("p", "problem", sentence);
  line.setAttribute("role", "alert");
  return line;
}

/** Line breaks and tabs as signs, in a cell of one line. */
function visible(text) {
  return text.replace(/\r\n|[\r\n]/g, "↵").replaceAll("\t", "→");
}

function brief(text) {
  const shown = visible(text);
  return shown.length > 40 ? `${shown.slice(0, 39)}…` : shown || "(empty)";
}
