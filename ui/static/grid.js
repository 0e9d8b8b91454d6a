/** A grid of cells on a canvas: thousands of rows and columns, of which only those in sight are drawn. */

import {node, whenEscaped} from "./base.js";
import {rgb} from "./colour.js";
import {sharpness} from "./picture.js";
import {tooltip} from "./tokens.js";

const MOST_UNFOLDED = 6000;

/** A grid of `rows` × `columns` in `strip`. options: label, theme, labelWidth, headHeight, cellWidth, cellHeight, maxHeight,
 *  rowLabel(row), columnLabel(column) → text (or "" for none), paintCells(context, view) where view has first and last row and
 *  column and place(row, column) → [x, y, width, height], facts(row, column), over(row, column), press(row, column), leave(), release().
 *  Gives {element, canvas, draw(), size(cellWidth), reveal(row, column), mark(row, column), unfold()}. */
export function grid(strip, options) {
  const {rows, columns, theme, labelWidth, headHeight, cellHeight} = options;
  let cellWidth = options.cellWidth, active = null, marked = null, waiting = false, pointed = null, wanted = null;
  const element = node("div", "grid"), inner = node("div", "grid-inner"), canvas = node("canvas", "grid-canvas");
  element.style.maxHeight = `${options.maxHeight ?? 560}px`;
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-roledescription", "grid");
  canvas.setAttribute("aria-label", `${options.label}: ${rows} rows, ${columns} columns; arrow keys move, Enter chooses`);
  inner.append(canvas);
  element.append(inner);
  const tip = tooltip(strip);
  const context = canvas.getContext("2d");

  const resized = new ResizeObserver(() => soon());
  resized.observe(element);
  element.addEventListener("scroll", () => { tip.hide(); soon(); });
  canvas.addEventListener("pointermove", (event) => point(cellAt(event)));
  canvas.addEventListener("pointerleave", () => { pointed = null; tip.hide(); options.leave?.(); soon(); });
  canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (cell) { active = cell; options.press?.(...cell); soon(); }
  });
  canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) move(active ?? [0, 0]); });
  canvas.addEventListener("blur", () => { active = null; tip.hide(); soon(); });
  canvas.addEventListener("keydown", key);
  whenEscaped(element, release);

  function cellAt(event) {
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    if (x < labelWidth || y < headHeight) return null;
    const column = Math.floor((x - labelWidth + element.scrollLeft) / cellWidth);
    const row = Math.floor((y - headHeight + element.scrollTop) / cellHeight);
    return row >= 0 && row < rows && column >= 0 && column < columns ? [row, column] : null;
  }

  function point(cell) {
    if (!cell) { tip.hide(); return; }
    if (pointed && pointed[0] === cell[0] && pointed[1] === cell[1]) return;
    pointed = cell;
    options.over?.(...cell);
    tell(cell);
    soon();
  }

  function tell(cell) {
    const [x, y, width, height] = place(...cell), frame = canvas.getBoundingClientRect();
    const [left, top] = [frame.left + x, frame.top + y];
    const box = {left, top, right: left + width, bottom: top + height, width, height};
    tip.show({getBoundingClientRect: () => box}, options.facts(...cell));
  }

  function key(event) {
    const [row, column] = active ?? [0, 0];
    const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0]}[event.key];
    if (step) move([row + step[0], column + step[1]]);
    else if (event.key === "Home") move([row, 0]);
    else if (event.key === "End") move([row, columns - 1]);
    else if (event.key === "Enter" || event.key === " ") { if (active) options.press?.(...active); }
    else return;
    event.preventDefault();
  }

  function release() {
    const cell = active ?? pointed;
    options.release?.();
    if (cell) options.over?.(...cell);
  }

  function move([row, column]) {
    active = [Math.max(0, Math.min(rows - 1, row)), Math.max(0, Math.min(columns - 1, column))];
    reveal(...active);
    options.over?.(...active);
    draw();
    tell(active);
  }

  /** Scrolls to a cell; where the grid is not on the page yet, once it is. */
  function reveal(row, column) {
    if (!canvas.clientWidth) { wanted = [row, column]; return; }
    const [x, y, width, height] = place(row, column);
    if (x < labelWidth) element.scrollLeft -= labelWidth - x;
    const beyond = x + width - canvas.clientWidth;
    if (beyond > 0) element.scrollLeft += Math.ceil(beyond / cellWidth) * cellWidth;  // no column is cut at the left
    if (y < headHeight) element.scrollTop -= headHeight - y;
    if (y + height > canvas.clientHeight) element.scrollTop += y + height - canvas.clientHeight;
  }

  function place(row, column) {
    return [labelWidth + column * cellWidth - element.scrollLeft, headHeight + row * cellHeight - element.scrollTop, cellWidth, cellHeight];
  }

  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  /** Draws all cells, of a large grid as many as a picture may have; gives what folds it again. */
  function unfold() {
    const [left, top, height, width] = [element.scrollLeft, element.scrollTop, element.style.maxHeight, strip.style.width];
    const missing = Math.min(labelWidth + columns * cellWidth, MOST_UNFOLDED) - element.clientWidth;
    element.style.maxHeight = `${MOST_UNFOLDED}px`;
    if (missing > 0) strip.style.width = `${strip.offsetWidth + missing}px`;
    draw(sharpness(element.clientWidth, element.clientHeight));
    return () => {
      element.style.maxHeight = height;
      strip.style.width = width;
      element.scrollTo(left, top);
      draw();
    };
  }

  function draw(ratio = window.devicePixelRatio || 1) {
    if (!element.isConnected) return;
    inner.style.width = `${labelWidth + columns * cellWidth}px`;
    inner.style.height = `${headHeight + rows * cellHeight}px`;
    const width = element.clientWidth, height = Math.min(element.clientHeight || Infinity, headHeight + rows * cellHeight);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    if (wanted && width) { const cell = wanted; wanted = null; reveal(...cell); }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = rgb(theme.card);
    context.fillRect(0, 0, width, height);
    context.textBaseline = "middle";
    context.direction = "ltr";
    const view = {
      firstRow: Math.max(0, Math.floor(element.scrollTop / cellHeight)),
      lastRow: Math.min(rows - 1, Math.floor((element.scrollTop + height - headHeight) / cellHeight)),
      firstColumn: Math.max(0, Math.floor(element.scrollLeft / cellWidth)),
      lastColumn: Math.min(columns - 1, Math.floor((element.scrollLeft + width - labelWidth) / cellWidth)),
      width, height, ratio, place, labelWidth, headHeight,
    };
    context.save();
    context.beginPath();
    context.rect(labelWidth, headHeight, width - labelWidth, height - headHeight);
    context.clip();
    options.paintCells(context, view);
    for (const [cell, colour] of [[marked, rgb(theme.ink)], [active ?? pointed, rgb(theme.ink)]]) if (cell) ring(cell, colour);
    context.restore();
    labels(view);
  }

  function ring(cell, colour) {
    const [x, y, width, height] = place(...cell);
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.strokeRect(x - 0.75, y - 0.75, Math.max(width, 2) + 1.5, height + 1.5);
  }

  function labels(view) {
    const font = getComputedStyle(element).fontFamily;
    const at = active ?? pointed;
    context.fillStyle = rgb(theme.card);
    context.fillRect(0, 0, labelWidth, view.height);
    context.fillRect(0, 0, view.width, headHeight);
    context.font = `11px ${font}`;
    context.save();
    context.beginPath();
    context.rect(0, headHeight, labelWidth - 4, view.height - headHeight);
    context.clip();
    for (let row = view.firstRow; row <= view.lastRow; row++) {
      const [, y] = place(row, 0);
      context.fillStyle = rgb(at?.[0] === row ? theme.ink : theme.soft);
      context.fillText(options.rowLabel(row), 2, y + cellHeight / 2);
    }
    context.restore();
    context.save();
    context.beginPath();
    context.rect(labelWidth, 0, view.width - labelWidth, headHeight);
    context.clip();
    for (let column = view.firstColumn; column <= view.lastColumn; column++) {
      const text = options.columnLabel(column);
      if (!text) continue;
      const [x] = place(0, column);
      context.fillStyle = rgb(at?.[1] === column ? theme.ink : theme.soft);
      context.save();
      if (options.clipColumnLabels) { context.beginPath(); context.rect(x, 0, cellWidth - 2, headHeight); context.clip(); }
      context.fillText(text, x + (options.clipColumnLabels ? 3 : 0), headHeight / 2);
      context.restore();
    }
    context.restore();
    context.font = `10px ${font}`;
    context.fillStyle = rgb(theme.soft);
    if (options.corner) context.fillText(options.corner, 2, headHeight / 2);
  }

  return {
    element,
    canvas,
    draw,
    size(width) { cellWidth = width; element.scrollLeft = 0; draw(); },
    room: () => Math.max(50, element.clientWidth - labelWidth),
    reveal,
    unfold,
    mark(row, column) { marked = row === null ? null : [row, column]; soon(); },
  };
}
