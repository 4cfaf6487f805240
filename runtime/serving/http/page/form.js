// The form: filled with what the server offers and with settings, read, and told what is wrong with it.

import { $, choices, element } from "./elements.js";
import { LoraList } from "./loras.js";
import { largerSizes } from "./options.js";

const NUMBERS = ["num_inference_steps", "guidance_scale", "num_images_per_prompt"];
const SEEDS = 2 ** 32;
// Where a field of an order stands in the form, if not in the element of its own name
const PLACES = {
  width: "size",
  height: "size",
  image: "file",
  mask_image: "canvas",
  loras: "lora",
  hires: "hires.scale",
  upscaler: "hires.upscaler",
  steps: "num_inference_steps",
  pictures: "num_images_per_prompt",
  pixels: "size",
};

/** The form's fields but for the image. `changed` is called after every change of them. */
export class Form {
  constructor(served, changed) {
    this.served = served;
    this.loras = new LoraList(served.loras, changed);
    choices($("model"), served.models.map(({ name }) => [name, name]));
    $("model-field").hidden = served.models.length < 2;
    choices($("sampler"), served.samplers.map(({ name, label }) => [name, label]));
    choices($("hires.upscaler"), served.upscalers.map((name) => [name, name]));
    this.#offerEmbeddings();
    $("wildcard-files").hidden = !served.wildcards;
    if (served.limits.pictures) $("num_images_per_prompt").max = served.limits.pictures;
    $("model").onchange = () => this.#takeModel({ defaults: true });
    $("size").onchange = () => this.#takeSize();
    $("strength-range").oninput = () => ($("strength").value = $("strength-range").value);
    $("strength").oninput = () => ($("strength-range").value = $("strength").value);
    $("random-seed").onclick = () => {
      $("seed").value = "";
      changed();
    };
    $("form").addEventListener("input", (event) => {
      clearProblem(event.target.id);
      changed();
    });
    $("form").addEventListener("change", changed);
    $("hires-section").addEventListener("toggle", changed);
    this.#takeModel({ defaults: true });
  }

  get model() {
    return this.served.models.find(({ name }) => name === $("model").value) ?? this.served.models[0];
  }

  /** {width, height} of the pictures. */
  get size() {
    const [width, height] = $("size").value.split("x").map(Number);
    return { width, height };
  }

  /** The seed that stands in the form; null where each picture gets a new one. */
  get seed() {
    const text = $("seed").value.trim();
    return text === "" ? null : Number(text);
  }

  /** What is wrong with what was typed, as [sentence, field]; null where it can be read. */
  get problem() {
    const unread = [...$("form").elements].find((input) => input.type === "number" && input.validity.badInput);
    if (unread) return ["This is no number. Type digits, or leave the field empty.", unread.id];
    if (this.seed !== null && !Number.isSafeInteger(this.seed)) {
      return ["This is no seed. Type a whole number, or leave the field empty for a new one each time.", "seed"];
    }
    return null;
  }

  /** What stands in the form; numbers that cannot be read are NaN. `seed` is chosen where the form has none. */
  values() {
    const values = {
      prompt: $("prompt").value,
      negative_prompt: $("negative_prompt").value,
      prompt_syntax: $("prompt_syntax").value,
      wildcards: $("wildcards").checked,
      model: this.model.name,
      ...this.size,
      sampler: $("sampler").value,
      seed: this.seed ?? Math.floor(Math.random() * SEEDS),
      strength: numberIn("strength"),
      masked_content: $("masked_content").value,
      padding_mask_crop: $("only_masked").checked ? numberIn("padding_mask_crop") : null,
      loras: this.loras.weights(),
      hires: this.#hires(),
    };
    for (const name of NUMBERS) values[name] = numberIn(name);
    return values;
  }

  #hires() {
    if (!$("hires-section").open || !$("hires.scale").value) return null;
    return {
      scale: Number($("hires.scale").value),
      strength: numberIn("hires.strength"),
      steps: $("hires.steps").value === "" ? null : numberIn("hires.steps"),
      upscaler: $("hires.upscaler").value,
    };
  }

  /** Takes settings over; what they do not have stays as it is. */
  fill(values) {
    clearProblems();
    if (values.model !== undefined) $("model").value = values.model;
    this.#takeModel({ defaults: false });
    if (values.width && values.height) chooseIfThere("size", `${values.width}x${values.height}`);
    this.#takeSize();
    for (const name of ["prompt", "negative_prompt", "seed", "strength", ...NUMBERS]) {
      if (values[name] !== undefined) $(name).value = values[name] ?? "";
    }
    for (const name of ["sampler", "prompt_syntax", "masked_content"]) chooseIfThere(name, values[name]);
    if (values.wildcards !== undefined) $("wildcards").checked = values.wildcards;
    $("strength-range").value = $("strength").value;
    if (values.padding_mask_crop !== undefined) {
      $("only_masked").checked = values.padding_mask_crop !== null;
      $("padding_mask_crop").value = values.padding_mask_crop ?? $("padding_mask_crop").defaultValue;
    }
    if (values.loras) this.loras.show(values.loras);
    if (values.hires !== undefined) this.#fillHires(values.hires);
    fitHeight($("prompt"));
    fitHeight($("negative_prompt"));
  }

  #fillHires(hires) {
    $("hires-section").open = hires !== null;
    if (hires === null) return;
    chooseIfThere("hires.scale", hires.scale);
    chooseIfThere("hires.upscaler", hires.upscaler);
    $("hires.strength").value = hires.strength;
    $("hires.steps").value = hires.steps ?? "";
  }

  #takeModel({ defaults }) {
    const { sizes, defaults: own } = this.model;
    choices($("size"), sizes.map(({ width, height }) => [`${width}x${height}`, `${width} × ${height}`]));
    if (defaults) {
      for (const name of ["num_inference_steps", "guidance_scale", "strength"]) {
        if (own[name] !== undefined) $(name).value = own[name];
      }
      $("strength-range").value = $("strength").value;
      chooseIfThere("sampler", own.sampler);
    }
    this.#takeSize();
  }

  #takeSize() {
    const larger = largerSizes(this.model, this.size);
    choices($("hires.scale"), larger.map(({ width, height, scale }) => [scale, `${width} × ${height}`]));
    $("hires-fields").hidden = !larger.length;
    $("hires-missing").hidden = larger.length > 0;
    $("hires-missing").textContent = "This model has no larger size of these proportions.";
  }

  #offerEmbeddings() {
    $("embeddings-field").hidden = !this.served.embeddings.length;
    const chips = this.served.embeddings.map((name) =>
      element("button", { type: "button", className: "quiet", textContent: name, onclick: () => addToPrompt(name) }),
    );
    $("embeddings").replaceChildren(...chips);
  }
}

function addToPrompt(word) {
  const prompt = $("prompt");
  prompt.value = prompt.value.trim() ? `${prompt.value.trimEnd()}, ${word}` : word;
  prompt.dispatchEvent(new Event("input", { bubbles: true }));
}

function numberIn(id) {
  const { value } = $(id);
  return value === "" ? NaN : Number(value);
}

function chooseIfThere(id, value) {
  const select = $(id);
  if ([...select.options].some((option) => option.value === String(value))) select.value = value;
}

/** A text field as high as its text, up to what the style allows. */
export function fitHeight(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

/** Shows a sentence at the field that it is about; at the button where it is about none. */
export function showProblem(sentence, field = null) {
  const input = $(placeOf(field ?? fieldIn(sentence)));
  if (!input || !input.closest(".field, .folded")) {
    $("problem").textContent = sentence;
    $("problem").hidden = false;
    return;
  }
  input.closest("details")?.setAttribute("open", "");
  const id = `${input.id}-problem`;
  const told = $(id) ?? element("p", { id, className: "problem", role: "alert" });
  told.hidden = false;
  told.textContent = inWordsOfTheForm(sentence);
  if (!told.isConnected) (input.closest(".pair") ?? input.closest(".field") ?? input.parentElement).append(told);
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", id);
  // Whoever writes something else already is not interrupted
  if (document.activeElement.matches("textarea, input")) told.scrollIntoView({ block: "nearest" });
  else input.focus();
}

/** A sentence with the labels of fields in the place of their names. */
function inWordsOfTheForm(sentence) {
  const label = (name) => document.querySelector(`label[for="${name}"]`)?.textContent;
  return sentence.replace(/\b[a-z]+(?:_[a-z]+)+\b/g, (name) => label(name) ?? name);
}

/** The element for a name such as "hires.steps" or "loras.style". */
function placeOf(field) {
  if (!field) return "problem";
  if ($(field)?.closest("#form")) return field;
  const [first] = field.split(".");
  return PLACES[first] ?? first;
}

/** The first of the form's fields that a sentence names; one with an underscore is surely a name. */
function fieldIn(sentence) {
  const names = [...Object.keys(PLACES), ...[...$("form").elements].map(({ name }) => name).filter(Boolean)];
  const [, first, second] = /^got ([^\s,;]+) ([^\s,;]+)/i.exec(sentence) ?? []; // "got seed 'x'", "got 0 steps"
  const words = [first, second, ...(sentence.match(/\b[a-z]+(?:_[a-z]+)+\b/g) ?? [])];
  return words.find((word) => names.includes(word)) ?? null;
}

function clearProblem(id) {
  const told = $(`${id}-problem`);
  if (told) told.hidden = true;
  $(id)?.removeAttribute("aria-invalid");
}

/** Takes back all that was said of mistakes. */
export function clearProblems() {
  for (const told of document.querySelectorAll("#form .problem")) told.hidden = true;
  for (const input of document.querySelectorAll("#form [aria-invalid]")) input.removeAttribute("aria-invalid");
}
