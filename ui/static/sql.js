import {button, exactText, node} from "./base.js";
import {CHARTS, chart} from "./chart.js";
import {pictureButtons, saving} from "./tools.js";

/* The SQL page: an editor with the tables beside it, the rows of the answer, and a picture of them. Column names and values are
 * whatever a query makes of them, and are set by textContent alone.
 *
 * model.sql      the text in the editor          model.asked    JSON {sql, n}, written here when it is to run
 * model.stopped  counts presses of Stop          model.view     JSON {chart, x, y} or "", what the picture shows
 * model.tables   JSON [{name, kind, comment, columns: [[name, type, comment]]}]     model.examples  JSON [[question, sql]]
 * model.payload  JSON {state: "idle" | "waiting" | "running" | "done" | "failed", message, columns, types, rows}
 */

export function render({model}) {
  const element = node("div", "sql");
  const desk = node("div", "desk"), side = node("aside", "side"), work = node("div", "work");
  const editor = node("textarea", "editor");
  editor.setAttribute("aria-label", "SQL");
  editor.spellcheck = false;
  editor.autocapitalize = "off";
  editor.placeholder = "select …";
  editor.value = model.sql;
  const line = node("div", "line");
  const runs = button("primary", "Run", run), stops = button("", "Stop", stop);
  runs.title = "Ctrl+Enter";
  const status = node("p", "status");
  status.setAttribute("role", "status");
  const files = node("span", "files");
  line.append(runs, stops, status, files);
  const trouble = node("p", "problem");
  trouble.setAttribute("role", "alert");
  const answer = node("div", "answer");
  work.append(editor, line, trouble, answer);
  desk.append(work, side);
  element.append(desk);
  const listed = node("div");
  side.append(examples(), listed);

  let n = 0, sorted = null;

  editor.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
    if (event.key === "Escape") stop();
  });
  editor.addEventListener("input", fit);

  function run() {
    if (!editor.value.trim()) { editor.focus(); return; }
    model.asked = JSON.stringify({sql: editor.value, n: ++n});
  }

  function stop() { if (!stops.disabled) model.stopped += 1; }

  function fit() { editor.style.height = `${Math.min(Math.max(editor.value.split("\n").length, 6), 22) * 20 + 26}px`; }

  function insert(text) {
    editor.focus();
    editor.setRangeText(text, editor.selectionStart, editor.selectionEnd, "end");
    fit();
  }

  function examples() {
    const box = node("details", "examples");
    box.open = true;
    box.append(node("summary", "", "Examples"));
    for (const [question, sql] of JSON.parse(model.examples))
      box.append(button("example", question, () => { editor.value = sql; fit(); editor.focus(); editor.setSelectionRange(0, 0); editor.scrollTop = 0; }));
    return box;
  }

  function tables() {
    const box = node("details", "tables"), all = JSON.parse(model.tables);
    box.open = window.innerWidth > 760;
    box.append(node("summary", "", all.length ? "Tables and views" : "Tables and views …"));
    for (const table of all) {
      const one = node("details", "table"), head = node("summary");
      head.append(node("span", "name", table.name), node("span", "kind", table.kind));
      one.append(head, node("p", "comment", table.comment));
      one.append(button("insert", `insert ${table.name}`, () => insert(table.name)));
      for (const [name, type, comment] of table.columns) {
        const column = button("column", "", () => insert(name), `insert ${name}`);
        column.title = comment;
        column.append(node("span", "name", name), node("span", "type", type));
        one.append(column);
      }
      box.append(one);
    }
    listed.replaceChildren(box);
  }

  function draw() {
    const data = JSON.parse(model.payload);
    const busy = data.state === "waiting" || data.state === "running";
    element.setAttribute("aria-busy", String(busy));
    runs.disabled = busy;
    stops.disabled = !busy;
    status.textContent = data.state === "failed" ? "" : data.message;
    trouble.hidden = data.state !== "failed";
    trouble.textContent = trouble.hidden ? "" : data.message;
    files.replaceChildren();
    if (busy) return;
    sorted = null;
    answer.replaceChildren();
    if (data.state !== "done") return;
    if (data.columns.length) {
      for (const kind of ["csv", "parquet"]) {
        const link = node("a", "", kind === "csv" ? "CSV" : "Parquet");
        link.href = `sql.${kind}?${new URLSearchParams({sql: data.sql})}`;
        link.setAttribute("download", "");
        link.title = `all rows as ${link.textContent}`;
        files.append(link);
      }
      files.prepend(node("span", "", "all rows:"));
    }
    answer.append(picture(data), rowsOf(data));
  }

  function rowsOf(data) {
    const box = node("div", "rows"), whole = node("table"), head = node("thead"), titles = node("tr"), body = node("tbody");
    box.tabIndex = 0;
    box.setAttribute("aria-label", "rows of the answer");
    const fill = () => body.replaceChildren(...inOrder(data).map((row) => {
      const line = node("tr");
      row.forEach((value) => {
        const cell = node("td", value === null ? "null" : typeof value === "number" ? "number" : "", value === null ? "NULL" : typeof value === "number" ? exactNumber(value) : String(value));
        if (typeof value === "string" && value.length > 40) cell.title = value;
        line.append(cell);
      });
      return line;
    }));
    data.columns.forEach((name, place) => {
      const title = node("th"), by = button("", "", () => {
        sorted = sorted?.place === place ? (sorted.down ? null : {place, down: true}) : {place, down: false};
        titles.querySelectorAll("th").forEach((other, i) => other.setAttribute("aria-sort", sorted?.place === i ? (sorted.down ? "descending" : "ascending") : "none"));
        fill();
      });
      title.scope = "col";
      title.setAttribute("aria-sort", "none");
      by.append(node("span", "name", name), node("span", "type", data.types[place]));
      title.append(by);
      titles.append(title);
    });
    fill();
    head.append(titles);
    whole.append(head, body);
    box.append(whole);
    return data.rows.length ? box : node("p", "none", "No rows.");
  }

  function inOrder(data) {
    if (!sorted) return data.rows;
    const {place, down} = sorted;
    const order = (a, b) => (a === null) - (b === null) || (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0);
    return [...data.rows].sort((a, b) => (down && a[place] !== null && b[place] !== null ? -1 : 1) * order(a[place], b[place]));
  }

  function picture(data) {
    const box = node("div", "picture"), bar = node("div", "choices"), place = node("div", "place");
    const numbers = data.columns.map((_, i) => i).filter((i) => data.rows.some((row) => typeof row[i] === "number"));
    if (!data.rows.length || !numbers.length) return box;
    const known = model.view === "" ? {} : JSON.parse(model.view);
    const column = (wanted, otherwise) => (data.columns.includes(wanted) ? data.columns.indexOf(wanted) : otherwise);
    const kinds = picker("chart", [["", "no chart"], ...CHARTS.map((name) => [name, name])], CHARTS.includes(known.chart) ? known.chart : "");
    const places = data.columns.map((name, i) => [String(i), name]);
    const x = picker("x", places, String(column(known.x, 0))), y = picker("y", places, String(column(known.y, numbers.at(-1))));
    const save = saving(...pictureButtons(place, "chart"));
    const show = () => {
      x.parentElement.hidden = kinds.value === "";
      y.parentElement.hidden = kinds.value === "" || kinds.value === "histogram";
      place.replaceChildren();
      if (kinds.value !== "") {
        const drawn = chart(data.columns, data.rows, {kind: kinds.value, x: Number(x.value), y: Number(y.value), width: place.clientWidth - 26});
        place.append(typeof drawn === "string" ? node("p", "none", drawn) : drawn);
      }
      save.hidden = !place.querySelector("svg");
    };
    for (const one of [kinds, x, y]) one.addEventListener("change", () => {
      show();
      model.view = kinds.value === "" ? "" : JSON.stringify({chart: kinds.value, x: data.columns[x.value], y: data.columns[y.value]});
    });
    bar.append(kinds.parentElement, x.parentElement, y.parentElement, save);
    box.append(bar, place);
    let width = 0;
    new ResizeObserver(() => {  // at first too: it is drawn when it is known how wide
      if (box.clientWidth !== width) { width = box.clientWidth; show(); }
    }).observe(box);
    return box;
  }

  model.on("payload", draw);
  model.on("tables", tables);
  model.on("sql", () => { if (editor.value !== model.sql) { editor.value = model.sql; fit(); } });
  fit();
  tables();
  draw();
  return element;
}

export default {render};

function exactNumber(value) { return Number.isInteger(value) ? String(value).replace("-", "−") : exactText(value); }

function picker(label, pairs, chosen) {
  const box = node("label", "picker", label), select = node("select");
  select.setAttribute("aria-label", label);
  for (const [value, text] of pairs) {
    const option = node("option", "", text);
    option.value = value;
    select.append(option);
  }
  select.value = chosen;
  box.append(select);
  return select;
}
