// A mask: what was done with brush and eraser, in the order in which it was done.
// Places are parts of the picture's width and height, 0 to 1; sizes are parts of its longer side.

/** A mask that is drawn at any size. Its operations are never changed, only added and left out. */
export class Mask {
  constructor(operations = []) {
    this.operations = operations;
  }

  with(operation) {
    return new Mask([...this.operations, operation]);
  }

  withoutLast() {
    return new Mask(this.operations.slice(0, -1));
  }

  /** Paints it onto an empty canvas: opaque in `color` where the mask is. */
  paint(context, color) {
    const { width, height } = context.canvas;
    context.clearRect(0, 0, width, height);
    for (const operation of this.operations) {
      context.save();
      context.fillStyle = color;
      if (operation.kind === "clear") context.clearRect(0, 0, width, height);
      else if (operation.kind === "invert") {
        context.globalCompositeOperation = "xor";
        context.fillRect(0, 0, width, height);
      } else paintStroke(context, operation, color);
      context.restore();
    }
  }

  /** Whether nothing is masked. */
  get empty() {
    if (!this.operations.length) return true;
    const context = canvasOf(64, 64).getContext("2d", { willReadFrequently: true });
    this.paint(context, "#fff");
    return !context.getImageData(0, 0, 64, 64).data.some((value) => value > 127);
  }

  /** A canvas in white on black, as the server reads it. */
  picture(width, height) {
    const layer = canvasOf(width, height);
    this.paint(layer.getContext("2d"), "#fff");
    const canvas = canvasOf(width, height);
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.drawImage(layer, 0, 0);
    return canvas;
  }
}

/** Paints the part of a stroke that begins at the point `from`. */
export function paintStroke(context, { erases, size, points }, color, from = 0) {
  const { width, height } = context.canvas;
  context.save();
  context.globalCompositeOperation = erases ? "destination-out" : "source-over";
  context.strokeStyle = context.fillStyle = color;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = size * Math.max(width, height);
  const [first, ...others] = points.slice(from).map(([x, y]) => [x * width, y * height]);
  context.beginPath();
  if (others.length) {
    context.moveTo(...first);
    for (const point of others) context.lineTo(...point);
    context.stroke();
  } else {
    context.arc(...first, context.lineWidth / 2, 0, 2 * Math.PI); // a line to where it begins would leave nothing
    context.fill();
  }
  context.restore();
}

/** A canvas that is not on the page. */
export function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}
