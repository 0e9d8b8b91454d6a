/** Colours: those of the theme, read from the page's custom properties, and palettes with an ink that stays readable. */

import {shape} from "./base.js";

/** How many steps a palette has. */
export const LEVELS = 255;

const PLAIN = {
  "--card": "#ffffff", "--sunk": "#f3f4f6", "--ink": "#111827", "--soft": "#5f6774", "--faint": "#9ca3af", "--hair": "#e5e7eb",
  "--line": "#d1d5db", "--magnitude": "76 29 149", "--positive": "179 72 0", "--negative": "0 90 156",
};

// Okabe and Ito's colours and Tol's, ordered so that neighbours differ in lightness too; past them, hues by the golden angle.
const FACTOR_COLOURS = [
  [0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [51, 34, 136], [221, 160, 20],
  [136, 34, 85], [86, 180, 233], [17, 119, 51], [170, 68, 153], [120, 94, 60], [68, 170, 153],
];

/** The theme's colours where `element` lies, each [red, green, blue]; the light ones where no theme is loaded. */
export function themeOf(element) {
  const style = getComputedStyle(element.isConnected ? element : document.documentElement);
  const read = (name) => channels(style.getPropertyValue(name).trim()) ?? channels(PLAIN[name]);
  const theme = Object.fromEntries(Object.keys(PLAIN).map((name) => [name.slice(2), read(name)]));
  theme.dark = luminance(theme.card) < 0.18;
  theme.factor = (number) => forTheme(factorColour(number), theme);
  return theme;
}

/** Calls `onChange` when the page becomes light or dark; gives a function that ends it. */
export function watchTheme(onChange) {
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  const watch = new MutationObserver(onChange);
  media.addEventListener("change", onChange);
  watch.observe(document.documentElement, {attributes: true, attributeFilter: ["data-theme"]});
  return () => { media.removeEventListener("change", onChange); watch.disconnect(); };
}

/** A colour from clear to full in steps, [background, ink], each ink with a contrast of 4.5 or more over the surface. */
export function palette(colour, theme) {
  const inks = [theme.ink, theme.dark ? [255, 255, 255] : [0, 0, 0], theme.dark ? [0, 0, 0] : [255, 255, 255]];
  return Array.from({length: LEVELS + 1}, (_, step) => {
    const alpha = step / LEVELS;
    const bright = luminance(mixed(theme.card, colour, alpha));
    const ink = inks.find((one) => contrast(luminance(one), bright) >= 4.6) ?? inks[2];
    return [rgba(colour, alpha.toFixed(4)), rgb(ink)];
  });
}

/** The step of a palette for a value on a scale whose full colour is at `ceiling`. */
export function level(value, ceiling) {
  return Math.max(0, Math.min(LEVELS, Math.round(LEVELS * value / ceiling)));
}

/** The colour that lies on the surface when `colour` covers it by `alpha`. */
export function mixed(surface, colour, alpha) {
  return surface.map((channel, i) => channel + (colour[i] - channel) * alpha);
}

/** A bar that shows a scale: `colourAt(t)` for t from 0 to 1. */
export function ramp(colourAt, label) {
  const svg = shape("svg", {class: "ramp", viewBox: "0 0 48 1", preserveAspectRatio: "none", "shape-rendering": "crispEdges", role: "img", "aria-label": label});
  for (let i = 0; i < 48; i++) svg.append(shape("rect", {x: i, y: 0, width: 1, height: 1, fill: colourAt(i / 47)}));
  return svg;
}

/** The scale of signed values: the one colour for what is below zero, the other for what is above. */
export function signedRamp(theme, label) {
  return ramp((t) => rgba(t < 0.5 ? theme.negative : theme.positive, Math.abs(2 * t - 1).toFixed(3)), label);
}

export function rgba([r, g, b], alpha) { return `rgba(${r}, ${g}, ${b}, ${alpha})`; }

export function rgb([r, g, b]) { return `rgb(${r}, ${g}, ${b})`; }

function contrast(one, other) { return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05); }

function luminance(colour) {
  const [r, g, b] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function factorColour(factor) {
  if (factor < FACTOR_COLOURS.length) return FACTOR_COLOURS[factor];
  const hue = (factor * 137.508) % 360, lightness = [0.38, 0.55, 0.46][factor % 3];
  const amplitude = 0.62 * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((shift) => {
    const turn = (shift + hue / 30) % 12;
    return Math.round(255 * (lightness - amplitude * Math.max(-1, Math.min(turn - 3, 9 - turn, 1))));
  });
}

/** A colour made for a light surface, lightened until it stands out from a dark one. */
function forTheme(colour, theme) {
  if (!theme.dark) return colour;
  let made = colour;
  for (let step = 1; step <= 10 && contrast(luminance(made), luminance(theme.card)) < 5; step++)
    made = colour.map((channel) => Math.round(channel + (255 - channel) * step / 12));
  return made;
}

/** "#rgb", "#rrggbb", "rgb(…)" or three numbers as [red, green, blue]; undefined if it is none of them. */
function channels(text) {
  if (/^#[0-9a-f]{3}$/i.test(text)) return [...text.slice(1)].map((digit) => parseInt(digit + digit, 16));
  if (/^#[0-9a-f]{6}$/i.test(text)) return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
  const numbers = text.match(/[\d.]+/g)?.slice(0, 3).map(Number);
  return numbers?.length === 3 ? numbers : undefined;
}
