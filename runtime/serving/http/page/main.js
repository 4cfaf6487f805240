// The page: form, easel, jobs and the large view, put together.

import * as api from "./api.js";
import { Easel } from "./easel.js";
import { $, counted, say } from "./elements.js";
import { Form, clearProblems, fitHeight, showProblem } from "./form.js";
import { Jobs } from "./jobs.js";
import { Gallery, Queue } from "./lists.js";
import { Mask } from "./mask.js";
import { served } from "./options.js";
import { orderFrom } from "./order.js";
import { parsed, valuesFrom } from "./parameters.js";
import { parametersOf } from "./png_text.js";
import { sourceFrom } from "./source.js";
import { Stage } from "./stage.js";

const FORM = "latentrt.form";
const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);

const stage = new Stage();
const gallery = new Gallery((picture) => look(picture));
const jobs = new Jobs(jobChanged);
const queue = new Queue({ show: lookAtJob, cancel, dismiss: (job) => jobs.dismiss(job) });
const easel = new Easel(sourceChanged);
let form = null;
let follows = true; // whether the large view goes on to what is drawn next
let sending = false;

// --- signing in ---------------------------------------------------------------------------------------------------

api.whenTokenIsAsked((wrong) => {
  const dialog = $("sign-in");
  $("sign-in-problem").hidden = !wrong;
  $("token").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve($("token").value.trim() || null), { once: true });
  });
});

// --- drawing ------------------------------------------------------------------------------------------------------

async function draw() {
  if (sending || form === null) return;
  clearProblems();
  sending = true;
  $("draw").setAttribute("aria-busy", "true");
  try {
    if (form.problem) {
      showProblem(...form.problem);
      return;
    }
    const begun = { values: form.values(), source: easel.source, mask: easel.mask };
    const order = await orderFrom(begun.values, begun.source, begun.mask);
    const job = await jobs.add(order, begun);
    follows = true;
    if (jobs.pending[0] === job) lookAtJob(job);
    say("Sent");
    goToStage();
  } catch (error) {
    told(error);
  } finally {
    sending = false;
    $("draw").removeAttribute("aria-busy");
  }
}

/** Shows an error that a person can do something about; others are faults of the page, and go on. */
function told(error) {
  if (!(error instanceof api.ApiError)) throw error;
  showProblem(error.message, error.field);
}

async function cancel(job) {
  try {
    await jobs.cancel(job);
  } catch (error) {
    told(error);
  }
}

function cancelRunning() {
  const job = jobs.pending.find(({ cancelling }) => !cancelling);
  if (job) cancel(job);
}

function jobChanged(job) {
  $("cancel").hidden = !jobs.pending.length;
  if (job.state === "done") {
    gallery.add(job.pictures);
    if (stage.shown === job || (follows && stage.shown === null)) showPicture(job.pictures[0]);
    say(`Done: ${counted(job.pictures.length, "picture")}`);
  } else if (job.ended) {
    if (stage.shown === job) leave();
    if (job.state === "cancelled") say("Cancelled");
    else if (job.refused && jobs.list.includes(job)) {
      showProblem(api.sentence(job.error), job.field);
      jobs.dismiss(job);
    }
  } else if (stage.shown === job || (follows && job.state === "running" && !jobs.pending.includes(stage.shown))) {
    stage.showJob(job);
    gallery.mark(null);
  }
  queue.show(jobs.list, stage.shown);
  document.title = titleNow();
}

function titleNow() {
  const [running] = jobs.pending;
  return running?.steps ? `${Math.round((100 * running.step) / running.steps)} % · latentrt` : "latentrt";
}

/** Shows something else in the place of a job that ended without pictures. */
function leave() {
  const [next] = jobs.pending;
  if (next) stage.showJob(next);
  else if (stage.lastPicture) showPicture(stage.lastPicture);
  else stage.clear();
}

/** Where the page is one column, the picture is below the form. */
function goToStage() {
  if (!matchMedia("(max-width: 52rem)").matches) return;
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  $("stage").scrollIntoView({ block: "start", behavior });
}

function lookAtJob(job) {
  if (job.ended) return;
  follows = true;
  stage.showJob(job);
  queue.show(jobs.list, job);
  gallery.mark(null);
}

function look(picture) {
  follows = false;
  showPicture(picture);
  goToStage();
}

function showPicture(picture) {
  stage.showPicture(picture);
  queue.show(jobs.list, picture);
  gallery.mark(picture);
}

// --- the picture shown --------------------------------------------------------------------------------------------

$("again").onclick = () => {
  const { job, seed } = stage.picture;
  form.fill({ ...job.values, seed, num_images_per_prompt: 1 });
  easel.show(job.source, job.mask ?? undefined);
  remember();
  say("The form has the settings of this picture");
  $("prompt").focus();
};
$("as-image").onclick = () => takeImage(stage.picture.blob, `seed ${stage.picture.seed}`);
$("keep-seed").onclick = () => {
  $("seed").value = stage.picture.seed;
  remember();
};
$("copy").onclick = async () => {
  await navigator.clipboard.writeText(stage.picture.text);
  say("Copied");
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy settings"), 1500);
};
$("copy").hidden = !navigator.clipboard;

// --- image and mask -----------------------------------------------------------------------------------------------

async function takeImage(file, name) {
  $("start").open = true;
  $("file-problem").hidden = true;
  try {
    easel.show(await sourceFrom(file, name));
  } catch {
    $("file-problem").textContent = `${name} is no image that this browser can read. Choose a PNG, JPEG or WebP.`;
    $("file-problem").hidden = false;
    return;
  }
  say(`${name} is the image to start from`);
  $("start").scrollIntoView({ block: "nearest" });
}

function sourceChanged() {
  const { source, mask } = easel;
  $("editor").hidden = source === null;
  $("drop").hidden = source !== null;
  $("start-note").textContent = source === null ? "" : mask.empty ? "image" : "image and mask";
  $("only-masked-line").hidden = $("masked-content-field").hidden = mask.empty;
  $("hires-section").hidden = source !== null; // the server enlarges what it draws from a prompt alone
  if (source === null || form === null) return;
  const part = mask.empty ? "The whole image is drawn anew. Paint over a part to keep the rest." : "What is painted is drawn anew, the rest is kept.";
  const whole = $("only_masked").checked && !mask.empty;
  const cut = !whole && source.isCutTo(form.size) ? ` The middle of the image is used, as its proportions are not those of the size.` : "";
  $("canvas-hint").textContent = part + cut;
}

$("file").onchange = () => {
  const [file] = $("file").files;
  $("file").value = ""; // so that the same file may be chosen again
  if (file) takeImage(file, file.name);
};
$("remove-image").onclick = () => {
  easel.show(null);
  $("file").focus();
};

/** A file that was dropped: settings where it has them and it was not dropped on the image's place. */
async function takeDropped(file, onImage) {
  const settings = onImage ? null : parsed((await parametersOf(file)) ?? "");
  if (settings === null) {
    takeImage(file, file.name);
    return;
  }
  form.fill(valuesFrom(settings, form.served));
  remember();
  say(`The form has the settings of ${file.name}`);
  $("prompt").focus();
}

document.addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
for (const name of ["dragleave", "drop", "dragend"]) {
  document.addEventListener(name, (event) => {
    if (name !== "dragleave" || !event.relatedTarget) document.body.classList.remove("dragging");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (!file) return;
  event.preventDefault();
  if (form) takeDropped(file, Boolean(event.target.closest?.("#start")));
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (!file) return;
  event.preventDefault();
  takeImage(file, "The pasted image");
});

// --- keyboard -----------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if ($("sign-in").open || event.isComposing) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    draw();
  } else if (event.key === "Escape" && event.target.tagName !== "SELECT") {
    cancelRunning();
  }
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
$("cancel").onclick = cancelRunning;
$("draw-key").textContent = APPLE ? "⌘ ↵" : "Ctrl ↵";
for (const id of ["prompt", "negative_prompt"]) $(id).addEventListener("input", () => fitHeight($(id)));

// --- what is kept until the tab is closed -------------------------------------------------------------------------

function remember() {
  if (form === null) return;
  sessionStorage.setItem(FORM, JSON.stringify({ ...form.values(), seed: form.seed }));
  sourceChanged();
}

function restore() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(FORM));
    if (kept) form.fill(kept);
  } catch {
    sessionStorage.removeItem(FORM);
  }
}

async function begin() {
  sourceChanged();
  try {
    const offered = served(await api.options());
    form = new Form(offered, remember);
    const names = offered.models.map(({ name }) => name);
    $("server").textContent = names.length > 1 ? "" : names[0]; // of several the form shows which
  } catch (error) {
    $("server").textContent = "";
    told(error);
    return;
  }
  restore();
  await jobs.resume();
}

begin();
