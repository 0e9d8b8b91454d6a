/** A drawing as a picture: what is on the screen, as SVG made of rectangles and texts, and that SVG as PNG. */

import {shape} from "./base.js";

const SCALE = 2, MOST_PIXELS_ACROSS = 16384, MOST_PIXELS = 64e6;  // past them browsers give no picture, or take seconds
const LEFT_OUT = ["tools", "forms", "tip", "hint"];
const RING = /(rgba?\([^)]*\)) 0px 0px 0px ([\d.]+)px( inset)?/g;
const CLEAR = "rgba(0, 0, 0, 0)";
const MARK_LOOK = ["fill", "fill-opacity", "stroke", "stroke-width"];
const TEXT_LOOK = ["fill", "font-family", "font-size", "font-weight"];
// XML has no way to write these, escaped or not.
const NOT_IN_XML = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** The SVG text of what `element` shows now, without what only a person at the page can use. While it is made the element has the
 *  class `pictured`, under which nothing may be scrolled out of sight. */
export function svgOf(element) {
  element.classList.add("pictured");
  const frame = element.getBoundingClientRect();
  const width = Math.ceil(frame.width), height = Math.ceil(Math.max(frame.height, element.scrollHeight));
  const svg = shape("svg", {xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}`});
  picture(element, svg, frame.left, frame.top);
  element.classList.remove("pictured");
  return new XMLSerializer().serializeToString(svg);
}

/** How many pixels of a picture lie across one of the page: two, or fewer where the picture is too large for that. */
export function sharpness(width, height) {
  return Math.min(SCALE, MOST_PIXELS_ACROSS / Math.max(width, height), Math.sqrt(MOST_PIXELS / (width * height)));
}

/** The PNG of an SVG text, as a Blob. */
export async function pngOf(svg) {
  const image = new Image();
  const loaded = new Promise((resolve, reject) => { image.onload = resolve; image.onerror = () => reject(new Error("the picture cannot be drawn")); });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await loaded;
  const canvas = document.createElement("canvas");
  const scale = sharpness(image.width, image.height);
  canvas.width = Math.floor(image.width * scale);
  canvas.height = Math.floor(image.height * scale);
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function picture(element, svg, left, above, underline = null) {
  if (element.hidden || LEFT_OUT.some((name) => element.classList.contains(name))) return;
  if (element instanceof HTMLInputElement && element.value === "") return;
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
  rings(style.boxShadow, svg, x, y, box, radius);
  const isField = element instanceof HTMLInputElement, isCut = isField || (style.overflowX === "hidden" && element.scrollWidth > element.clientWidth);
  const inside = isCut ? svg.appendChild(shape("svg", {x, y, width: box.width, height: box.height, viewBox: `${x} ${y} ${box.width} ${box.height}`})) : svg;
  if (isField) {
    const start = box.left + parseFloat(style.paddingLeft) + parseFloat(style.borderLeftWidth);
    inside.append(...written({text: element.value, box: {left: start, top: box.top, height: box.height}}, style, left, above));
  }
  if (style.textDecorationLine.includes("underline")) underline = {fill: style.textDecorationColor, below: parseFloat(style.textUnderlineOffset) || 2};
  else if (style.display !== "inline") underline = null;
  for (const child of element.childNodes) {
    if (child instanceof Element) picture(child, inside, left, above, underline);
    else if (child instanceof Text) for (const line of linesOf(child)) inside.append(...written(line, style, left, above, underline));
  }
}

/** The rings around a box that CSS draws as shadows without blur, each from where the one within it ends. */
function rings(shadow, svg, x, y, {width, height}, radius) {
  let within = 0;
  for (const [, stroke, size, inset] of shadow.matchAll(RING)) {
    const thick = Number(size) - within, out = inset ? -Number(size) / 2 : within + thick / 2;
    svg.append(shape("rect", {x: x - out, y: y - out, width: width + 2 * out, height: height + 2 * out, rx: Math.max(0, radius + out), fill: "none", stroke, "stroke-width": thick}));
    if (!inset) within = Number(size);
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

function written({text, box}, style, left, top, underline = null) {
  const size = parseFloat(style.fontSize), x = (box.left - left).toFixed(2), y = box.top - top + box.height / 2 + size * 0.35;
  const opacity = style.opacity === "1" ? {} : {"fill-opacity": style.opacity};
  const made = shape("text", {
    x, y: y.toFixed(2), fill: style.color, ...opacity,
    "font-family": style.fontFamily, "font-size": size, "font-weight": style.fontWeight, "font-style": style.fontStyle, "xml:space": "preserve",
  });
  made.textContent = text.replace(NOT_IN_XML, "\ufffd");
  return underline ? [shape("rect", {x, y: (y + underline.below).toFixed(2), width: box.width, height: 1, fill: underline.fill}), made] : [made];
}
