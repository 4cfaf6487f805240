// The jobs of this tab: sent, followed, and their pictures fetched.

import * as api from "./api.js";
import { parametersOf } from "./png_text.js";
import { parsed } from "./parameters.js";

const REMEMBERED = "latentrt.jobs";
const MOST = 100; // jobs that are remembered
const STREAMS = 3; // a browser opens six connections to a server, and streams of events keep theirs
const TRIES = 6;
const FINAL = new Set(["done", "failed", "cancelled", "expired"]);

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** A job as the page knows it. `values` are the form's, `source` and `mask` the easel's. */
export class Job {
  constructor({ id, values, source = null, mask = null }) {
    Object.assign(this, { id, values, source, mask, state: "queued", position: null, step: 0, steps: 0 });
    this.previews = [];
    this.pictures = [];
    this.error = null;
    this.runningSince = null;
    this.aborter = new AbortController();
  }

  get ended() {
    return FINAL.has(this.state);
  }

  /** Seconds that are left, by what the steps took so far; null where that is not known. */
  get secondsLeft() {
    if (this.runningSince === null || this.step < 2) return null;
    return ((performance.now() - this.runningSince) / 1000 / this.step) * (this.steps - this.step);
  }

  told({ state, position, step, steps, error }) {
    if (state === "running") this.runningSince ??= performance.now();
    Object.assign(this, { state, position, step: step ?? this.step, steps: steps ?? this.steps });
    this.error = typeof error === "string" ? error : (error?.message ?? null);
    this.field = error?.param ?? null;
    this.refused = error?.type === "invalid_request_error"; // something in the form is wrong
  }
}

/** All jobs of this tab, the oldest first. `changed(job)` is called after every change of one. */
export class Jobs {
  constructor(changed) {
    this.changed = changed;
    this.list = [];
    this.following = 0;
  }

  /** Those that have not ended. */
  get pending() {
    return this.list.filter((job) => !job.ended);
  }

  /** Sends an order.
   *
   * Throws ApiError where the server does not take it. */
  async add(order, { values, source, mask }) {
    const answer = await api.submit(order);
    const job = new Job({ id: answer.id, values, source, mask });
    job.told(answer);
    this.#take(job);
    return job;
  }

  /** Asks for the jobs that this tab sent before it was loaded again. */
  async resume() {
    let remembered = [];
    try {
      remembered = JSON.parse(sessionStorage.getItem(REMEMBERED) ?? "[]");
    } catch {
      // Written by another version of the page
    }
    for (const kept of remembered) {
      const job = new Job(kept);
      try {
        job.told(await api.job(kept.id));
      } catch {
        continue; // the server does not have it any more
      }
      if (job.state === "done") {
        this.list.push(job);
        await this.#fetchPictures(job);
      } else {
        this.#take(job);
      }
    }
    this.#remember();
  }

  #take(job) {
    this.list.push(job);
    this.#remember();
    this.changed(job);
    this.#followNext();
  }

  /** Ends a job that has not ended. */
  async cancel(job) {
    job.cancelling = true;
    this.changed(job);
    try {
      await api.cancel(job.id);
    } catch (error) {
      if (error.status !== 404 && error.status !== 410) throw error;
    }
  }

  /** Leaves a job out of the list. */
  dismiss(job) {
    this.list = this.list.filter((other) => other !== job);
    this.#remember();
    this.changed(job);
  }

  #remember() {
    const kept = this.list.filter(({ state }) => state !== "failed" && state !== "cancelled").slice(-MOST);
    const texts = kept.map(({ id, values }) => ({ id, values }));
    sessionStorage.setItem(REMEMBERED, JSON.stringify(texts));
  }

  #followNext() {
    for (const job of this.pending) {
      if (this.following >= STREAMS) return;
      if (job.followed) continue;
      job.followed = true;
      this.following += 1;
      this.#follow(job).finally(() => {
        this.following -= 1;
        this.#followNext();
        this.#askForPlaces();
      });
    }
  }

  /** Those that wait unfollowed are told their places whenever another one has ended. */
  async #askForPlaces() {
    const waiting = this.pending.filter(({ followed }) => !followed);
    if (!waiting.length) return;
    try {
      const told = new Map((await api.jobs()).map((answer) => [answer.id, answer]));
      for (const job of waiting.filter(({ id, followed }) => !followed && told.has(id))) {
        job.position = told.get(job.id).position;
        this.changed(job);
      }
    } catch {
      // Each is followed in its turn, and whatever is wrong is said then
    }
  }

  async #follow(job) {
    for (let tries = 0; !job.ended && tries < TRIES; tries += 1) {
      if (tries) await pause(tries / 2);
      try {
        for await (const [name, data] of api.events(job.id, job.aborter.signal)) {
          tries = 0;
          this.#heard(job, name, data);
        }
      } catch (error) {
        if (error.status === 404 || error.status === 410) {
          this.#end(job, "expired", "The server does not know this job any more.");
        }
      }
    }
    if (!job.ended) this.#end(job, "failed", "The server does not answer any more.");
    if (job.state === "done") await this.#fetchPictures(job);
    this.#remember();
  }

  #heard(job, name, data) {
    if (name === "preview") {
      Object.assign(job, { step: data.step, steps: data.steps, previews: data.images });
    } else {
      job.told({ ...data, state: data.state ?? name });
    }
    // The pictures of a job that is done are fetched before it is shown
    if (job.state !== "done") this.changed(job);
  }

  #end(job, state, error) {
    Object.assign(job, { state, error });
    this.changed(job);
  }

  async #fetchPictures(job) {
    const count = job.values.num_images_per_prompt || 1;
    try {
      for (let index = 0; index < count; index += 1) {
        const blob = await api.picture(job.id, index);
        const text = (await parametersOf(blob)) ?? "";
        const url = URL.createObjectURL(blob);
        job.pictures.push({ job, index, blob, url, text, settings: parsed(text), seed: job.values.seed + index });
      }
    } catch (error) {
      job.error = error.message;
      if (!job.pictures.length) job.state = "failed";
    }
    job.previews = [];
    this.changed(job);
  }
}
