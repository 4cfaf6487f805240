// The large view: a job as it is drawn, or a picture with its settings.

import { $, element, say } from "./elements.js";

const SMALL = 160; // pixels; what is so small is not enlarged to any size, and a picture keeps its own pixels

/** What a job is doing, in a few words. */
export function progressText(job) {
  if (job.cancelling && !job.ended) return "Being cancelled";
  if (job.state === "queued") return job.position > 0 ? `Waits: ${job.position} before it` : "Waits: it is next";
  if (job.state === "running") {
    if (!job.steps) return "Begins";
    if (job.step >= job.steps) return "Becomes a picture";
    const left = job.secondsLeft;
    return `Step ${job.step} of ${job.steps}${left >= 2 ? `, ${duration(left)} left` : ""}`;
  }
  return { done: "Done", failed: "Failed", cancelled: "Cancelled", expired: "Forgotten" }[job.state];
}

function duration(seconds) {
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

/** Shows one thing at a time. */
export class Stage {
  constructor() {
    this.shown = null;
    this.lastPicture = null;
  }

  /** The picture that is shown; null where a job is, or nothing. */
  get picture() {
    return this.shown?.url ? this.shown : null;
  }

  clear() {
    this.shown = null;
    this.#arrange();
    $("pictures").replaceChildren();
  }

  showJob(job) {
    if (this.shown !== job) {
      this.shown = job;
      this.#arrange();
      const count = Math.min(job.values.num_images_per_prompt || 1, 16);
      const frames = Array.from({ length: count }, () => frame(job));
      $("pictures").replaceChildren(...frames);
      $("pictures").dataset.count = count;
    }
    [...$("pictures").children].forEach((canvas, index) => showPreview(canvas, job.previews[index]));
    const { step, steps } = job;
    if (steps) Object.assign($("progress"), { max: steps, value: step });
    else $("progress").removeAttribute("value");
    $("progress-text").textContent = progressText(job);
    if (job.state === "running" && steps) {
      const quarter = Math.floor((4 * step) / steps);
      if (quarter > 0 && quarter < 4) say(`Drawing: ${quarter * 25} percent`);
      else say("Drawing");
    }
  }

  showPicture(picture) {
    this.shown = this.lastPicture = picture;
    this.#arrange();
    const { text, url, settings, seed, job } = picture;
    const image = element("img", { src: url, alt: settings?.prompt || job.values.prompt || "A picture without a prompt" });
    image.onload = () => {
      if (Math.max(image.naturalWidth, image.naturalHeight) <= SMALL) image.classList.add("pixelated", "small");
    };
    $("pictures").replaceChildren(image);
    $("pictures").dataset.count = 1;
    Object.assign($("download"), { href: url, download: `latentrt-${seed}.png` });
    $("settings").replaceChildren(...settingsShown(settings, text));
  }

  #arrange() {
    const { picture } = this;
    $("running").hidden = this.shown === null || picture !== null;
    $("shown").hidden = picture === null;
    $("empty").hidden = this.shown !== null;
    $("keep-seed").disabled = picture === null;
  }
}

/** An empty canvas that has the proportions of a picture. */
function frame({ values: { width, height } }) {
  const canvas = element("canvas", { className: "preview", width: width / 8 || 64, height: height / 8 || 64 });
  canvas.classList.toggle("small", Math.max(width, height) <= SMALL);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

function showPreview(canvas, url) {
  if (!url || canvas.dataset.url === url) return;
  canvas.dataset.url = url;
  const image = new Image();
  image.onload = () => {
    if (canvas.dataset.url !== url) return; // a later one was faster
    canvas.width = image.width;
    canvas.height = image.height;
    canvas.getContext("2d").drawImage(image, 0, 0);
  };
  image.src = url;
}

function settingsShown(settings, text) {
  if (settings === null) return [element("p", { className: "faint", textContent: text })];
  const { prompt, negativePrompt, pairs } = settings;
  const shown = [element("p", { className: "prompt", textContent: prompt })];
  if (negativePrompt) {
    const label = element("span", { className: "faint", textContent: "Not: " });
    shown.push(element("p", { className: "prompt negative" }, label, negativePrompt));
  }
  const list = element("dl");
  for (const [name, value] of pairs) {
    const text = element("dd", { textContent: value });
    list.append(element("div", { className: value.length > 36 ? "wide" : "" }, element("dt", { textContent: name }), text));
  }
  return [...shown, list];
}
