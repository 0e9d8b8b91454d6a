/** A drawing as a picture: what is on the screen, as SVG made of rectangles and texts, and that SVG as PNG. */

import {shape} from "./base.js";

const SCALE = 2;
const CLEAR = "rgba(0, 0, 0, 0)";
const MARK_LOOK = ["fill", "fill-opacity", "stroke", "stroke-width"];
const TEXT_LOOK = ["fill", "font-family", "font-size", "font-weight"];
// XML has no way to write these, escaped or not.
const NOT_IN_XML = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** The SVG text of what `element` shows now; what carries the class `tools`, `forms` or `tip` is left out. */
export function svgOf(element) {
  const frame = element.getBoundingClientRect();
  const width = Math.ceil(frame.width), height = Math.ceil(Math.max(frame.height, element.scrollHeight));
  const svg = shape("svg", {xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`});
  picture(element, svg, frame.left, frame.top);
  return new XMLSerializer().serializeToString(svg);
}

/** The PNG of an SVG text, as a Blob, twice as many pixels wide. */
export async function pngOf(svg) {
  const image = new Image();
  const loaded = new Promise((resolve, reject) => { image.onload = resolve; image.onerror = () => reject(new Error("the picture cannot be drawn")); });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await loaded;
  const canvas = document.createElement("canvas");
  canvas.width = image.width * SCALE;
  canvas.height = image.height * SCALE;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function picture(element, svg, left, above) {
  if (element.hidden || ["tools", "forms", "tip"].some((name) => element.classList.contains(name))) return;
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  if (style.display === "none" || style.visibility === "hidden") return;
  const x = box.left - left, y = box.top - above;
  if (element instanceof SVGSVGElement) { svg.append(copied(element, x, y, box)); return; }
  if (element instanceof HTMLCanvasElement) {
    svg.append(shape("image", {x, y, width: box.width, height: box.height, href: element.toDataURL("image/png")}));
    return;
  }
  const radius = Math.min(parseFloat(style.borderTopLeftRadius) || 0, box.height / 2);
  const edges = ["Top", "Right", "Bottom", "Left"].map((side) => {
    const width = parseFloat(style[`border${side}Width`]), colour = style[`border${side}Color`];
    return width && colour !== CLEAR && style[`border${side}Style`] !== "none" ? [width, colour] : null;
  });
  const around = edges.every(Boolean) ? edges[0][1] : "none";
  if (style.backgroundColor !== CLEAR || around !== "none")
    svg.append(shape("rect", {x, y, width: box.width, height: box.height, rx: radius, fill: style.backgroundColor === CLEAR ? "none" : style.backgroundColor, stroke: around}));
  if (around === "none") {
    const [top, , bottom] = edges;
    if (top) svg.append(shape("rect", {x, y, width: box.width, height: top[0], fill: top[1]}));
    if (bottom) svg.append(shape("rect", {x, y: y + box.height - bottom[0], width: box.width, height: bottom[0], fill: bottom[1]}));
  }
  for (const child of element.childNodes) {
    if (child instanceof Element) picture(child, svg, left, above);
    else if (child instanceof Text) for (const line of linesOf(child)) svg.append(written(line, style, left, above));
  }
}

/** An SVG of the page, with the look that the page's styles give its marks and texts written into them. */
function copied(element, x, y, box) {
  const copy = element.cloneNode(true), marks = element.querySelectorAll("*");
  for (const [name, value] of Object.entries({x, y, width: box.width, height: box.height})) copy.setAttribute(name, String(value));
  copy.removeAttribute("class");
  copy.querySelectorAll("*").forEach((mark, i) => {
    const style = getComputedStyle(marks[i]);
    for (const name of mark.tagName === "text" ? TEXT_LOOK : MARK_LOOK) mark.setAttribute(name, style.getPropertyValue(name));
    mark.removeAttribute("class");
  });
  return copy;
}

/** The lines that a text is broken into, each with where it lies. */
function linesOf(text) {
  const range = document.createRange(), lines = [];
  range.selectNodeContents(text);
  if (range.getClientRects().length <= 1) {
    const box = range.getBoundingClientRect();
    return box.width ? [{text: text.data, box}] : [];
  }
  let start = 0;
  for (const character of text.data) {
    range.setStart(text, start);
    range.setEnd(text, start + character.length);
    start += character.length;
    const box = range.getBoundingClientRect(), last = lines.at(-1);
    if (!box.width) continue;
    if (last && Math.abs(last.box.top - box.top) < 2) last.text += character;
    else lines.push({text: character, box});
  }
  return lines;
}

function written({text, box}, style, left, top) {
  const size = parseFloat(style.fontSize);
  const opacity = style.opacity === "1" ? {} : {"fill-opacity": style.opacity};
  const made = shape("text", {
    x: (box.left - left).toFixed(2), y: (box.top - top + box.height / 2 + size * 0.35).toFixed(2), fill: style.color, ...opacity,
    "font-family": style.fontFamily, "font-size": size, "font-weight": style.fontWeight, "font-style": style.fontStyle, "xml:space": "preserve",
  });
  made.textContent = text.replace(NOT_IN_XML, "\ufffd");
  return made;
}
