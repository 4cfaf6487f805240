// The image that a drawing starts from: read, cut and sent.

import { canvasOf } from "./mask.js";

const LONGEST = 2048; // pixels of the longer side; what is larger is reduced before it is sent
const AS_PNG = 1.5e6; // pixels up to which it is sent without loss

/** An image: its file, its name, and what it looks like. */
export class Source {
  constructor(blob, name, bitmap) {
    this.blob = blob;
    this.name = name;
    this.bitmap = bitmap;
  }

  get width() {
    return this.bitmap.width;
  }

  get height() {
    return this.bitmap.height;
  }

  /** The part, in pixels, that has the proportions of a size; the whole where the size is null. */
  part(size) {
    if (size === null) return { x: 0, y: 0, width: this.width, height: this.height };
    const scale = Math.min(this.width / size.width, this.height / size.height);
    const width = Math.round(size.width * scale);
    const height = Math.round(size.height * scale);
    return { x: Math.floor((this.width - width) / 2), y: Math.floor((this.height - height) / 2), width, height };
  }

  /** Whether a size of these proportions leaves part of it out. */
  isCutTo(size) {
    const { width, height } = this.part(size);
    return width < this.width || height < this.height;
  }

  /** The image and, unless it is empty, the mask for a size, as data URLs. */
  async sent(mask, size) {
    const part = this.part(size);
    const { x, y, width, height } = part;
    const cut = size !== null && this.isCutTo(size);
    const exact = !cut && this.blob.type === "image/png" && this.unreduced;
    const image = exact ? this.blob : await blobOf(cutOf(this.bitmap, part), width * height);
    if (mask.empty) return { image: await dataUrl(image) };
    const masked = cutOf(mask.picture(this.width, this.height), { x, y, width, height });
    return { image: await dataUrl(image), mask_image: await dataUrl(await blobOf(masked, 0)) };
  }
}

/** Reads an image file.
 *
 * Throws where the browser cannot read it. */
export async function sourceFrom(blob, name) {
  const whole = await createImageBitmap(blob);
  const scale = Math.min(1, LONGEST / Math.max(whole.width, whole.height));
  const size = { resizeWidth: Math.round(whole.width * scale), resizeHeight: Math.round(whole.height * scale) };
  const bitmap = scale < 1 ? await createImageBitmap(whole, { ...size, resizeQuality: "high" }) : whole;
  const source = new Source(blob, name, bitmap);
  source.unreduced = scale === 1;
  return source;
}

function cutOf(picture, { x, y, width, height }) {
  const canvas = canvasOf(width, height);
  canvas.getContext("2d").drawImage(picture, x, y, width, height, 0, 0, width, height);
  return canvas;
}

function blobOf(canvas, pixels) {
  const type = pixels > AS_PNG ? "image/jpeg" : "image/png";
  return new Promise((resolve) => canvas.toBlob(resolve, type, 0.95));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
