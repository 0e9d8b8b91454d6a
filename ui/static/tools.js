/** The small toolbar of a drawing: what is shown as a picture and as data, saved by the browser alone. */

import {button, node} from "./base.js";
import {pngOf, svgOf} from "./picture.js";

/** The bar that saves what `strip` shows as files that begin with `name`. Of a drawing: table() gives its numbers as {columns, rows};
 *  `more` has other tables by the names of what they hold; settle() draws what is not drawn because it is out of sight, and may give what undoes that. */
export function tools(strip, name, {table, more = {}, settle}) {
  const bar = saving(...pictureButtons(strip, name, settle));
  if (table) bar.append(...dataButtons(name, table));
  for (const [what, one] of Object.entries(more)) bar.append(node("span", "tools-name", what), ...dataButtons(`${name}-${what.replaceAll(" ", "-")}`, one, what));
  return bar;
}

/** A bar of buttons that save. */
export function saving(...buttons) {
  const bar = node("div", "tools");
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "save");
  bar.append(node("span", "tools-name", "Save"), ...buttons);
  return bar;
}

/** Buttons that save what `element` shows as a picture. */
export function pictureButtons(element, name, settle = () => {}) {
  const picture = () => {
    const undo = settle(), svg = svgOf(element);
    undo?.();
    return svg;
  };
  return [
    button("tool", "PNG", async () => save(`${name}.png`, await pngOf(picture())), "save as a PNG picture"),
    button("tool", "SVG", () => save(`${name}.svg`, new Blob([picture()], {type: "image/svg+xml"})), "save as an SVG picture"),
  ];
}

/** Buttons that save a table: table() gives {columns, rows}. */
export function dataButtons(name, table, what = "data shown") {
  return [
    button("tool", "CSV", () => save(`${name}.csv`, new Blob([csvOf(table())], {type: "text/csv"})), `save the ${what} as CSV`),
    button("tool", "JSON", () => save(`${name}.json`, new Blob([jsonOf(table())], {type: "application/json"})), `save the ${what} as JSON`),
  ];
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
