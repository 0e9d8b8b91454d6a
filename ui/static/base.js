/** What every part of a drawing uses: elements, numbers as text, arrays as they come from Python. */

const SVG = "http://www.w3.org/2000/svg";

/** An element with a class and a text; the text is never markup. */
export function node(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** An SVG element with its attributes. */
export function shape(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

/** A button that does something, named for those who do not see it. */
export function button(className, text, onPress, label) {
  const element = node("button", className, text);
  element.type = "button";
  if (label) { element.setAttribute("aria-label", label); element.title = label; }
  element.addEventListener("click", onPress);
  return element;
}

/** Buttons of which one is pressed: `choices` are [text, value]. Gives {element, set(value)}. */
export function choice(label, choices, chosen, onSet) {
  const group = node("div", "forms");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  const made = choices.map(([text, value]) => {
    const one = button("form", text, () => onSet(value));
    group.append(one);
    return [one, value];
  });
  const set = (now) => { for (const [one, value] of made) one.setAttribute("aria-pressed", String(value === now)); };
  set(chosen);
  return {element: group, set};
}

/** Calls `release` when Escape is pressed anywhere, for as long as `element` is on the page. */
export function whenEscaped(element, release) {
  document.addEventListener("keydown", function escape(event) {
    if (!element.isConnected) document.removeEventListener("keydown", escape);
    else if (event.key === "Escape") release();
  });
}

/** Little-endian float32 from base64. */
export function floats(base64) { return new Float32Array(bytes(base64).buffer); }

/** Little-endian int32 from base64. */
export function integers(base64) { return new Int32Array(bytes(base64).buffer); }

function bytes(base64) { return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)); }

/** 0.1234 as "12.3%". */
export function percent(share, digits = 1) { return `${signedText(100 * share, digits)}%`; }

/** A share of a whole as a percentage; one that is not nothing never reads as nothing. */
export function shareText(share) { return share > 0 && share < 0.0005 ? "< 0.1%" : percent(share); }

/** A number with a true minus. */
export function signedText(value, digits) { return value.toFixed(digits).replace("-", "−"); }

/** A number as `said` writes it, or "unknown" where there is none (null). */
export function orUnknown(value, said) { return value === null ? "unknown" : said(value); }

/** A number to three decimals; one that is not nothing never reads as nothing. */
export function shortText(value) { return Math.abs(value) < 0.0005 ? exactText(Number(value.toPrecision(2))) : signedText(value, 3); }

/** A number to six significant digits, as short as that allows, with a true minus: what tooltips say. */
export function exactText(value) {
  if (!Number.isFinite(value)) return "–";
  return String(Number(value.toPrecision(6))).replaceAll("-", "−");
}
