// The LoRAs that are drawn with, each with its weight.

import { $, choices, counted, element } from "./elements.js";

/** The list of LoRAs in the form. */
export class LoraList {
  constructor(names, changed) {
    this.names = names;
    this.changed = changed;
    this.chosen = new Map();
    $("loras-section").hidden = !names.length;
    $("add-lora").onclick = () => {
      this.show({ ...this.weights(), [$("lora").value]: 1 });
      this.changed();
    };
    this.show({});
  }

  /** {name: weight}. */
  weights() {
    return Object.fromEntries([...this.chosen].map(([name, input]) => [name, input.value === "" ? NaN : Number(input.value)]));
  }

  /** Takes LoRAs with their weights in the place of those that are there. */
  show(weights) {
    const known = Object.entries(weights).filter(([name]) => this.names.includes(name));
    this.chosen = new Map();
    $("loras").replaceChildren(...known.map(([name, weight]) => this.#row(name, weight)));
    const left = this.names.filter((name) => !this.chosen.has(name));
    choices($("lora"), left.map((name) => [name, name]));
    $("lora").parentElement.hidden = !left.length;
    $("loras-note").textContent = known.length ? counted(known.length, "LoRA") : "";
    if (known.length) $("loras-section").open = true;
  }

  #row(name, weight) {
    const input = element("input", { type: "number", step: 0.05, inputMode: "decimal", value: weight, "aria-label": `Weight of ${name}` });
    this.chosen.set(name, input);
    const without = () => {
      const { [name]: _, ...others } = this.weights();
      this.show(others);
      this.changed();
    };
    const remove = element("button", { type: "button", className: "quiet", "aria-label": `Remove ${name}`, textContent: "✕", onclick: without });
    return element("li", {}, element("span", { className: "name", textContent: name }), input, remove);
  }
}
