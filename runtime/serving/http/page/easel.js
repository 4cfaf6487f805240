// The canvas on which a mask is drawn over the image: with the mouse, a finger, a pen or the keyboard.

import { $ } from "./elements.js";
import { Mask, canvasOf, paintStroke } from "./mask.js";

const LONGER_SIDE = 720; // pixels of the canvas, which the page scales
const SMALL = 160;
const COLORS = ["#d6246a", "#ffffff"]; // of stripes, which are seen on any image
const OPAQUE = "#000";
const STRIPE = 5; // pixels of the canvas
const PEN_ERASER = 5; // the button that the blunt end of a pen is
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Shows a source and changes its mask; `changed` is called after every change. */
export class Easel {
  constructor(changed) {
    this.changed = changed;
    this.source = null;
    this.mask = new Mask();
    this.stroke = null;
    this.at = null;
    this.erases = false;
    this.canvas = $("canvas");
    this.#listen();
  }

  /** The brush's diameter, as a part of the longer side. */
  get size() {
    return $("brush-size").valueAsNumber / 100;
  }

  show(source, mask = new Mask()) {
    this.source = source;
    this.stroke = this.at = null;
    if (source) {
      const scale = LONGER_SIDE / Math.max(source.width, source.height);
      this.canvas.width = Math.round(source.width * scale);
      this.canvas.height = Math.round(source.height * scale);
      this.layer = canvasOf(this.canvas.width, this.canvas.height); // the mask: what is opaque
      this.shown = canvasOf(this.canvas.width, this.canvas.height); // the mask in stripes
      this.stripes ??= stripes(this.canvas.getContext("2d"));
    }
    this.#set(mask);
  }

  #set(mask) {
    this.mask = mask;
    if (this.source) this.mask.paint(this.layer.getContext("2d"), OPAQUE);
    $("undo").disabled = !mask.operations.length;
    $("clear").disabled = mask.empty;
    this.#draw();
    this.changed();
  }

  #draw() {
    if (!this.source) return;
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.imageSmoothingEnabled = this.source.width > SMALL; // of a small picture each pixel is seen
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, width, height);
    context.drawImage(this.source.bitmap, 0, 0, width, height);
    context.save();
    context.globalAlpha = 0.55;
    context.drawImage(this.#striped(), 0, 0);
    context.restore();
    if (this.at) this.#drawBrush(context);
  }

  #striped() {
    const context = this.shown.getContext("2d");
    context.globalCompositeOperation = "copy";
    context.drawImage(this.layer, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = this.stripes;
    context.fillRect(0, 0, this.shown.width, this.shown.height);
    return this.shown;
  }

  #drawBrush(context) {
    const { width, height } = this.canvas;
    for (const [color, lineWidth] of [["#000", 4], ["#fff", 2]]) {
      context.beginPath();
      context.arc(this.at[0] * width, this.at[1] * height, (this.size * LONGER_SIDE) / 2, 0, 2 * Math.PI);
      Object.assign(context, { strokeStyle: color, lineWidth });
      context.stroke();
    }
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => this.#end());
    canvas.addEventListener("pointercancel", () => this.#end());
    canvas.addEventListener("pointerleave", () => this.#leave());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => this.#leave());
    $("brush").onclick = () => this.#choose(false);
    $("eraser").onclick = () => this.#choose(true);
    $("undo").onclick = () => this.#set(this.mask.withoutLast());
    $("invert").onclick = () => this.#set(this.mask.with({ kind: "invert" }));
    $("clear").onclick = () => this.#set(this.mask.with({ kind: "clear" }));
  }

  #choose(erases) {
    this.erases = erases;
    $("brush").setAttribute("aria-pressed", String(!erases));
    $("eraser").setAttribute("aria-pressed", String(erases));
  }

  #begin(event) {
    if (event.button !== 0 && event.button !== PEN_ERASER) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.at = this.#point(event);
    this.stroke = { kind: "stroke", erases: this.erases || event.button === PEN_ERASER, size: this.size, points: [this.at] };
    paintStroke(this.layer.getContext("2d"), this.stroke, OPAQUE);
    this.#draw();
  }

  #move(event) {
    this.at = this.#point(event);
    if (this.stroke) {
      const from = this.stroke.points.length - 1;
      const moves = event.getCoalescedEvents?.() ?? [];
      this.stroke.points.push(...(moves.length ? moves : [event]).map((move) => this.#point(move)));
      paintStroke(this.layer.getContext("2d"), this.stroke, OPAQUE, from);
    }
    this.#draw();
  }

  #end() {
    if (!this.stroke) return;
    const { stroke } = this;
    this.stroke = null;
    this.#set(this.mask.with(stroke));
  }

  #leave() {
    if (this.stroke) return;
    this.at = null;
    this.#draw();
  }

  #key(event) {
    if ((event.ctrlKey || event.metaKey) && event.key === "z") {
      event.preventDefault();
      if (this.mask.operations.length) this.#set(this.mask.withoutLast());
    } else if (event.key === " ") {
      event.preventDefault();
      this.at ??= [0.5, 0.5];
      this.#set(this.mask.with({ kind: "stroke", erases: this.erases, size: this.size, points: [this.at] }));
    } else if (event.key in ARROWS) {
      event.preventDefault();
      const [x, y] = this.at ?? [0.5, 0.5];
      const [right, down] = ARROWS[event.key].map((way) => way * Math.max(this.size / 3, 0.01));
      this.at = [x + right, y + down].map((place) => Math.min(Math.max(place, 0), 1));
      this.#draw();
    }
  }
}

/** A pattern of slanting stripes. */
function stripes(context) {
  const side = 2 * STRIPE;
  const tile = canvasOf(side, side);
  const pen = tile.getContext("2d");
  for (let x = 0; x < side; x += 1) {
    for (let y = 0; y < side; y += 1) {
      pen.fillStyle = COLORS[Math.floor(((x + y) % side) / STRIPE)];
      pen.fillRect(x, y, 1, 1);
    }
  }
  return context.createPattern(tile, "repeat");
}
