/** The small toolbar of a drawing: what is shown as a picture and as data, saved by the browser alone. */

import {button, node} from "./base.js";
import {pngOf, svgOf} from "./picture.js";

/** Buttons that save what `strip` shows. `table()` gives {columns, rows}; `name` is the files' name without a suffix;
 *  `settle()` finishes what is not drawn yet because it is out of sight. */
export function tools(strip, name, table, settle = () => {}) {
  const bar = node("div", "tools");
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "save");
  bar.append(node("span", "tools-name", "Save"));
  const picture = () => { settle(); return svgOf(strip); };
  const add = (text, label, make) => bar.append(button("tool", text, () => make(), label));
  add("PNG", "save as a PNG picture", async () => save(`${name}.png`, await pngOf(picture())));
  add("SVG", "save as an SVG picture", () => save(`${name}.svg`, new Blob([picture()], {type: "image/svg+xml"})));
  if (table) {
    add("CSV", "save the data shown as CSV", () => save(`${name}.csv`, new Blob([csvOf(table())], {type: "text/csv"})));
    add("JSON", "save the data shown as JSON", () => save(`${name}.json`, new Blob([jsonOf(table())], {type: "application/json"})));
  }
  return bar;
}

/** A table as CSV: a field is quoted where it must be, an empty field is no value. */
function csvOf({columns, rows}) {
  const field = (value) => {
    if (value === null || Number.isNaN(value)) return "";
    const text = String(value);
    return /[",\r\n]/.test(text) || (typeof value === "string" && text.trim() !== text) || text === "" ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";
}

/** A table as JSON: a list of records; what is no number is null. */
function jsonOf({columns, rows}) {
  return JSON.stringify(rows.map((row) => Object.fromEntries(row.map((value, i) => [columns[i], Number.isNaN(value) ? null : value]))));
}

function save(name, blob) {
  const link = node("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
