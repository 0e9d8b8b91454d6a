/** The line of tokens: one box a position, one of them in the tab order, arrow keys between them; and what a token looks like. */

import {node, percent, signedText, whenEscaped} from "./base.js";

const AT_ONCE = 1000;  // tokens out of sight that are painted together
const ROOM_FOR_LINES = 64, ROOM_FOR_SENTENCES = 192, ROOM = 256;  // tokens after which a stretch ends with a line, a sentence, at once
const ROW_PX = 50, ROW_TOKENS = 24;  // how high a row is thought to be, and how many tokens it has, until it has been in sight

/** A line of tokens in `strip`. handlers: over(position), out(), press(position), release(), facts(position) → [name, text] rows.
 *  Gives {element, boxes, colour(paintOf), settle(), note(position, text), mark(position, isPinned)}. `colour` gives every token
 *  paintOf(position), a [background, ink]: those that are in sight, or nearly, at once, the others when the browser has time;
 *  `settle` does what is left of it. */
export function tokenLine(strip, tokens, handlers) {
  const line = node("div", "line");
  line.setAttribute("role", "listbox");
  line.setAttribute("aria-label", "tokens");
  const boxes = [], faces = [], notes = [], grounds = [], inks = [];
  const stretches = [];  // [element, first position]: the browser lays out and paints those in sight alone
  tokens.text.forEach((text, position) => {
    const before = tokens.text[position - 1] ?? "", isNewLine = opensLine(text) || (!opensLine(before) && /[\r\n]/.test(before));
    const room = isNewLine ? ROOM_FOR_LINES : /[.!?]$/.test(before) ? ROOM_FOR_SENTENCES : ROOM;
    if (position === 0 || position - stretches.at(-1)[1] >= room) {
      stretches.push([node("div", "stretch"), position]);
      line.append(stretches.at(-1)[0]);
    } else if (isNewLine) stretches.at(-1)[0].append(node("span", "break"));
    const [stretch] = stretches.at(-1);
    const box = node("span", "token");
    box.dataset.position = String(position);
    box.setAttribute("role", "option");
    box.setAttribute("aria-label", `${tokens.first[position]}: ${text}`);
    box.tabIndex = -1;
    box.classList.toggle("generated", Boolean(tokens.generated[position]));
    box.classList.toggle("special", Boolean(tokens.special[position]));
    const face = node("span", "face");
    face.append(...pieces(text));
    const note = node("span", "note");
    box.append(node("span", "position", String(tokens.first[position])), face, note);
    const role = tokens.role?.[position];
    if (role && role !== tokens.role[position - 1]) stretch.append(node("span", "role", role));
    stretch.append(box);
    boxes.push(box); faces.push(face); notes.push(note);
  });
  for (const [stretch] of stretches) {
    const rows = 1 + stretch.getElementsByClassName("break").length + Math.floor(stretch.childElementCount / ROW_TOKENS);
    stretch.style.containIntrinsicBlockSize = `auto ${rows * ROW_PX}px`;
  }
  const tip = tooltip(strip);
  let paintOf = null, near = [0, 0], done = 0, waiting = null;  // near's tokens are painted, and `done` of the others
  let current = Math.max(0, tokens.generated.indexOf(true)), marked = null;
  if (boxes.length > 0) boxes[current].tabIndex = 0;

  line.addEventListener("pointerover", (event) => enter(positionAt(event)));
  line.addEventListener("pointerleave", leave);
  line.addEventListener("focusin", (event) => enter(positionAt(event)));
  line.addEventListener("focusout", leave);
  line.addEventListener("click", (event) => {
    const position = positionAt(event);
    if (position === null) return;
    rove(position);
    handlers.press?.(position);
    tip.show(boxes[position], handlers.facts(position));
  });
  whenEscaped(strip, () => handlers.release());
  document.addEventListener("scroll", function scrolled() {
    if (!strip.isConnected) document.removeEventListener("scroll", scrolled, true);
    else if (waiting !== null) paint(...inSight());  // what comes into sight is right in the frame that shows it
  }, {capture: true, passive: true});
  window.addEventListener("beforeprint", function printed() {
    if (!strip.isConnected) window.removeEventListener("beforeprint", printed);
    else settle();
  });
  line.addEventListener("keydown", (event) => {
    const position = positionAt(event);
    if (position === null) return;
    if (event.key === "Enter" || event.key === " ") handlers.press?.(position);
    else {
      const next = neighbour(event.key, position);
      if (next === null) return;
      rove(next);
      boxes[next].focus();
      keepInSight(boxes[next]);
    }
    event.preventDefault();
  });

  function colour(how) {
    near = paintOf === null ? [0, boxes.length] : inSight();  // at first all of them
    paintOf = how;
    done = 0;
    paint(...near);
    if (near[1] - near[0] < boxes.length) waiting ??= whenIdle(goOn);
  }

  function paint(from, to) {
    for (let position = from; position < to; position++) {
      const [background, ink] = paintOf(position), style = faces[position].style;
      if (grounds[position] !== background) { style.backgroundColor = background; grounds[position] = background; }
      if (inks[position] !== ink) { style.color = ink; inks[position] = ink; }  // a colour is inherited: the costly one
    }
  }

  /** The next tokens that are out of sight: those after what is near, then those before it. */
  function goOn() {
    const [first, end] = near, after = boxes.length - end, n = after + first;
    const to = Math.min(n, done + AT_ONCE);
    if (done < after) paint(end + done, end + Math.min(to, after));
    if (to > after) paint(Math.max(0, done - after), to - after);
    done = to;
    waiting = done < n ? whenIdle(goOn) : null;
  }

  function settle() {
    if (waiting === null) return;
    notIdle(waiting);
    waiting = null;
    paint(0, boxes.length);
  }

  /** The first token that is within a quarter of a window of what is seen, and the end of them; all where nothing is laid out. Rows lie
   *  below each other, so halving finds them: first their stretch, since to ask one out of sight for its tokens lays it out. */
  function inSight() {
    const above = -window.innerHeight / 4, below = 1.25 * window.innerHeight;
    const isFrom = (element) => element.getBoundingClientRect().bottom >= above;
    const isPast = (element) => element.getBoundingClientRect().top > below;
    const startOf = (stretch) => stretch < stretches.length ? stretches[stretch][1] : boxes.length;
    const first = halved(0, stretches.length, (stretch) => isFrom(stretches[stretch][0]));
    const end = halved(first, stretches.length, (stretch) => isPast(stretches[stretch][0]));
    return [
      halved(startOf(first), startOf(first + 1), (position) => isFrom(boxes[position])),
      end === first ? startOf(end) : halved(startOf(end - 1), startOf(end), (position) => isPast(boxes[position])),
    ];
  }

  function positionAt(event) {
    const box = event.target.closest(".token");
    return box === null ? null : Number(box.dataset.position);
  }

  function enter(position) {
    if (position === null) return;
    handlers.over?.(position);
    tip.show(boxes[position], handlers.facts(position));
  }

  function leave() { tip.hide(); handlers.out?.(); }

  function rove(position) {
    boxes[current].tabIndex = -1;
    current = position;
    boxes[current].tabIndex = 0;
  }

  function neighbour(key, position) {
    const last = boxes.length - 1;
    if (key === "ArrowLeft") return Math.max(0, position - 1);
    if (key === "ArrowRight") return Math.min(last, position + 1);
    if (key === "Home") return 0;
    if (key === "End") return last;
    if (key === "ArrowUp" || key === "ArrowDown") return acrossRows(position, key === "ArrowUp" ? -1 : 1);
    return null;
  }

  function acrossRows(position, step) {
    const from = boxes[position].getBoundingClientRect();
    let top = null, best = position, distance = Infinity;
    for (let other = position + step; other >= 0 && other < boxes.length; other += step) {
      const to = boxes[other].getBoundingClientRect();
      if (Math.abs(to.top - from.top) < from.height / 2) continue;
      top ??= to.top;
      if (Math.abs(to.top - top) > from.height / 2) break;
      const apart = Math.abs(to.left + to.width / 2 - from.left - from.width / 2);
      if (apart < distance) { distance = apart; best = other; }
    }
    return best;
  }

  return {
    element: line,
    boxes,
    colour,
    settle,
    note(position, text) { notes[position].textContent = text; },
    mark(position, isPinned) {
      if (marked !== null) { boxes[marked].classList.remove("output", "pinned"); boxes[marked].setAttribute("aria-selected", "false"); }
      marked = position;
      boxes[marked].classList.add("output");
      boxes[marked].classList.toggle("pinned", isPinned);
      boxes[marked].setAttribute("aria-selected", String(isPinned));
    },
  };
}

/** Whether a token begins with the line break that it stands after. */
function opensLine(text) { return /^[\r\n]+[^\r\n]/.test(text); }

/** The first number from `low` on that passes the test, or `high`, where all after one that passes pass too. */
function halved(low, high, test) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(middle)) high = middle; else low = middle + 1;
  }
  return low;
}

/** Has an element stay in sight while what came into sight with it is laid out, which takes a few frames. */
function keepInSight(element, frames = 5) {
  element.scrollIntoView({block: "nearest"});
  if (frames > 0) requestAnimationFrame(() => keepInSight(element, frames - 1));
}

function whenIdle(work) { return window.requestIdleCallback ? requestIdleCallback(work, {timeout: 100}) : setTimeout(work, 20); }

function notIdle(number) { if (window.cancelIdleCallback) cancelIdleCallback(number); else clearTimeout(number); }

// What a token's text looks like: whitespace is visible, bytes and invisible characters are chips.

const SPECIAL_PIECE = /(<0x[0-9A-Fa-f]{2}>)|(\r\n|\n|\r)|(\t)|( )|([\u0000-\u001f\u007f-\u009f\u00a0\u00ad\u034f\u061c\u115f\u1160\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\ufff9-\ufffd\ud800-\udfff])/gu;

/** The pieces that a token's text is drawn as. */
export function pieces(text) {
  if (text === "") return [node("span", "chip", "empty")];
  const drawn = [];
  let end = 0;
  for (const match of text.matchAll(SPECIAL_PIECE)) {
    if (match.index > end) drawn.push(node("span", "text", text.slice(end, match.index)));
    const [whole, byte, newline, tab, space, unseen] = match;
    if (byte) drawn.push(node("span", "chip", byte.slice(3, 5).toUpperCase()));
    else if (newline) drawn.push(node("span", "mark", "↵"));
    else if (tab) drawn.push(node("span", "mark", "→"));
    else if (space) drawn.push(node("span", "mark", "·"));
    else if (unseen) drawn.push(node("span", "chip", `U+${unseen.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
    end = match.index + whole.length;
  }
  if (end < text.length) drawn.push(node("span", "text", text.slice(end)));
  return drawn;
}

/** A token's text as a canvas can write it: the same signs in place of what is not seen. */
export function plain(text) { return pieces(text).map((piece) => piece.textContent).join(""); }

/** A token named in a sentence. */
export function mention(tokens, position) {
  const chip = node("span", "mention");
  chip.append(node("span", "mention-position", String(tokens.first[position])), ...pieces(tokens.text[position]));
  return chip;
}

/** What a tooltip says of a token, or of several that are shown as one. */
export function tokenFacts(tokens, position) {
  const first = tokens.first[position], last = tokens.last[position];
  const rows = [["token", JSON.stringify(tokens.text[position])]];
  if (first === last) rows.push(["position", String(first)], ["token id", String(tokens.id[position])]);
  else rows.push(["positions", `${first} to ${last}`]);
  const logprob = tokens.logprob?.[position], rank = tokens.rank?.[position], entropy = tokens.entropy?.[position];
  if (logprob != null) rows.push(["log probability", `${signedText(logprob, 4)} (${percent(Math.exp(logprob))})`]);
  if (rank != null) rows.push(["rank", String(rank)]);
  if (entropy != null) rows.push(["entropy", entropy.toFixed(4)]);
  rows.push(["written by", tokens.generated[position] ? "model" : "prompt"]);
  if (tokens.role?.[position]) rows.push(["role", tokens.role[position]]);
  return rows;
}

/** A box of facts that lies beside what is pointed at. */
export function tooltip(strip) {
  const tip = node("div", "tip");
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  strip.append(tip);
  return {
    show(box, rows) {
      const table = node("dl", "tip-facts");
      for (const [name, value] of rows) table.append(node("dt", "", name), node("dd", "", value));
      tip.replaceChildren(table);
      tip.hidden = false;
      const at = box.getBoundingClientRect(), frame = strip.getBoundingClientRect(), own = tip.getBoundingClientRect();
      const left = Math.max(0, Math.min(at.left - frame.left, frame.width - own.width));
      const below = at.bottom + own.height + 8 < window.innerHeight || at.top - own.height - 8 < 0;
      tip.style.left = `${left}px`;
      tip.style.top = `${below ? at.bottom - frame.top + 6 : at.top - frame.top - own.height - 6}px`;
    },
    hide() { tip.hidden = true; },
  };
}
