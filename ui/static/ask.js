import {button, node} from "./base.js";

/* The box that asks the model. model.payload JSON {state: "idle" | "busy" | "failed", message, fraction}; model.asked JSON
 * {prompt, max_new_tokens, temperature, n}, written here; model.cancelled counts presses of Cancel; model.name_of_model is the model's; model.opened is where an answer is seen. */

export function render({model}) {
  const box = node("details", "ask"), form = node("form");
  box.append(node("summary", "", `Ask ${model.name_of_model}`), form);
  const prompt = node("textarea");
  prompt.setAttribute("aria-label", "prompt");
  prompt.placeholder = "A text to continue. It is captured into the store.";
  prompt.rows = 3;
  const line = node("div", "line");
  const tokens = number("tokens", {min: 1, max: model.most, step: 1}, 32), temperature = number("temperature", {min: 0, max: 5, step: "any"}, 0);
  const go = node("button", "primary", "Capture"), cancel = button("", "Cancel", () => { model.cancelled += 1; });
  go.title = "Ctrl+Enter";
  const bar = node("progress"), said = node("p", "said");
  bar.max = 1;
  said.setAttribute("role", "status");
  line.append(tokens.parentElement, temperature.parentElement, go, cancel, bar, said);
  form.append(prompt, line);
  let n = 0;

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    model.asked = JSON.stringify({prompt: prompt.value, max_new_tokens: tokens.valueAsNumber, temperature: temperature.valueAsNumber, n: ++n});
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
  });

  function draw() {
    const data = JSON.parse(model.payload), busy = data.state === "busy";
    go.disabled = busy;
    cancel.hidden = bar.hidden = !busy;
    if (data.fraction) bar.value = data.fraction;
    else bar.removeAttribute("value");
    said.textContent = data.message;
    said.className = data.state === "failed" ? "said problem" : "said";
    if (data.state !== "idle") box.open = true;
  }

  model.on("payload", draw);
  model.on("opened", () => { window.location.href = model.opened; });
  draw();
  return box;
}

export default {render};

function number(label, limits, value) {
  const box = node("label", "", label), input = node("input");
  input.type = "number";
  input.required = true;
  Object.assign(input, limits);
  input.value = String(value);
  box.append(input);
  return input;
}
