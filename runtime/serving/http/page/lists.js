// The queue and the gallery.

import { sentence } from "./api.js";
import { $, element } from "./elements.js";
import { progressText } from "./stage.js";

/** What a job is called in the queue. */
const titleOf = (job) => job.values.prompt.trim() || "(no prompt)";

/** The jobs that wait, are drawn, or failed. `actions` has show, cancel and dismiss. */
export class Queue {
  constructor(actions) {
    this.actions = actions;
    this.rows = new Map();
  }

  /** Shows those of the jobs; `inView` is what the large view shows. */
  show(jobs, inView) {
    const shown = jobs.filter(({ state }) => ["queued", "running", "failed", "expired"].includes(state));
    for (const [job, row] of this.rows) {
      if (shown.includes(job)) continue;
      row.remove();
      this.rows.delete(job);
    }
    for (const job of shown) {
      if (!this.rows.has(job)) {
        const row = this.#row(job);
        this.rows.set(job, row);
        $("queue").append(row);
      }
      this.#update(this.rows.get(job), job);
    }
    // A job alone that is in view says all of it there
    $("queue-section").hidden = !shown.length || (shown.length === 1 && shown[0] === inView);
  }

  #row(job) {
    const show = element("button", { type: "button", className: "title", onclick: () => this.actions.show(job) });
    show.append(element("span", { className: "name", textContent: titleOf(job) }), element("span", { className: "faint state" }));
    const end = element("button", { type: "button", className: "quiet end" });
    end.onclick = () => (job.ended ? this.actions.dismiss(job) : this.actions.cancel(job));
    return element("li", {}, show, end, element("progress", { max: 1, value: 0, "aria-label": `Progress of ${titleOf(job)}` }));
  }

  #update(row, job) {
    row.dataset.state = job.state;
    const failed = job.ended;
    row.querySelector(".state").textContent = failed ? sentence(job.error ?? progressText(job)) : progressText(job);
    const end = row.querySelector(".end");
    end.textContent = failed ? "Dismiss" : "Cancel";
    end.setAttribute("aria-label", `${end.textContent} ${titleOf(job)}`);
    end.disabled = Boolean(job.cancelling) && !failed;
    const bar = row.querySelector("progress");
    bar.hidden = job.state !== "running";
    Object.assign(bar, { max: job.steps || 1, value: job.step });
  }
}

/** The finished pictures, the newest order first. `show` is called with the one that was chosen. */
export class Gallery {
  constructor(show) {
    this.show = show;
    this.buttons = new Map();
  }

  add(pictures) {
    const items = [];
    for (const picture of pictures.filter((each) => !this.buttons.has(each))) {
      const image = element("img", { src: picture.url, alt: `${titleOf(picture.job)}, seed ${picture.seed}`, draggable: true });
      image.onload = () => image.classList.toggle("pixelated", image.naturalWidth <= 64);
      const button = element("button", { type: "button", onclick: () => this.show(picture) }, image);
      this.buttons.set(picture, button);
      items.push(element("li", {}, button));
    }
    $("gallery").prepend(...items);
    $("gallery-section").hidden = !this.buttons.size;
  }

  mark(shown) {
    for (const [picture, button] of this.buttons) button.setAttribute("aria-pressed", String(picture === shown));
  }
}
